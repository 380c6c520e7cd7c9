"""The order of a component's packed rows, epoch after epoch, and where a row stands in it.

    index -> epoch, place in it      an epoch is all rows of the component
    place -> group                   groups (a shard, or small shards together) in a fresh keyed order each epoch
    -> block of the group            its blocks in a keyed order
    -> row of the block              rows of the block in a keyed order

So every row comes exactly once an epoch, in another order each, while what is read at a time stays inside one block: reads are large and
next to each other. Shards were cut from a global shuffle, so a block is a sample of the whole component.
Both directions are closed form but for the two running sums of an epoch, which are kept for the epochs in use.
"""

import functools
from collections.abc import Callable

import numpy as np

from castor.tasks import hashing
from castor.tasks.mixing import permutation

VERSION = 1


class EpochOrder:
    """Index <-> (epoch, group, block, row) of one component.

    name, seed: part of every key. group_rows: int64 [groups]. block_rows: group -> int64 [blocks], which sum to the group's rows.
    """

    def __init__(self, name: str, seed: int, group_rows: np.ndarray, block_rows: Callable[[int], np.ndarray]):
        self._name, self._seed = name, seed
        self._group_rows = np.asarray(group_rows, dtype=np.int64)
        self._block_rows = block_rows
        self.rows = int(self._group_rows.sum())
        """Rows of one epoch."""
        self._groups = functools.lru_cache(maxsize=4)(self._make_groups)
        self._blocks = functools.lru_cache(maxsize=64)(self._make_blocks)
        self._row_order = functools.lru_cache(maxsize=16)(self._make_row_order)

    def place(self, index: int) -> tuple[int, int, int, int]:
        """(epoch, group, block, row) of an index from 0."""
        epoch, place = divmod(index, self.rows)
        order, starts = self._groups(epoch)
        at = int(np.searchsorted(starts, place, side="right")) - 1
        group, place = int(order[at]), place - int(starts[at])
        order, starts = self._blocks(epoch, group)
        at = int(np.searchsorted(starts, place, side="right")) - 1
        block = int(order[at])
        return epoch, group, block, int(self._row_order(epoch, group, block)[place - int(starts[at])])

    def index(self, epoch: int, group: int, block: int, row: int) -> int:
        """The index at which a row comes in an epoch: place(index(e, g, b, r)) == (e, g, b, r)."""
        order, starts = self._groups(epoch)
        place = int(starts[np.flatnonzero(order == group)[0]])
        order, starts = self._blocks(epoch, group)
        place += int(starts[np.flatnonzero(order == block)[0]])
        size = int(self._block_rows(group)[block])
        return epoch * self.rows + place + int(permutation.invert(row, size, self._key("rows", epoch, group, block)))

    def _key(self, kind: str, *numbers: int) -> int:
        return hashing.key64(f"epoch {kind}", self._seed, self._name, *numbers)

    def _make_groups(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        return _ordered(self._group_rows, self._key("groups", epoch))

    def _make_blocks(self, epoch: int, group: int) -> tuple[np.ndarray, np.ndarray]:
        return _ordered(self._block_rows(group), self._key("blocks", epoch, group))

    def _make_row_order(self, epoch: int, group: int, block: int) -> np.ndarray:
        size = int(self._block_rows(group)[block])
        return permutation.permute(np.arange(size), size, self._key("rows", epoch, group, block)).astype(np.int32)


def _ordered(sizes: np.ndarray, key: int) -> tuple[np.ndarray, np.ndarray]:
    """Items in keyed order [n], and the first place of each in that order, then the number of places [n + 1]."""
    order = permutation.permute(np.arange(len(sizes)), max(1, len(sizes)), key)
    return order, np.concatenate([[0], np.cumsum(np.asarray(sizes, dtype=np.int64)[order])])
