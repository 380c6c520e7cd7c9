"""What quality-train keeps of a drawn document: its features, its set, its part of the split, and of a few how the text begins.

Pure functions; the Beam half is pipelines/tokenization/codec_fitting.py's draw and `pipelines/quality_train.py`. This file imports no Beam.
"""

import dataclasses
from collections.abc import Iterable, Iterator

import msgpack
import numpy as np

from castor.pipelines.document import Document, Element, Rejection
from castor.pipelines.quality.linear_model import Features
from castor.pipelines.text import tokenized_text
from castor.pipelines.text.urls import split_url
from castor.tasks import hashing
from castor.tasks.storage import storage

SPLITS = ("id", "site")
SHARDS = 64
FITTED, CALIBRATED, HELD_OUT = PARTS = ("fitted", "calibrated", "held_out")
_PARTS_KEY = hashing.key64("quality parts")
_EXCERPT = 4000


@dataclasses.dataclass(frozen=True, eq=False)
class Row:
    """buckets: [features] uint32; reference: of the reference set, else of the sample; part: one of PARTS; excerpt: empty for most."""

    id: str
    source: str
    reference: bool
    part: str
    buckets: np.ndarray
    excerpt: str = ""


@dataclasses.dataclass(frozen=True)
class Measure:
    """A drawn Document -> the Document with a packed Row as its bytes; without a token it is rejected.

    references: the first so many sources are the reference, the others the sample. held_out: share of documents that nothing is fitted to; half as
    many again calibrate; by hash of their id or, with split_by "site", of the host of their URL, so that no site is in two parts. excerpts:
    documents of each source whose beginnings give the n-grams of the report their words.
    """

    features: Features
    references: int
    held_out: float
    split_by: str
    excerpts: int

    def __call__(self, document: Document) -> Element:
        buckets = self.features.of(document.text or "")
        if not len(buckets):
            return Rejection(document.replace(text=None), "quality_train.no_tokens")
        site = split_url(str(document.metadata["url"]))[0].removeprefix("www.") if self.split_by == "site" else ""
        excerpt = (document.text or "")[:_EXCERPT] if document.metadata["rank"] < self.excerpts else ""
        part = part_of(site or document.id, self.held_out)
        packed = [
            document.id,
            document.source,
            document.metadata["corpus"] < self.references,
            part,
            buckets.astype("<u4").tobytes(),
            excerpt,
        ]
        return document.replace(text=None, bytes=msgpack.packb(packed, unicode_errors="surrogatepass"))


def part_of(name: str, held_out: float) -> str:
    """HELD_OUT for a share of all names, CALIBRATED for half as many, FITTED for the rest: the same ones always."""
    place = hashing.key64(_PARTS_KEY, name) / 2.0**64
    return HELD_OUT if place < held_out else CALIBRATED if place < 1.5 * held_out else FITTED


def unpack(data: bytes) -> Row:
    """The inverse of what Measure packs."""
    identifier, source, reference, part, buckets, excerpt = msgpack.unpackb(data, unicode_errors="surrogatepass")
    return Row(identifier, source, reference, part, np.frombuffer(buckets, "<u4"), excerpt)


def keyed(element: Element) -> Iterator[tuple[int, bytes]]:
    """(shard, packed row) of a measured Document, by its id."""
    if isinstance(element, Document):
        yield int(element.id[:2], 16) * SHARDS >> 8, element.bytes


def write_shard(group: tuple[int, Iterable[bytes]], folder: str) -> None:
    """Writes the rows of a shard, sorted, to a file of `folder`."""
    shard, rows = group
    storage.makedirs(folder)
    storage.write_bytes_atomic(storage.join(folder, f"{shard:05d}"), msgpack.packb(sorted(rows)))


def read_shards(folder: str) -> list[Row]:
    """All rows, in order of id: the hash that the ids are makes it a random order."""
    rows = [
        unpack(data)
        for name in storage.list_files(folder)
        for data in msgpack.unpackb(storage.read_bytes(storage.join(folder, name)))
    ]
    return sorted(rows, key=_by_id)


def names_of(buckets: Iterable[int], rows: Iterable[Row], features: Features) -> dict[int, str]:
    """What stands in buckets: of each the run of tokens that the excerpts have most often, the smaller one of two; none where they have none."""
    wanted = np.array(sorted(buckets), np.int64)
    counts: dict[int, dict[str, int]] = {}
    for row in rows:
        tokenized = tokenized_text.tokenize(row.excerpt)
        for n in range(1, features.order + 1):
            own = features.buckets(tokenized_text.ngrams(features.tokens(tokenized), n))
            for i in np.flatnonzero(np.isin(own, wanted)).tolist():
                words = " ".join(
                    row.excerpt[tokenized.token_starts[j] : tokenized.token_ends[j]] for j in range(i, i + n)
                ).lower()[:80]
                of_bucket = counts.setdefault(int(own[i]), {})
                of_bucket[words] = of_bucket.get(words, 0) + 1
    return {bucket: min(found, key=lambda words: (-found[words], words)) for bucket, found in sorted(counts.items())}


def _by_id(row: Row) -> tuple[str, bool]:
    return row.id, row.reference
