"""Identifies the language of a text, with a calibrated probability. This file knows no Beam.

A script that only one language uses decides by itself: Hangul, kana, Thai, Greek and others. Otherwise py3langid
decides, a naive Bayes classifier over byte n-grams whose model comes with the package.

py3langid's score of a language is a log-likelihood that treats n-grams as independent. They are not, so its
probabilities need a temperature T: p = softmax(score / T). For b bytes, T = min(b, sqrt(200 b)) / sqrt(200). Example:
50 bytes give T = 50 / 14.1 = 3.5, and 800 bytes give T = 400 / 14.1 = 28.3.

For long texts that is the square root of the length, py3langid's own rule. Below 200 bytes T is proportional to the
length: there the square root gives a confidence of 0.48 where 0.69 of the answers are right. The constant 200 was
measured, not trained. benchmarks/web/language.py prints accuracy, mean confidence and expected calibration error by
length of text, for both rules.

Of a long text four slices are scored, from start to end: the cost is linear, and the answer hardly changes beyond a
thousand characters.
"""

import dataclasses
import math

import numpy as np

from castor.pipelines.document import Document, Element, Rejection
from castor.pipelines.text import language_scores

_SLICES, _SLICE = 4, 160
_SHORT_BYTES = 200.0

_SCRIPTS = {
    "el": ((0x370, 0x400), (0x1F00, 0x2000)),
    "hy": ((0x530, 0x590),),
    "pa": ((0xA00, 0xA80),),
    "gu": ((0xA80, 0xB00),),
    "or": ((0xB00, 0xB80),),
    "ta": ((0xB80, 0xC00),),
    "te": ((0xC00, 0xC80),),
    "kn": ((0xC80, 0xD00),),
    "ml": ((0xD00, 0xD80),),
    "si": ((0xD80, 0xE00),),
    "th": ((0xE00, 0xE80),),
    "lo": ((0xE80, 0xF00),),
    "bo": ((0xF00, 0x1000),),
    "my": ((0x1000, 0x10A0),),
    "ka": ((0x10A0, 0x1100),),
    "km": ((0x1780, 0x1800),),
    "ko": ((0x1100, 0x1200), (0x3130, 0x3190), (0xAC00, 0xD7B0)),
    "ja": ((0x3041, 0x3100), (0x31F0, 0x3200), (0xFF66, 0xFFA0)),
    "zh": ((0x3400, 0x4DC0), (0x4E00, 0xA000), (0xF900, 0xFB00), (0x20000, 0x32000)),
    "": (
        (0x41, 0x5B),
        (0x61, 0x7B),
        (0xC0, 0x370),
        (0x400, 0x530),
        (0x590, 0xA00),
        (0x1200, 0x1780),
        (0x1800, 0x1F00),
    ),  # letters of scripts that several languages share
}
_NAMES = tuple(_SCRIPTS)
_WEIGHTS = np.array([2.5 if name in ("ja", "ko", "zh") else 1.0 for name in _NAMES])
"""Number of alphabet letters that carry as much text as one character of the script."""
_BOUNDS, _OWNERS = (np.array(column) for column in zip(*sorted(
    (edge, owner)
    for i, name in enumerate(_NAMES)
    for begin, end in _SCRIPTS[name]
    for edge, owner in ((begin, i), (end - 0.5, -1))
)))  # fmt: skip
_JAPANESE_KANA = 0.1
_BY_SCRIPT = 0.99


def identify(text: str) -> tuple[str, float]:
    """(ISO 639 code, probability in [0, 1]) of a text; ("und", 0.0) for a text without letters."""
    text = sample(text)
    language, share = by_script(text)
    if share == 0.0:
        return "und", 0.0
    if language and share >= 0.5:
        return language, _BY_SCRIPT
    model = language_scores.scores()
    scores = model.of(text).astype(np.float64)
    best = int(scores.argmax())
    shares = np.exp((scores - scores[best]) / temperature_of(len(text.encode("utf-8", "surrogatepass"))))
    return model.languages[best], round(1.0 / float(shares.sum()), 4)


def sample(text: str) -> str:
    """The part of a text that is scored: all of a short text, else four equally spaced slices."""
    if len(text) <= _SLICES * _SLICE:
        return text
    step = (len(text) - _SLICE) / (_SLICES - 1)
    return " ".join(text[int(i * step) : int(i * step) + _SLICE] for i in range(_SLICES))


def by_script(text: str) -> tuple[str, float]:
    """(language, share) of the most frequent script of a text.

    The language is empty if several languages share the script. The share is 0 for a text without letters.
    """
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
    owners = _OWNERS[np.searchsorted(_BOUNDS, codes, side="right") - 1]
    counts = np.bincount(owners[owners >= 0], minlength=len(_NAMES)) * _WEIGHTS
    total = float(counts.sum())
    if not total:
        return "", 0.0
    kana, chinese = _NAMES.index("ja"), _NAMES.index("zh")
    japanese = counts[kana] >= _JAPANESE_KANA * (counts[kana] + counts[chinese])
    counts[kana if japanese else chinese] += counts[chinese if japanese else kana]
    counts[chinese if japanese else kana] = 0.0
    best = int(counts.argmax())
    return _NAMES[best], float(counts[best]) / total


def temperature_of(length: int) -> float:
    """The temperature for the scores of a text of `length` bytes. Example: 800 bytes give 28.3."""
    return max(1.0, min(length, math.sqrt(_SHORT_BYTES * length)) / math.sqrt(_SHORT_BYTES))


@dataclasses.dataclass(frozen=True)
class Identify:
    """Adds metadata `language` and `language_score`.

    languages: codes to keep, all if empty; other languages are rejected as `language.unwanted`.

    min_score: minimum probability; lower ones are rejected as `language.uncertain`.
    """

    languages: tuple[str, ...] = ()
    min_score: float = 0.0

    def prepare(self) -> None:
        language_scores.scores()

    def __call__(self, document: Document) -> Element:
        language, score = identify(document.text)
        document = document.with_metadata(language=language, language_score=score)
        if self.languages and language not in self.languages:
            return Rejection(document, "language.unwanted", language)
        if score < self.min_score:
            return Rejection(document, "language.uncertain", f"{language} {score:.4g}")
        return document
