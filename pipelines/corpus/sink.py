"""The Beam sink of a corpus: one shuffle groups all rows by shard, and one call of `write_shard` writes each shard."""

from collections.abc import Iterator

import apache_beam as beam

from castor.pipelines.corpus.rows import encode_element, encode_line, encode_members, encode_read, encode_removal
from castor.pipelines.corpus.shard_writer import write_shard
from castor.pipelines.deduplication.line_owners import OwnLines
from castor.pipelines.deduplication.shared_lines import SharedLines
from castor.pipelines.document import Element
from castor.tasks import hashing


class WriteCorpus(beam.PTransform):
    """(elements, counts, removals, ...) -> shards in `staging`; the removals name the documents that are not kept.

        records, counts = pipeline | Read(source)
        elements = records | Check(length.Filter())
        (elements, counts, elements | Deduplicate((ByText(),))) | WriteCorpus(staging, num_shards=8)

    staging: the staging folder.
    num_shards: shards of the corpus.
    keep_rejects: also write the rejected documents.
    lines: if not None, kept documents lose the lines that other documents own
      (pipelines/deduplication/shared_lines.py).

    Documents are shuffled only here: keyed by shard index (int), packed to bytes. The counts of Read are written too,
    so that the funnel can be checked against them. The launcher commits after the pipeline
    (pipelines/execution/launcher.py).
    """

    def __init__(self, staging: str, num_shards: int, keep_rejects: bool = False, lines: SharedLines | None = None):
        super().__init__(label="write")
        self._staging = staging
        self._num_shards = num_shards
        self._keep_rejects = keep_rejects
        self._lines = lines

    def expand(self, inputs):
        elements, counts, *removals = inputs
        n = self._num_shards
        pairs = tuple[int, bytes]
        rows = [
            elements | "key elements" >> beam.FlatMap(_key_element, n, self._keep_rejects).with_output_types(pairs),
            counts | "key counts" >> beam.Map(_key_count, n).with_output_types(pairs),
        ]
        for i, removal in enumerate(removals):
            rows.append(removal | f"key removals {i}" >> beam.Map(_key_removal, n).with_output_types(pairs))
        if self._lines is not None:
            owned = (elements, *removals) | OwnLines(self._lines)
            rows.append(owned | "key lines" >> beam.Map(_key_line, n).with_output_types(pairs))
        # Empty shards must be written too.
        rows.append(
            elements.pipeline
            | "every shard" >> beam.Create([(shard, b"") for shard in range(n)]).with_output_types(pairs)
        )
        return (
            rows
            | "all" >> beam.Flatten()
            | "by shard" >> beam.GroupByKey()
            | "write" >> beam.Map(_write, self._staging, n, self._keep_rejects, self._lines)
        )


def _key(identifier: str, row: bytes, num_shards: int) -> tuple[int, bytes]:
    return hashing.shard_of(int(identifier[:16], 16), num_shards), row


def _key_element(element: Element, num_shards: int, keep_rejects: bool) -> Iterator[tuple[int, bytes]]:
    yield _key(*encode_element(element, keep_rejects), num_shards)
    for member in encode_members(element):
        yield _key(*member, num_shards)


def _key_removal(removal: tuple, num_shards: int) -> tuple[int, bytes]:
    return _key(*encode_removal(*removal), num_shards)


def _key_line(line: tuple[bytes, bytes], num_shards: int) -> tuple[int, bytes]:
    return _key(*encode_line(*line), num_shards)


def _key_count(count: tuple[str, int], num_shards: int) -> tuple[int, bytes]:
    return _key(*encode_read(*count), num_shards)


def _write(group, staging: str, num_shards: int, keep_rejects: bool, lines: SharedLines | None) -> int:
    shard, rows = group
    write_shard(staging, shard, num_shards, (row for row in rows if row), keep_rejects, lines)
    return shard
