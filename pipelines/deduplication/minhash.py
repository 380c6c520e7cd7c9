"""MinHash signatures of texts, and the bands under which near duplicates meet. Pure functions; no Beam.

The shingles of a text are its runs of five tokens. Tokens ignore case, accents and punctuation
(pipelines/text/tokenized_text.py), and every number counts as 0; this matches FineWeb's text normalisation.

The signature has bands x rows entries. Each is the minimum over the shingles' hashes of one permutation, h -> a * h +
b modulo 2**32 with odd a (Broder 1997). Two texts agree in one entry with a probability equal to their Jaccard
similarity s. They meet if they agree in all rows of some band, with probability 1 - (1 - s**rows)**bands.

FineWeb (Penedo et al. 2024, arXiv 2406.17557, section 3.4): 5-grams, 14 bands of 8 rows. The probability to meet is
92% at s = 0.8, 77% at 0.75, 5% at 0.5. The Stack (Kocetkov et al. 2022, arXiv 2211.15533, and bigcode's code):
5-grams, 256 permutations, s = 0.7: `optimal_bands(0.7, 256)`.

A text of fewer than five tokens has one shingle of all its tokens, so its duplicates are texts with the same tokens.
A text without tokens, or with fewer than `min_tokens`, has no signature and no near duplicates.
"""

import dataclasses
import functools
import hashlib
import math
from collections.abc import Iterable, Iterator
from typing import ClassVar

import numpy as np

import gin
from castor.pipelines.deduplication import rules
from castor.pipelines.document import Document
from castor.pipelines.text.tokenized_text import hash_tokens, ngrams, tokenize
from castor.tasks.errors import ConfigurationError
from castor.tasks.hashing import key64, mix64

VERSION = 1

_AT_ONCE = 1 << 17  # products in memory at a time: 512 KiB, half of a usual L2 cache


@gin.configurable(module="minhash")
@dataclasses.dataclass(frozen=True)
class MinHash:
    """The rule `near`: texts that share a band are duplicates.

    bands, rows: see the module docstring.
    ngram: tokens per shingle.
    fold_numbers: every number counts as 0.
    min_tokens: texts with fewer tokens are exempt.
    seed: seed of the permutations.
    keep: which document of a cluster stays.
    rounds: see pipelines/deduplication/connected_components.py.
    """

    bands: int = 14
    rows: int = 8
    ngram: int = 5
    fold_numbers: bool = True
    min_tokens: int = 1
    seed: int = 0
    keep: rules.Order = rules.Longest()
    rounds: int = 10

    kind: ClassVar[str] = "near"
    binding: ClassVar[str] = "minhash.MinHash"

    def __post_init__(self):
        for name in ("bands", "rows", "ngram", "min_tokens", "rounds"):
            if getattr(self, name) < 1:
                raise ConfigurationError(
                    f"{self.binding}.{name} is {getattr(self, name)}.", "Give it a value of at least 1."
                )

    def signature(self, text: str) -> np.ndarray | None:
        """The MinHash signature, [bands * rows] uint32; None for an exempt text."""
        shingles = self.shingles(text)
        return minima(shingles, self.bands * self.rows, self.seed) if len(shingles) else None

    def shingles(self, text: str) -> np.ndarray:
        """Hashes of the shingles, with repeats, [shingles] uint64; empty for an exempt text."""
        tokenized = tokenize(text)
        tokens = tokenized.token_hashes
        if len(tokens) < self.min_tokens:
            return np.zeros(0, np.uint64)
        if self.fold_numbers and tokenized.token_is_number.any():
            tokens = np.where(tokenized.token_is_number, _zero(), tokens)
        return ngrams(tokens, min(self.ngram, max(1, len(tokens))))

    def keys(self, document: Document) -> list[bytes]:
        """One key per band."""
        signature = self.signature(document.text or "")
        if signature is None:
            return []
        rows = signature.astype("<u4").reshape(self.bands, self.rows)
        return [
            hashlib.blake2b(row.tobytes(), digest_size=rules.KEY_BYTES, salt=i.to_bytes(4, "little")).digest()
            for i, row in enumerate(rows)
        ]

    def payload(self, document: Document) -> bytes:
        """Empty: sharing a key is enough for a link."""
        return b""

    def links(self, bucket: Iterable[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes]]:
        """(node, payload) pairs of one key -> (node, smaller node) pairs."""
        return rules.star(_Nodes(bucket))


class _Nodes:
    """The nodes of (node, payload) pairs; can be iterated several times."""

    def __init__(self, bucket):
        self._bucket = bucket

    def __iter__(self):
        for node, _ in self._bucket:
            yield node


def minima(hashes: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    """The minimum of each of `count` permutations of the hashes' upper halves, [count] uint32.

    hashes: [n] uint64, n > 0.
    count: number of permutations.
    seed: seed of the permutations.
    """
    factors, offsets = _permutations(count, seed)
    upper = (hashes >> np.uint64(32)).astype(np.uint32)
    width = min(len(upper), max(1, _AT_ONCE // count))
    products = np.empty((count, width), np.uint32)
    least = np.full(count, 0xFFFFFFFF, np.uint32)
    for start in range(0, len(upper), width):
        part = upper[start : start + width]
        images = products[:, : len(part)]
        np.multiply(factors, part, out=images)
        images += offsets
        np.minimum(least, images.min(axis=1), out=least)
    return least


def meeting_probability(similarity: float, bands: int, rows: int) -> float:
    """Probability that two texts with this Jaccard similarity share a band."""
    return 1 - (1 - similarity**rows) ** bands


def optimal_bands(threshold: float, permutations: int) -> tuple[int, int]:
    """The (bands, rows) with the smallest sum of false positives and false negatives.

    threshold: Jaccard similarity from which texts count as duplicates.
    permutations: upper limit of bands * rows.

    Each error is the integral of its probability over the similarities on its side of the threshold (Zhu et al. 2016,
    LSH Ensemble, section 5, with equal weights).
    """
    best = (math.inf, 1, 1)
    below, above = np.arange(0, threshold, 0.001) + 0.0005, np.arange(threshold, 1, 0.001) + 0.0005
    for bands in range(1, permutations + 1):
        for rows in range(1, permutations // bands + 1):
            error = (1 - (1 - below**rows) ** bands).sum() + ((1 - above**rows) ** bands).sum()
            best = min(best, (float(error), bands, rows))
    return best[1], best[2]


@functools.lru_cache(maxsize=8)
def _permutations(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Odd factors and offsets, [count, 1] uint32 each."""
    drawn = mix64(np.arange(count, dtype=np.uint64) + np.uint64(key64("minhash", VERSION, seed)))
    return (drawn >> np.uint64(32)).astype(np.uint32)[:, None] | np.uint32(1), (drawn & np.uint64(0xFFFFFFFF)).astype(
        np.uint32
    )[:, None]


@functools.cache
def _zero() -> np.uint64:
    return hash_tokens(["0"])[0]
