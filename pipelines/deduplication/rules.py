"""Rules of deduplication: which documents are duplicates of each other, and which one stays.

The rules are for pipelines/deduplication/deduplicate.py. A rule gives a document keys of 16 bytes. Under an exact
rule (at most one key), documents with the same key are duplicates. Under a near rule (many keys), documents that
share a key are compared and linked, and each connected component of links is one cluster. A document without keys has
no duplicates.

Each rule orders the documents (`keep`): the one with the highest rank stays, then the one with the smallest id. The
order depends on the documents alone, so the result is the same for every runner, number of workers and order of the
input. Ids are hashes, so preferring the smallest id favours no part of the corpus. No Beam.
"""

import dataclasses
import hashlib
import re
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import ClassVar, Protocol

import gin
from castor.pipelines.document import Document
from castor.pipelines.text.urls import normalise_url

KEY_BYTES = 16
RANK_BYTES = 8
NODE_BYTES = RANK_BYTES + 16
_HIGHEST = (1 << 64) - 1


class Order(Protocol):
    """Which of several duplicates stays: the one with the highest `rank`."""

    def rank(self, document: Document) -> int:
        """An integer from 0 to 2**64 - 1."""


class Rule(Protocol):
    """A rule of deduplication.

    kind: the name of the rule in the funnel.
    keep: which of several duplicates stays.
    binding: the rule's name in gin (near rules only).

    A near rule also has `rounds` (pipelines/deduplication/connected_components.py), `payload(document)` (bytes that
    travel with each key) and `links(bucket)`.
    """

    kind: str
    keep: Order

    def keys(self, document: Document) -> Sequence[bytes]: ...


@gin.configurable(module="duplicates")
@dataclasses.dataclass(frozen=True)
class SmallestId:
    """No preference: the document with the smallest id stays."""

    def rank(self, document: Document) -> int:
        return 0


@gin.configurable(module="duplicates")
@dataclasses.dataclass(frozen=True)
class Longest:
    """The longest text stays, in characters; of documents without text, the largest file."""

    def rank(self, document: Document) -> int:
        return len(document.text) if document.text is not None else len(document.bytes or b"")


@gin.configurable(module="duplicates")
@dataclasses.dataclass(frozen=True)
class Newest:
    """The latest date in a metadata field stays: ISO 8601 or fourteen digits, to the second. No date ranks lowest."""

    field: str = "date"

    def rank(self, document: Document) -> int:
        digits = re.sub(r"\D", "", str(document.metadata.get(self.field, "")))[:14]
        return int(digits.ljust(14, "0")) if len(digits) >= 8 else 0


@gin.configurable(module="duplicates")
@dataclasses.dataclass(frozen=True)
class Highest:
    """The highest number in a metadata field stays, for example a quality score. No number ranks lowest."""

    field: str

    def rank(self, document: Document) -> int:
        value = document.metadata.get(self.field)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value:
            return 0
        try:
            # Adding zero turns -0.0 into 0.0.
            (bits,) = struct.unpack(">Q", struct.pack(">d", float(value) + 0.0))
        except OverflowError:
            return 0
        return bits ^ _HIGHEST if bits >> 63 else bits | 1 << 63  # the usual order of IEEE 754 numbers as integers


@gin.configurable(module="duplicates")
@dataclasses.dataclass(frozen=True)
class ByUrl:
    """Pages with the same normalised URL (`normalise_url`); the newest stays, as in C4."""

    keep: Order = Newest()

    kind: ClassVar[str] = "url"

    def keys(self, document: Document) -> list[bytes]:
        url = document.metadata.get("url")
        is_url = isinstance(url, str) and bool(url)
        return exact_keys(normalise_url(url).encode("utf-8", "surrogatepass") if is_url else None)


def text_key(document: Document) -> bytes | None:
    """The text with each run of whitespace as one space. None for an empty text."""
    return " ".join(document.text.split()).encode("utf-8", "surrogatepass") or None if document.text else None


def bytes_key(document: Document) -> bytes | None:
    """The encoded file itself. None for a document without a file."""
    return document.bytes or None


def condense(value: bytes) -> bytes:
    """128-bit BLAKE2b hash. Collisions are negligible for a corpus of any size."""
    return hashlib.blake2b(value, digest_size=KEY_BYTES, person=b"castor.dedup.v1").digest()


def exact_keys(value: bytes | None) -> list[bytes]:
    """The key of an exact rule for a document's value; no key for None, which exempts the document."""
    return [] if value is None else [condense(value)]


@dataclasses.dataclass(frozen=True)
class _ByContent:
    """An exact rule on one value of a document."""

    keep: Order = SmallestId()

    kind: ClassVar[str] = "exact"
    value: ClassVar[Callable[[Document], bytes | None]]

    def keys(self, document: Document) -> list[bytes]:
        return exact_keys(type(self).value(document))


@gin.configurable(module="duplicates")
@dataclasses.dataclass(frozen=True)
class ByText(_ByContent):
    """Texts that are equal word for word; whitespace is ignored."""

    value = staticmethod(text_key)


@gin.configurable(module="duplicates")
@dataclasses.dataclass(frozen=True)
class ByBytes(_ByContent):
    """Files that are equal byte for byte."""

    value = staticmethod(bytes_key)


def node(rule: Rule, document: Document) -> bytes:
    """Inverted rank and id of a document, 24 bytes: of two nodes, the smaller is the one to keep."""
    return (_HIGHEST - min(rule.keep.rank(document), _HIGHEST)).to_bytes(RANK_BYTES, "big") + bytes.fromhex(document.id)


def identifier(node: bytes) -> str:
    """The id of a node's document."""
    return node[RANK_BYTES:NODE_BYTES].hex()


def star(bucket: Iterable[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """(node, smallest node) for every node of `bucket` but the smallest. Iterates twice; keeps no nodes in memory."""
    smallest = min(bucket)
    for member in bucket:
        if member != smallest:
            yield member, smallest
