"""The training rows of quality-train: per sampled document its features, class and split, and for some the start of the
text.

Pure functions. The Beam transforms are the sampling of pipelines/tokenization/codec_fitting.py and
`pipelines/quality_train.py`. This file imports no Beam.
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
    """One training row.

    id, source: of the document.

    reference: True for the reference set, False for the sample.

    part: one of PARTS.

    buckets: [features] uint32.

    excerpt: start of the text; empty for most rows.
    """

    id: str
    source: str
    reference: bool
    part: str
    buckets: np.ndarray
    excerpt: str = ""


@dataclasses.dataclass(frozen=True)
class Measure:
    """A sampled Document -> the Document with a packed Row as its bytes. Rejects `quality_train.no_tokens`.

    features: how a text becomes buckets.

    references: number of first sources that form the reference; the others form the sample.

    held_out: share of documents kept out of the fit. Half as many again are used for calibration.

    split_by: "id" splits by the hash of the id; "site" by that of the URL's host, so that no site is in two splits.

    excerpts: number of documents per source whose first characters give the n-grams of the report their words.
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
    """The split of a name, determined by its hash alone.

    Example: held_out = 0.1 gives HELD_OUT to 10 % of all names, CALIBRATED to 5 % and FITTED to 85 %.
    """
    place = hashing.key64(_PARTS_KEY, name) / 2.0**64
    return HELD_OUT if place < held_out else CALIBRATED if place < 1.5 * held_out else FITTED


def unpack(data: bytes) -> Row:
    """Unpacks what Measure packed."""
    identifier, source, reference, part, buckets, excerpt = msgpack.unpackb(data, unicode_errors="surrogatepass")
    return Row(identifier, source, reference, part, np.frombuffer(buckets, "<u4"), excerpt)


def keyed(element: Element) -> Iterator[tuple[int, bytes]]:
    """Yields (shard, packed row) of a measured Document. The id determines the shard."""
    if isinstance(element, Document):
        yield int(element.id[:2], 16) * SHARDS >> 8, element.bytes


def write_shard(group: tuple[int, Iterable[bytes]], folder: str) -> None:
    """Writes the sorted rows of a shard to a file of `folder`."""
    shard, rows = group
    storage.makedirs(folder)
    storage.write_bytes_atomic(storage.join(folder, f"{shard:05d}"), msgpack.packb(sorted(rows)))


def read_shards(folder: str) -> list[Row]:
    """All rows, sorted by id. Ids are hashes, so the order is effectively random."""
    rows = [
        unpack(data)
        for name in storage.list_files(folder)
        for data in msgpack.unpackb(storage.read_bytes(storage.join(folder, name)))
    ]
    return sorted(rows, key=_by_id)


def names_of(buckets: Iterable[int], rows: Iterable[Row], features: Features) -> dict[int, str]:
    """The words behind buckets: for each bucket the run of tokens that is most frequent in the excerpts.

    Of two equally frequent runs the smaller one is taken. A bucket without such a run is left out.
    """
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
