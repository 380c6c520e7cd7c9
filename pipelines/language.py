"""Which language a text is in, by py3langid: 97 languages, the model comes with the package. This file knows no Beam."""

import dataclasses
import functools

from pipelines.document import Document, Element, Rejection

# What py3langid is given: its answer rarely changes after this much, and its cost is linear.
_CHARACTERS = 4000


@functools.cache
def _identifier():
    from py3langid import langid

    return langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE, norm_probs=True)


def identify(text: str) -> tuple[str, float]:
    """(ISO 639-1 code, probability in [0, 1]) of a text, from its beginning and its middle."""
    if len(text) > 2 * _CHARACTERS:
        middle = len(text) // 2
        text = text[:_CHARACTERS] + " " + text[middle : middle + _CHARACTERS]
    language, probability = _identifier().classify(text)
    return language, round(float(probability), 4)


@dataclasses.dataclass(frozen=True)
class Identify:
    """Adds metadata `language` and `language_score`.

    languages: codes to keep, all where empty; others are rejected as `language.unwanted`.
    min_score: least probability, below it `language.uncertain`.
    """

    languages: tuple[str, ...] = ()
    min_score: float = 0.0

    def prepare(self) -> None:
        _identifier()

    def __call__(self, document: Document) -> Element:
        language, score = identify(document.text)
        document = document.with_metadata(language=language, language_score=score)
        if self.languages and language not in self.languages:
            return Rejection(document, "language.unwanted", language)
        if score < self.min_score:
            return Rejection(document, "language.uncertain", str(score))
        return document
