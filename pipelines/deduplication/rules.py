"""What makes two documents duplicates of one another, and which of them stays. Rules for pipelines/deduplication/deduplicate.py; this file knows no Beam.

A rule gives a document keys, 16 bytes each. Under an exact rule (one key at most) documents with the same key are one. Under a near rule (many keys)
documents that meet under any key are linked, and what hangs together by links is one. No key exempts a document.

Which stays is an order of the rule (`keep`): the highest rank, then the smallest id. It depends on the documents alone, so it is the same whatever
the runner, the number of workers or the order of the input; ids are hashes, so the smallest is no particular corner of the corpus.
"""

import dataclasses
import hashlib
import re
import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import ClassVar, Protocol

import gin
from castor.pipelines.document import Document
from castor.pipelines.text.urls import normalise_url

KEY_BYTES = 16
RANK_BYTES = 8
NODE_BYTES = RANK_BYTES + 16
_HIGHEST = (1 << 64) - 1


class Order(Protocol):
    """`rank(document)`: 0..2**64-1, the higher the better."""

    def rank(self, document: Document) -> int: ...


class Rule(Protocol):
    """kind: the funnel's word for what the rule removes. keep: which stays. binding: the rule's name in gin.

    A near rule also has rounds (see pipelines/deduplication/connected_components.py), `payload(document)` (bytes that travel with each key) and `links(bucket)`.
    """

    kind: str
    keep: Order

    def keys(self, document: Document) -> Sequence[bytes]: ...


@gin.configurable(module="duplicates")
@dataclasses.dataclass(frozen=True)
class SmallestId:
    """All are as good: the smallest id stays."""

    def rank(self, document: Document) -> int:
        return 0


@gin.configurable(module="duplicates")
@dataclasses.dataclass(frozen=True)
class Longest:
    """The longest text, in characters; of documents without text the largest file."""

    def rank(self, document: Document) -> int:
        return len(document.text) if document.text is not None else len(document.bytes or b"")


@gin.configurable(module="duplicates")
@dataclasses.dataclass(frozen=True)
class Newest:
    """The latest date in a field of the metadata, ISO 8601 or fourteen digits, to the second; one without a date is older than all."""

    field: str = "date"

    def rank(self, document: Document) -> int:
        digits = re.sub(r"\D", "", str(document.metadata.get(self.field, "")))[:14]
        return int(digits.ljust(14, "0")) if len(digits) >= 8 else 0


@gin.configurable(module="duplicates")
@dataclasses.dataclass(frozen=True)
class Highest:
    """The highest number in a field of the metadata, a quality score say; one without it is lower than all."""

    field: str

    def rank(self, document: Document) -> int:
        value = document.metadata.get(self.field)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value:
            return 0
        try:
            bits = struct.unpack(">Q", struct.pack(">d", float(value) + 0.0))[
                0
            ]  # adding zero makes -0.0 the same as 0.0
        except OverflowError:
            return 0
        return bits ^ _HIGHEST if bits >> 63 else bits | 1 << 63  # the usual order of IEEE 754 numbers as integers


@gin.configurable(module="duplicates")
@dataclasses.dataclass(frozen=True)
class ByUrl:
    """Pages of the same address, see `normalise_url`; the newest stays, as in C4."""

    keep: Order = Newest()

    kind: ClassVar[str] = "url"

    def keys(self, document: Document) -> list[bytes]:
        url = document.metadata.get("url")
        return [condense(normalise_url(url).encode("utf-8", "surrogatepass"))] if isinstance(url, str) and url else []


@gin.configurable(module="duplicates")
@dataclasses.dataclass(frozen=True)
class ByText:
    """Texts that are the same word for word, blanks aside."""

    keep: Order = SmallestId()

    kind: ClassVar[str] = "exact"

    def keys(self, document: Document) -> list[bytes]:
        return _condensed(text_key(document))


@gin.configurable(module="duplicates")
@dataclasses.dataclass(frozen=True)
class ByBytes:
    """Files that are the same byte for byte."""

    keep: Order = SmallestId()

    kind: ClassVar[str] = "exact"

    def keys(self, document: Document) -> list[bytes]:
        return _condensed(bytes_key(document))


def text_key(document: Document) -> bytes | None:
    """The text, word for word, blanks aside. None for an empty text."""
    return " ".join(document.text.split()).encode("utf-8", "surrogatepass") or None if document.text else None


def bytes_key(document: Document) -> bytes | None:
    """The encoded file itself."""
    return document.bytes or None


def condense(value: bytes) -> bytes:
    """128 bits of anything (BLAKE2b): two different values meet with a probability that no corpus reaches."""
    return hashlib.blake2b(value, digest_size=KEY_BYTES, person=b"castor.dedup.v1").digest()


def node(rule: Rule, document: Document) -> bytes:
    """A document as a rule sees it, [24 bytes]: of two nodes the smaller is the one to keep."""
    return (_HIGHEST - min(rule.keep.rank(document), _HIGHEST)).to_bytes(RANK_BYTES, "big") + bytes.fromhex(document.id)


def identifier(node: bytes) -> str:
    """The id of the document that a node stands for."""
    return node[RANK_BYTES:NODE_BYTES].hex()


def star(bucket: Iterable[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """Nodes that met -> (node, smallest of them) for each other node. Passes over `bucket` twice and keeps nothing of it, however large."""
    smallest = min(bucket)
    for member in bucket:
        if member != smallest:
            yield member, smallest


def _condensed(value: bytes | None) -> list[bytes]:
    return [] if value is None else [condense(value)]
