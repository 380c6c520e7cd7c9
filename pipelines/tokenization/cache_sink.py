"""The Beam sink of a task cache: one shuffle groups all rows by shard, and one call of `write_shard` writes each shard.

The design is that of the corpus's sink (pipelines/corpus/sink.py). Rows of bytes are keyed by shard. Each shard's
records, dead letters and entry are written once. The launcher adds up the entries and commits (cache_commit.py).
"""

import dataclasses
from collections.abc import Iterable
from typing import Any

import apache_beam as beam
import msgpack

from castor.pipelines.core import dead_letters
from castor.pipelines.core.funnel import Funnel
from castor.pipelines.core.surrogates import escape_surrogates
from castor.pipelines.corpus.layout import ENTRIES
from castor.pipelines.corpus.rows import encode_element, encode_read
from castor.pipelines.document import Document, Element, Rejection, unpack
from castor.pipelines.tokenization import examples
from castor.pipelines.tokenization.cache_commit import SAMPLES
from castor.tasks import hashing
from castor.tasks.cache import writer
from castor.tasks.cache.features import TARGETS, Record
from castor.tasks.storage import storage

_SAMPLE_IDS = 160


@dataclasses.dataclass(frozen=True)
class Cut:
    """How a cache is divided into splits and shards.

    seed: seed of the global shuffle.
    num_shards: shards of each split.
    splits: the result of `examples.split_thresholds`.
    """

    seed: int
    num_shards: int
    splits: tuple[tuple[str, int], ...]

    def shard_of(self, document_id: str) -> int:
        return hashing.shard_of(hashing.record_hash(self.seed, document_id), self.num_shards)


class WriteCache(beam.PTransform):
    """(elements, counts) -> files under `staging`; documents come from `examples.Tokenizer`, counts from Read."""

    def __init__(self, staging: str, cut: Cut):
        super().__init__(label="write")
        self._staging = staging
        self._cut = cut

    def expand(self, inputs):
        elements, counts = inputs
        pairs = tuple[int, bytes]
        rows = [
            elements | "key elements" >> beam.Map(_key_element, self._cut).with_output_types(pairs),
            counts | "key counts" >> beam.Map(_key_count, self._cut).with_output_types(pairs),
        ]
        # Empty shards must be written too.
        every = [(shard, b"") for shard in range(self._cut.num_shards)]
        rows.append(elements.pipeline | "every shard" >> beam.Create(every).with_output_types(pairs))
        return (
            rows
            | "all" >> beam.Flatten()
            | "by shard" >> beam.GroupByKey()
            | "shard" >> beam.Map(_write, self._staging, self._cut)
        )


def write_shard(staging: str, shard: int, cut: Cut, rows: Iterable[bytes]) -> None:
    """Writes shard `shard` of every split, its dead letters and its entry. The order of `rows` does not matter."""
    funnel, letters, rejections = Funnel(), [], []
    documents: dict[str, Document] = {}
    for row in sorted(rows):
        kind, body = row[:1], row[1:]
        if kind == b"C":
            funnel.read += msgpack.unpackb(body)
            continue
        element = unpack(body)
        if isinstance(element, Document):
            if element.id in documents:
                funnel.duplicate("id")
            documents.setdefault(element.id, element)
        elif isinstance(element, Rejection):
            funnel.reject(element.reason)
            rejections.append(element)
        else:
            letters.append(element)
    for letter in letters:
        funnel.dead(letter.stage, letter.error)
    funnel.kept = len(documents)
    by_split: dict[str, list[Record]] = {name: [] for name, _ in cut.splits}
    for document in documents.values():
        record = Record(document.id, document.source, {"targets": examples.ids_of(document)})
        by_split[examples.split_of(cut.seed, document.id, cut.splits)].append(record)
    entries = [
        writer.write_shard(staging, name, shard, cut.num_shards, records, TARGETS, seed=cut.seed)
        for name, records in by_split.items()
    ]
    storage.makedirs(storage.join(staging, dead_letters.FOLDER))
    storage.write_bytes_atomic(
        storage.join(staging, dead_letters.file_name(shard, cut.num_shards)), dead_letters.encode(letters)
    )
    storage.makedirs(storage.join(staging, ENTRIES))
    storage.write_json_atomic(
        storage.join(staging, ENTRIES, f"{shard:05d}.json"),
        {
            "shards": [dataclasses.asdict(entry) for entry in entries],
            "funnel": funnel.to_json(),
            "statistics": _statistics(documents.values()),
            "rejected": [_excerpt(r.document, r.reason, r.measure) for r in sorted(rejections, key=_by_reason)],
        },
    )


def _key_element(element: Element, cut: Cut) -> tuple[int, bytes]:
    identifier, row = encode_element(element, keep_rejects=False)
    return cut.shard_of(identifier), row


def _key_count(count: tuple[str, int], cut: Cut) -> tuple[int, bytes]:
    identifier, row = encode_read(*count)
    return cut.shard_of(identifier), row


def _write(group, staging: str, cut: Cut) -> int:
    shard, rows = group
    write_shard(staging, shard, cut, (row for row in rows if row))
    return shard


def _statistics(documents: Iterable[Document]) -> dict[str, Any]:
    lengths: dict[str, int] = {}
    total, samples = 0, []
    for document in sorted(documents, key=_document_id):
        ids = examples.ids_of(document)
        bucket = str(len(ids).bit_length())
        lengths[bucket] = lengths.get(bucket, 0) + 1
        total += len(ids)
        if len(samples) < SAMPLES:
            samples.append({**_excerpt(document), "ids": ids[:_SAMPLE_IDS].tolist()})
    return {"lengths": lengths, "tokens": total, "samples": samples}


def _excerpt(document: Document, reason: str = "", measure: str = "") -> dict[str, Any]:
    source = escape_surrogates(document.source)
    return {"id": document.id, "source": source, "text": "", "metadata": "", "reason": reason, "measure": measure}


def _document_id(document: Document) -> str:
    return document.id


def _by_reason(rejection: Rejection) -> tuple[str, str]:
    return rejection.reason, rejection.document.id
