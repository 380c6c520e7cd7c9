"""Scores pages with a linear model and rejects those on the wrong side of its threshold: quality and safety alike.

    web.Job.filters = [..., @quality_model.Classify()]                    score and reject, in one line
    quality_model.Classify.model = "models/quality"

    web.Job.filters = [..., @quality_model.Score(), @safety/quality_model.Classify()]       two models in one job
    safety/quality_model.Classify.model = "models/safety"
    safety/quality_model.Classify.label = "safety"

`castor data quality-train` (pipelines/quality_train.py) makes a model and derives its threshold from the share of the
web sample to keep. The model records whether high or low scores are good. Rules and models filter a page in the same
pass, each with its own reason code. The score stays in the metadata.
"""

import dataclasses

import gin
from castor.pipelines.document import Document, Element, Rejection
from castor.pipelines.filters.reason import Reason
from castor.pipelines.quality import linear_model
from castor.tasks.storage import storage


@dataclasses.dataclass(frozen=True)
class _Model:
    """Settings that scoring and filtering share.

    model: folder of the model.

    label: names the metadata field `LABEL_score` and the reason `LABEL_model.score`.

    threshold: last score that still passes; None for the model's own threshold.
    """

    model: str
    label: str = "quality"
    threshold: float | None = None

    @property
    def name(self) -> str:
        return f"{self.label}_model"

    def reads(self) -> dict[str, str]:
        path = storage.join(self.model, linear_model.MANIFEST)  # contains the checksum of the weights
        return {path: path} if storage.exists(path) else {}

    def prepare(self) -> None:
        linear_model.cached(self.model)

    def score(self, document: Document) -> float:
        return linear_model.cached(self.model).score(document.text or "")

    def reject_reason(self, score: float) -> str | None:
        return (
            None
            if linear_model.cached(self.model).passes(score, self.threshold)
            else Reason(f"{self.name}.score", score)
        )


@gin.configurable(module="quality_model")
@dataclasses.dataclass(frozen=True)
class Score(_Model):
    """Document -> the Document with its score in the metadata."""

    def __call__(self, document: Document) -> Element:
        return document.with_metadata(**{f"{self.label}_score": self.score(document)})


@gin.configurable(module="quality_model")
@dataclasses.dataclass(frozen=True)
class Classify(_Model):
    """Document -> the Document with its score, or a Rejection that also carries the score."""

    def __call__(self, document: Document) -> Element:
        score = self.score(document)
        document, reason = document.with_metadata(**{f"{self.label}_score": score}), self.reject_reason(score)
        return document if reason is None else Rejection(document, str(reason), reason.measure)


@gin.configurable(module="quality_model")
@dataclasses.dataclass(frozen=True)
class Filter(_Model):
    """Rejects by the score in the metadata; scores the text if the metadata has none."""

    def check(self, document: Document) -> str | None:
        score = document.metadata.get(f"{self.label}_score")
        return self.reject_reason(self.score(document) if score is None else score)
