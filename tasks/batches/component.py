"""One domain of a mixture, opened: its cache, its packed rows, and their order.

index -> (epoch, group, block, row)    epochs.py; a group is a shard, or small shards together
(group, block) -> plan                 plans.py, packing.py
row of the plan -> pieces of records   here
piece -> tokens                        cache_reader.py, CRC checked, straight from the mapped file
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


class Place(NamedTuple):
    """Where a packed row of a component stands."""

    epoch: int
    group: int
    block: int
    row: int


class Segments(NamedTuple):
    """The segments of a packed row, in their order. records: int64 [n], counted through the shards. start, size: int64 [features, n]."""

    records: np.ndarray
    start: np.ndarray
    size: np.ndarray


@dataclasses.dataclass(frozen=True)
class Component:
    """One domain of a mixture. `index`es count its packed rows through all epochs."""

    name: str
    reader: CacheReader
    plans: Plans
    order: EpochOrder
    skipped: SkippedRecords

    @property
    def rows(self) -> int:
        """Packed rows of one epoch."""
        return self.order.rows

    @property
    def tokens(self) -> int:
        """Tokens of one epoch."""
        return self.reader.manifest.tokens(self.reader.split)

    def place(self, index: int) -> Place:
        """The place of an index."""
        return Place(*self.order.place(index))

    def segments(self, place: Place) -> Segments:
        """What lies in the row at a place, by feature in the order of `plans.capacities`."""
        plan = self.plans.plan(place.group, place.block)
        begin, end = plan.row_starts[place.row : place.row + 2].tolist()
        first = int(self.reader.starts[self.plans.groups[place.group][0]]) + place.block * packing.BLOCK_RECORDS
        return Segments(
            plan.record[begin:end].astype(np.int64) + first, plan.start[:, begin:end], plan.size[:, begin:end]
        )

    def shards(self, segments: Segments) -> np.ndarray:
        """int64 [n]: the shard that each segment's record lies in."""
        return np.searchsorted(self.reader.starts, segments.records, side="right") - 1

    def skipped_in(self, place: Place) -> frozenset[int]:
        """The records of a place's group that are left out."""
        first, last = self.plans.groups[place.group]
        if last - first == 1:
            return self.skipped.of_shard(first)
        return frozenset().union(*(self.skipped.of_shard(shard) for shard in range(first, last)))

    def read(self, shard: int, record: int, start: int, size: int) -> np.ndarray:
        """`size` tokens of a record of a shard from token `start` on, integers [size]: from the file of tokens, else from the Example."""
        reader = self.reader
        row = record - reader.first_record(shard)
        if reader.has_tokens(shard):
            return reader.stored_tokens(shard, row, start, start + size)
        packed = records.read_packed_int64(
            reader.data(shard), int(reader.index(shard)["offset"][row]), FEATURE, reader.path(shard)
        )
        return records.decode_varints(records.cut_varints(packed, start, start + size))

    def occurrences(self, record: int) -> Iterator[tuple[Place, int]]:
        """(place in epoch 0, segment) of every piece of a record."""
        shard, _ = self.reader.locate(record)
        group = bisect.bisect_right(self.plans.groups, (shard, len(self.reader.starts))) - 1
        block, wanted = divmod(record - int(self.reader.starts[self.plans.groups[group][0]]), packing.BLOCK_RECORDS)
        plan = self.plans.plan(group, block)
        for segment in np.flatnonzero(plan.record == wanted).tolist():
            packed_row = int(np.searchsorted(plan.row_starts, segment, side="right")) - 1
            yield Place(0, group, block, packed_row), segment - int(plan.row_starts[packed_row])

    def prefetch_block(self, place: Place) -> None:
        """Tells the system that a block is about to be read, from its first byte to its last."""
        begin = place.block * packing.BLOCK_RECORDS
        for shard in range(*self.plans.groups[place.group]):
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
    """Opens a cache as a component. Raises CacheError if it has no tokens in the split or is not as its manifest says."""
    spec = manifest.features.get(FEATURE)
    if spec is None or spec["rank"] != 1 or spec["dtype"] not in ("int32", "int64"):
        raise CacheError(
            f"cache {manifest.directory} has no integer feature {FEATURE!r} of rank 1.",
            "Make it with castor data tokenize.",
        )
    for feature in lengths:
        if manifest.features.get(feature, {"rank": 1})["rank"] < 1:
            raise ConfigurationError(
                f"feature {feature!r} of cache {manifest.directory} has no length.", "Leave it out of the lengths."
            )
    reader = CacheReader(manifest.directory, split)
    plans = Plans(reader, lengths, method, progress)
    order = EpochOrder(name, seed, plans.group_rows, plans.block_rows)
    if not order.rows:
        raise CacheError(
            f"cache {manifest.directory} has no tokens in split {split!r}.",
            f"Take {name!r} out of the mixture, or give its corpus more documents.",
        )
    return Component(name, reader, plans, order, SkippedRecords(reader, skip_documents))


def check_tokens(tokens: np.ndarray, vocab_size: int) -> bool:
    """Whether all tokens lie in a vocabulary (of any size where that is 0)."""
    return not (tokens.size and vocab_size) or bool(0 <= int(tokens.min()) and int(tokens.max()) < vocab_size)
