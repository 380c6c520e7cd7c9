"""What a model says of a page, kept in its metadata, and pages turned away by it: quality and safety alike, the model says which end is good.

    web.Job.filters = [..., @quality_model.Classify()]                    score and reject, one line
    quality_model.Classify.model = "models/quality"

    web.Job.filters = [..., @quality_model.Score(), @safety/quality_model.Classify()]       two models side by side
    safety/quality_model.Classify.model = "models/safety"
    safety/quality_model.Classify.label = "safety"

A model is made by `castor data quality-train` (pipelines/quality_train.py), and its threshold with it, from the share of the web sample to keep.
Rules and models judge one page side by side in one pass, each with its own code, and the score stays beside what the rules left.
"""

import dataclasses

import gin
from castor.pipelines.document import Document, Element, Rejection
from castor.pipelines.filters.reason import Reason
from castor.pipelines.quality import linear_model
from castor.tasks.storage import storage


@dataclasses.dataclass(frozen=True)
class _Model:
    """model: folder of the model. label: the score is the metadata `LABEL_score`, the reason `LABEL_model.score`.

    threshold: the score that still passes; None: the model's own.
    """

    model: str
    label: str = "quality"
    threshold: float | None = None

    @property
    def name(self) -> str:
        return f"{self.label}_model"

    def reads(self) -> dict[str, str]:
        path = storage.join(self.model, linear_model.MANIFEST)  # which names the weights by their checksum
        return {path: path} if storage.exists(path) else {}

    def prepare(self) -> None:
        linear_model.cached(self.model)

    def score(self, document: Document) -> float:
        return linear_model.cached(self.model).score(document.text or "")

    def judge(self, score: float) -> str | None:
        return (
            None
            if linear_model.cached(self.model).passes(score, self.threshold)
            else Reason(f"{self.name}.score", score)
        )


@gin.configurable(module="quality_model")
@dataclasses.dataclass(frozen=True)
class Score(_Model):
    """Document -> the Document with its score."""

    def __call__(self, document: Document) -> Element:
        return document.with_metadata(**{f"{self.label}_score": self.score(document)})


@gin.configurable(module="quality_model")
@dataclasses.dataclass(frozen=True)
class Classify(_Model):
    """Document -> the Document with its score, or a Rejection of it (with its score too)."""

    def __call__(self, document: Document) -> Element:
        score = self.score(document)
        document, reason = document.with_metadata(**{f"{self.label}_score": score}), self.judge(score)
        return document if reason is None else Rejection(document, str(reason), reason.measure)


@gin.configurable(module="quality_model")
@dataclasses.dataclass(frozen=True)
class Filter(_Model):
    """A filter on a score that is in the metadata already, or on the text where it is not."""

    def check(self, document: Document) -> str | None:
        score = document.metadata.get(f"{self.label}_score")
        return self.judge(self.score(document) if score is None else score)
