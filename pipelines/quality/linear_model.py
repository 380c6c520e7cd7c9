"""A linear model of text on hashed n-grams: what a quality or a safety classifier is here, how it scores, how it lies on disk.

    model = linear_model.load("models/quality")        # a folder of two files; checked, never unpickled
    model.score(text)                                  # probability in [0, 1] that the text is of the reference's kind

Features are the different runs of one and two tokens of a text (pipelines/text/tokenized_text.py: folded, so neither case nor accents nor punctuation count), each a
hash cut to `bits` bits; every feature a text has counts 1 / sqrt(how many it has), so texts of any length are vectors of length one. Of a long
text the features with the smallest hashes are taken, a sample of the whole of it. This is the model of fastText's classifiers (Joulin et al. 2017,
arXiv 1607.01759) without its hidden layer, which for two classes adds nothing to what a linear model can say.

Weights are whole numbers of 16 bits times a step, so a sum of them is exact, in whatever order: a text has the same score on every machine.

    weights.bin      int16, little-endian, 2**bits of them
    manifest.json    kind, format, features and their version, step, bias, which side to keep and from where, size and SHA-256 of the weights,
                     how it was made and measured

This file knows no Beam.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from castor.pipelines.core import lists
from castor.pipelines.text import tokenized_text
from castor.tasks.checks import is_integer, is_number
from castor.tasks.errors import CorpusError
from castor.tasks.hashing import key64
from castor.tasks.storage import storage

KIND, FORMAT = "linear_model", 1
VERSION = 1
"""Of the features: another version of these or of the tokenization makes other buckets, and a model of the old ones worthless."""

MANIFEST, WEIGHTS = "manifest.json", "weights.bin"
HIGH, LOW = "high", "low"
DIGITS = 6
"""Decimals of a score, in metadata and in thresholds."""

_MAX_BITS = 26
_NUMBER = np.uint64(key64("a number"))


@dataclasses.dataclass(frozen=True)
class Features:
    """bits: 2**bits buckets. order: runs of 1 to `order` tokens. most: features of one text.

    numbers: whether numbers differ. By default all count as the same token: else the years are what tells a news site from last year's crawl.
    """

    bits: int = 20
    order: int = 2
    most: int = 2048
    numbers: bool = False

    def of(self, text: str) -> np.ndarray:
        """Buckets of a text's features, [features] int64; empty for a text without tokens."""
        tokens = self.tokens(tokenized_text.tokenize(text))
        hashes = np.sort(np.concatenate([tokenized_text.ngrams(tokens, n) for n in range(1, self.order + 1)]))
        different = np.ones(len(hashes), bool)
        different[1:] = hashes[1:] != hashes[:-1]
        return self.buckets(hashes[different][: self.most])

    def tokens(self, tokenized: tokenized_text.TokenizedText) -> np.ndarray:
        """Hashes of the tokens as features see them, [tokens] uint64."""
        return (
            tokenized.token_hashes
            if self.numbers
            else np.where(tokenized.token_is_number, _NUMBER, tokenized.token_hashes)
        )

    def buckets(self, hashes: np.ndarray) -> np.ndarray:
        """The buckets of hashes of runs, int64: their lowest bits, since the highest ones decided which were taken."""
        return (hashes & np.uint64((1 << self.bits) - 1)).astype(np.int64)


