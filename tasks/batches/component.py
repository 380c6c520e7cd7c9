"""One component (domain) of a mixture, opened: its cache, its packed rows and their order.

index -> (epoch, group, block, row)    epochs.py; a group is one shard or several small shards
(group, block) -> plan                 plans.py, packing.py
row of the plan -> pieces of records   this file
piece -> tokens                        cache/reader.py, CRC checked, from the memory-mapped file
"""

import bisect
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from castor.tasks.batches.plans import Plans
from castor.tasks.batches.skips import SkippedRecords
from castor.tasks.cache import records
from castor.tasks.cache.manifest import Manifest
from castor.tasks.cache.reader import CacheReader
from castor.tasks.errors import CacheError, ConfigurationError
from castor.tasks.mixing import packing
from castor.tasks.mixing.epochs import EpochOrder

FEATURE = "targets"


class RowAddress(NamedTuple):
    """The address of a packed row in the order of a component's epochs. Block means packing block; see epochs.py."""

    epoch: int
    group: int
    block: int
    row: int


class Segments(NamedTuple):
    """The segments of a packed row, in order. A segment is one piece of one record.

    records: int64 [n], record of each segment, counted over all shards.

    start: int64 [features, n], first value of each segment.

    size: int64 [features, n], number of values of each segment.
    """

    records: np.ndarray
    start: np.ndarray
    size: np.ndarray


@dataclasses.dataclass(frozen=True)
class Component:
    """One component of a mixture. An index counts its packed rows over all epochs; `open_component` constructs it.

    name: domain name.

    reader: reader of the cache's split.

    plans: packing plans of the split.

    order: order of the packed rows over all epochs.

    skipped: records whose documents are skipped.
    """

    name: str
    reader: CacheReader
    plans: Plans
    order: EpochOrder
    skipped: SkippedRecords

    @property
    def rows(self) -> int:
        """Packed rows per epoch."""
        return self.order.rows

    @property
    def tokens(self) -> int:
        """Tokens per epoch."""
        return self.reader.manifest.tokens(self.reader.split)

    def address(self, index: int) -> RowAddress:
        """The address of the packed row at an index."""
        return RowAddress(*self.order.address(index))

    def segments(self, address: RowAddress) -> Segments:
        """The segments of the row at an address, with features in the order of `plans.capacities`."""
        plan = self.plans.plan(address.group, address.block)
        begin, end = plan.row_starts[address.row : address.row + 2].tolist()
        first = int(self.reader.starts[self.plans.groups[address.group][0]]) + address.block * packing.BLOCK_RECORDS
        return Segments(
            plan.record[begin:end].astype(np.int64) + first, plan.start[:, begin:end], plan.size[:, begin:end]
        )

    def shards(self, segments: Segments) -> np.ndarray:
        """The shard of each segment's record, int64 [n]."""
        return np.searchsorted(self.reader.starts, segments.records, side="right") - 1

    def skipped_in(self, address: RowAddress) -> frozenset[int]:
        """The skipped records in the group of an address, counted over all shards."""
        first, last = self.plans.groups[address.group]
        if last - first == 1:
            return self.skipped.of_shard(first)
        return frozenset().union(*(self.skipped.of_shard(shard) for shard in range(first, last)))

    def read(self, shard: int, record: int, start: int, size: int) -> np.ndarray:
        """Tokens [start, start + size) of a record, integers [size], from the token file if there is one, else the
        Example.

        shard: the record's shard.

        record: record, counted over all shards.
        """
        reader = self.reader
        row = record - reader.first_record(shard)
        if reader.has_tokens(shard):
            return reader.stored_tokens(shard, row, start, start + size)
        packed = records.read_packed_int64(
            reader.data(shard), int(reader.index(shard)["offset"][row]), FEATURE, reader.path(shard)
        )
        return records.decode_varints(records.cut_varints(packed, start, start + size))

    def occurrences(self, record: int) -> Iterator[tuple[RowAddress, int]]:
        """(address in epoch 0, segment from 0) of every piece of a record."""
        shard, _ = self.reader.locate(record)
        group = bisect.bisect_right(self.plans.groups, (shard, len(self.reader.starts))) - 1
        block, wanted = divmod(record - int(self.reader.starts[self.plans.groups[group][0]]), packing.BLOCK_RECORDS)
        plan = self.plans.plan(group, block)
        for segment in np.flatnonzero(plan.record == wanted).tolist():
            packed_row = int(np.searchsorted(plan.row_starts, segment, side="right")) - 1
            yield RowAddress(0, group, block, packed_row), segment - int(plan.row_starts[packed_row])

    def prefetch_block(self, address: RowAddress) -> None:
        """Advises the operating system that a whole block will be read."""
        begin = address.block * packing.BLOCK_RECORDS
        for shard in range(*self.plans.groups[address.group]):
            last = min(begin + packing.BLOCK_RECORDS, len(self.reader.index(shard)))
            if begin < last:
                self.reader.will_need(shard, begin, last)


def open_component(
    name: str,
    manifest: Manifest,
    split: str,
    lengths: Mapping[str, int],
    method: str,
    seed: int,
    skip_documents: Sequence[str] = (),
    progress: Callable[[int, int], None] | None = None,
) -> Component:
    """Opens a cache as a component of a mixture.

    name: domain name; keys the order of the rows.

    manifest: manifest of the cache.

    split: split to read.

    lengths: feature -> capacity of a row.

    method: packing method, one of packing.METHODS.

    seed: seed of the batches.

    skip_documents: ids of documents whose tokens become padding.

    progress: None, or a function called with (blocks counted, blocks in total) while rows are counted.

    Raises CacheError if the cache has no tokens in the split or differs from its manifest, and ConfigurationError for a
    feature without a length.
    """
    spec = manifest.features.get(FEATURE)
    if spec is None or spec["rank"] != 1 or spec["dtype"] not in ("int32", "int64"):
        raise CacheError(
            f"cache {manifest.directory} has no integer feature {FEATURE!r} of rank 1.",
            "Make it with castor data tokenize.",
        )
    for feature in lengths:
        if manifest.features.get(feature, {"rank": 1})["rank"] < 1:
            raise ConfigurationError(
                f"feature {feature!r} of cache {manifest.directory} has no length.", "Remove it from the lengths."
            )
    reader = CacheReader(manifest.directory, split)
    plans = Plans(reader, lengths, method, progress)
    order = EpochOrder(name, seed, plans.group_rows, plans.block_rows)
    if not order.rows:
        raise CacheError(
            f"cache {manifest.directory} has no tokens in split {split!r}.",
            f"Remove {name!r} from the mixture, or give its corpus more documents.",
        )
    return Component(name, reader, plans, order, SkippedRecords(reader, skip_documents))


def check_tokens(tokens: np.ndarray, vocab_size: int) -> bool:
    """Whether all tokens are inside the vocabulary.

    tokens: integers [n].

    vocab_size: number of ids; 0 if the size is unknown, and then every token passes.
    """
    return not (tokens.size and vocab_size) or bool(0 <= int(tokens.min()) and int(tokens.max()) < vocab_size)
