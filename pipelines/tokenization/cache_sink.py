"""From tokenized documents to a task cache: everything meets once, by shard, and each shard is written by one call of a pure function.

The same shape as the corpus's sink (pipelines/corpus/sink.py): rows of bytes keyed by shard; one write-once set of files a
shard, its records, dead letters and entry; the launcher adds the entries up and commits with `tasks.cache_writer.commit`.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any

import apache_beam as beam
import msgpack

from castor.pipelines.core import dead_letters
from castor.pipelines.core.funnel import Funnel
from castor.pipelines.core.surrogates import escape_surrogates
from castor.pipelines.corpus import commit
from castor.pipelines.corpus.rows import encode_element, encode_read
from castor.pipelines.document import Document, Element, Rejection, unpack
from castor.pipelines.tokenization import examples
from castor.tasks import hashing
from castor.tasks.cache import writer
from castor.tasks.cache.features import TARGETS, Record
from castor.tasks.storage import storage

_ENTRIES = ".entries"
_SAMPLES, _SAMPLES_REJECTED = 12, 4
_SAMPLE_IDS = 160


@dataclasses.dataclass(frozen=True)
class Cut:
    """How a cache is cut: seed and number of shards of each split, and the splits as `examples.split_thresholds` gives them."""

    seed: int
    num_shards: int
    splits: tuple[tuple[str, int], ...]

    def shard_of(self, document_id: str) -> int:
        return hashing.shard_of(hashing.record_hash(self.seed, document_id), self.num_shards)


class WriteCache(beam.PTransform):
    """(elements, counts) -> files under `staging`: documents as `examples.Tokenizer` leaves them, and the counts of Read."""

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
        # A shard without a single row must be written too.
        every = [(shard, b"") for shard in range(self._cut.num_shards)]
        rows.append(elements.pipeline | "every shard" >> beam.Create(every).with_output_types(pairs))
        return (
            rows
            | "all" >> beam.Flatten()
            | "by shard" >> beam.GroupByKey()
            | "shard" >> beam.Map(_write, self._staging, self._cut)
        )


def write_shard(staging: str, shard: int, cut: Cut, rows: Iterable[bytes]) -> None:
    """Writes shard `shard` of every split, its dead letters and its entry, from rows in whatever order they come."""
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
    storage.makedirs(storage.join(staging, _ENTRIES))
    storage.write_json_atomic(
        storage.join(staging, _ENTRIES, f"{shard:05d}.json"),
        {
            "shards": [dataclasses.asdict(entry) for entry in entries],
            "funnel": funnel.to_json(),
            "statistics": _statistics(documents.values()),
            "rejected": [_excerpt(r.document, r.reason, r.measure) for r in sorted(rejections, key=_by_reason)],
        },
    )


def read_entries(staging: str, num_shards: int) -> list[dict[str, Any]]:
    """The entries of all shards, in order; they leave the staging folder. Raises CorpusError where one is missing."""
    entries = commit.read_entries(staging, num_shards)
    storage.remove_tree(storage.join(staging, _ENTRIES))
    return entries


def card_statistics(entries: Iterable[dict[str, Any]], vocabulary) -> dict[str, Any]:
    """What the data card shows: a histogram of tokens, samples with their streams in words."""
    lengths: dict[str, int] = {}
    samples, rejected, tokens = [], {}, 0
    for entry in entries:
        for bucket, count in entry["statistics"]["lengths"].items():
            lengths[bucket] = lengths.get(bucket, 0) + count
        tokens += entry["statistics"]["tokens"]
        samples.extend(entry["statistics"]["samples"])
        for sample in entry["rejected"]:
            rejected.setdefault(sample["reason"], []).append(sample)
    samples = sorted(samples, key=_by_id)[:_SAMPLES]
    return {
        "lengths": lengths,
        "languages": {},
        "characters": tokens,
        "bytes": 0,
        "samples": [{**sample, "text": in_words(vocabulary, sample.pop("ids"))} for sample in samples],
        "rejected_samples": {
            reason: sorted(s, key=_by_id)[:_SAMPLES_REJECTED] for reason, s in sorted(rejected.items())
        },
    }


def in_words(vocabulary, ids: Iterable[int]) -> str:
    """A stream as a person reads it: text as it is, everything else by name, long runs of codes cut short."""
    parts = []
    for segment in vocabulary.modality_spans(ids, decode=False):
        names = [vocabulary.name(i) for i in segment.ids]
        short = names if len(names) <= 8 else [*names[:5], f"... {len(names) - 6} more ...", names[-1]]
        parts.append(segment.value if segment.kind == "text" else " ".join(short))
    return " ".join(parts)


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
        if len(samples) < _SAMPLES:
            samples.append({**_excerpt(document), "ids": ids[:_SAMPLE_IDS].tolist()})
    return {"lengths": lengths, "tokens": total, "samples": samples}


def _excerpt(document: Document, reason: str = "", measure: str = "") -> dict[str, Any]:
    source = escape_surrogates(document.source)
    return {"id": document.id, "source": source, "text": "", "metadata": "", "reason": reason, "measure": measure}


def _by_id(sample: dict[str, Any]) -> str:
    return sample["id"]


def _document_id(document: Document) -> str:
    return document.id


def _by_reason(rejection: Rejection) -> tuple[str, str]:
    return rejection.reason, rejection.document.id