@dataclasses.dataclass(frozen=True, eq=False)
class LinearModel:
    """weights: [2**bits] int16; step: what one unit of them weighs, calibration included; bias: of the logarithm of the odds.

    keep: HIGH where good texts score high (quality), LOW where bad ones do (safety). threshold: the score that still passes.
    manifest: the rest of the manifest.
    """

    features: Features
    weights: np.ndarray
    step: float
    bias: float
    keep: str
    threshold: float
    manifest: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def score(self, text: str) -> float:
        """Probability in [0, 1], rounded to DIGITS decimals. Of a text without tokens it is what the bias says."""
        return self.score_of(self.features.of(text))

    def score_of(self, buckets: np.ndarray) -> float:
        """The same of the buckets of a text."""
        return round(probability(self.odds_of(buckets)), DIGITS)

    def odds_of(self, buckets: np.ndarray) -> float:
        """The logarithm of the odds of it."""
        total = int(self.weights[buckets].sum(dtype=np.int64))
        return total * self.step / math.sqrt(max(len(buckets), 1)) + self.bias

    def passes(self, score: float, threshold: float | None = None) -> bool:
        """Whether a score is on the side to keep of the model's threshold, or of another one."""
        threshold = self.threshold if threshold is None else threshold
        return score >= threshold if self.keep == HIGH else score <= threshold

    def save(self, directory: str) -> None:
        """Writes the model into a folder, the manifest last."""
        data = self.weights.astype("<i2").tobytes()
        storage.makedirs(directory)
        storage.remove(storage.join(directory, MANIFEST))
        storage.write_bytes_atomic(storage.join(directory, WEIGHTS), data)
        manifest = {
            **self.manifest,
            "kind": KIND,
            "format": FORMAT,
            "features": {**dataclasses.asdict(self.features), "version": VERSION, "view": tokenized_text.VERSION},
            "step": self.step,
            "bias": self.bias,
            "keep": self.keep,
            "threshold": self.threshold,
            "weights": {
                "file": WEIGHTS,
                "bytes": len(data),
                "sha256": storage.sha256(storage.join(directory, WEIGHTS)),
            },
        }
        storage.write_json_atomic(storage.join(directory, MANIFEST), manifest)


def probability(odds: float) -> float:
    """The logistic function of a logarithm of odds, without overflow."""
    return 1.0 / (1.0 + math.exp(-odds)) if odds >= 0 else math.exp(odds) / (1.0 + math.exp(odds))


def quantise(weights: np.ndarray) -> tuple[np.ndarray, float]:
    """float64 weights -> (int16, step): the finest power of two that holds the largest of them."""
    largest = float(np.abs(weights).max(initial=0.0))
    step = 2.0 ** (math.ceil(math.log2(largest / 32767)) if largest else 0)
    return np.rint(weights / step).astype(np.int16), step


def load(directory: str) -> LinearModel:
    """A model from its folder. Raises CorpusError for one that is missing, damaged, or of features that this version does not make."""
    path = storage.join(directory, MANIFEST)
    if not storage.exists(path):
        raise CorpusError(
            f"there is no model at {directory}: it has no {MANIFEST}.",
            "Make one with castor data quality-train, or correct the path.",
        )
    try:
        manifest = storage.read_json(path)
        if manifest["kind"] != KIND or manifest["format"] != FORMAT:
            raise ValueError(f"it is of kind {manifest['kind']!r}, format {manifest['format']!r}")
        made = dict(manifest["features"])
        versions = made.pop("version"), made.pop("view")
        features = Features(*(_whole(made[name]) for name in ("bits", "order", "most")), made["numbers"] is True)
        step, bias, threshold = (_finite(manifest[name]) for name in ("step", "bias", "threshold"))
        size, digest = _whole(manifest["weights"]["bytes"]), str(manifest["weights"]["sha256"])
        if (
            manifest["keep"] not in (HIGH, LOW)
            or not 1 <= features.bits <= _MAX_BITS
            or not 1 <= features.order <= 8
            or features.most < 1
        ):
            raise ValueError("a value is out of range")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CorpusError(
            f"{path} cannot be read as a model: {type(error).__name__}: {error}.", "Make the model again."
        ) from error
    if versions != (VERSION, tokenized_text.VERSION):
        raise CorpusError(
            f"the model {directory} is of features version {versions[0]} on tokenization version {versions[1]}; here they are {VERSION} and {tokenized_text.VERSION}.",
            "Make the model again.",
        )
    weights = storage.join(directory, WEIGHTS)
    expected = 2 << features.bits
    found = storage.size(weights) if storage.exists(weights) else -1
    if size != expected or found != expected or storage.sha256(weights) != digest:
        raise CorpusError(
            f"{weights} is not what its manifest says ({found} bytes, wanted {expected}).", "Make the model again."
        )
    return LinearModel(
        features, np.frombuffer(storage.read_bytes(weights), "<i2"), step, bias, manifest["keep"], threshold, manifest
    )


@lists.kept
def cached(directory: str) -> LinearModel:
    """`load`, once a job."""
    return load(directory)


def _finite(value: Any) -> float:
    if not is_number(value):
        raise ValueError(f"{value!r} is not a finite number")
    return float(value)


def _whole(value: Any) -> int:
    if not is_integer(value):
        raise ValueError(f"{value!r} is not an integer")
    return value
