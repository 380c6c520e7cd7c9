"""A linear model of text on hashed n-grams: the quality or safety classifier, its scores, its files.

    model = linear_model.load("models/quality")        # a folder of two files; verified, never unpickled
    model.score(text)                                  # probability in [0, 1] that the text is like the reference

The features of a text are its distinct runs of one and two tokens (pipelines/text/tokenized_text.py, so case, accents
and punctuation are ignored). Each run is hashed to `bits` bits. Each of the n features of a text has the value 1 /
sqrt(n), so every text is a unit vector. Of a long text the features with the smallest hashes are taken, a sample of the
whole text. This is the model of fastText's classifiers (Joulin et al. 2017, arXiv 1607.01759) without the hidden layer,
which for two classes adds nothing to a linear model.

Weights are 16-bit integers times a step. Their sum is exact in any order, so a text has the same score on every
machine. Example: weights 300 and -100, step 0.01 and bias 0.5 give log-odds of 200 * 0.01 / sqrt(2) + 0.5 = 1.91.

    weights.bin      int16, little-endian, 2**bits values
    manifest.json    kind, format, features and their version, step, bias, side and threshold to keep, size and SHA-256
                     of the weights, how the model was made and measured

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
"""Version of the features. Another version of features or tokenization gives other buckets: old models are invalid."""

MANIFEST, WEIGHTS = "manifest.json", "weights.bin"
HIGH, LOW = "high", "low"
DIGITS = 6
"""Decimal places of a score, in metadata and in thresholds."""

_MAX_BITS = 26
_NUMBER = np.uint64(key64("a number"))


@dataclasses.dataclass(frozen=True)
class Features:
    """How a text becomes buckets.

    bits: the buckets are 2**bits.

    order: runs of 1 to `order` tokens.

    most: maximum number of features per text.

    numbers: distinguish numbers. By default all numbers are the same token; otherwise the years alone would separate a
        news site from last year's crawl.
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
        """Hashes of the tokens with numbers folded as configured, [tokens] uint64."""
        return (
            tokenized.token_hashes
            if self.numbers
            else np.where(tokenized.token_is_number, _NUMBER, tokenized.token_hashes)
        )

    def buckets(self, hashes: np.ndarray) -> np.ndarray:
        """The buckets of hashes of runs, int64: the lowest bits, since the highest bits decided which features were
        taken.
        """
        return (hashes & np.uint64((1 << self.bits) - 1)).astype(np.int64)


@dataclasses.dataclass(frozen=True, eq=False)
class LinearModel:
    """A fitted and calibrated model.

    features: how a text becomes buckets.

    weights: [2**bits] int16.

    step: log-odds per unit of weight, calibration included.

    bias: log-odds.

    keep: HIGH if good texts score high (quality), LOW if bad texts do (safety).

    threshold: last score that still passes.

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
        """Probability in [0, 1], rounded to DIGITS decimals. A text without tokens gets the bias alone."""
        return self.score_of(self.features.of(text))

    def score_of(self, buckets: np.ndarray) -> float:
        """The score of a text, from its buckets."""
        return round(probability(self.odds_of(buckets)), DIGITS)

    def odds_of(self, buckets: np.ndarray) -> float:
        """The log-odds of a text, from its buckets."""
        total = int(self.weights[buckets].sum(dtype=np.int64))
        return total * self.step / math.sqrt(max(len(buckets), 1)) + self.bias

    def passes(self, score: float, threshold: float | None = None) -> bool:
        """Whether a score is on the side to keep of the model's threshold, or of the given one."""
        threshold = self.threshold if threshold is None else threshold
        return score >= threshold if self.keep == HIGH else score <= threshold

    def save(self, directory: str) -> None:
        """Writes the model to a folder, the manifest last."""
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
    """The logistic function of log-odds, without overflow. Example: 0.0 gives 0.5."""
    return 1.0 / (1.0 + math.exp(-odds)) if odds >= 0 else math.exp(odds) / (1.0 + math.exp(odds))


def quantise(weights: np.ndarray) -> tuple[np.ndarray, float]:
    """float64 weights -> (int16 weights, step). The step is the smallest power of two for which the largest weight
    fits.

    Example: [1.0, -0.25] gives a step of 2**-14 and the weights [16384, -4096].
    """
    largest = float(np.abs(weights).max(initial=0.0))
    step = 2.0 ** (math.ceil(math.log2(largest / 32767)) if largest else 0)
    return np.rint(weights / step).astype(np.int16), step


def load(directory: str) -> LinearModel:
    """Loads a model from its folder.

    Raises CorpusError for a model that is missing, damaged, or made with other features than this version computes.
    """
    path = storage.join(directory, MANIFEST)
    if not storage.exists(path):
        raise CorpusError(
            f"no model at {directory}: the folder has no {MANIFEST}.",
            "Make one with castor data quality-train, or correct the path.",
        )
    try:
        manifest = storage.read_json(path)
        if manifest["kind"] != KIND or manifest["format"] != FORMAT:
            raise ValueError(f"kind {manifest['kind']!r}, format {manifest['format']!r} instead of {KIND!r}, {FORMAT}")
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
            f"the model {directory} has features version {versions[0]} on tokenization version {versions[1]}; "
            f"this version of Castor has {VERSION} and {tokenized_text.VERSION}.",
            "Make the model again.",
        )
    weights = storage.join(directory, WEIGHTS)
    expected = 2 << features.bits
    found = storage.size(weights) if storage.exists(weights) else -1
    if size != expected or found != expected or storage.sha256(weights) != digest:
        raise CorpusError(
            f"{weights} does not match its manifest ({found} bytes, expected {expected}).", "Make the model again."
        )
    return LinearModel(
        features, np.frombuffer(storage.read_bytes(weights), "<i2"), step, bias, manifest["keep"], threshold, manifest
    )


@lists.kept
def cached(directory: str) -> LinearModel:
    """`load`, once per job."""
    return load(directory)


def _finite(value: Any) -> float:
    if not is_number(value):
        raise ValueError(f"{value!r} is not a finite number")
    return float(value)


def _whole(value: Any) -> int:
    if not is_integer(value):
        raise ValueError(f"{value!r} is not an integer")
    return value
