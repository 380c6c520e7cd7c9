"""The order of a component's packed rows over all epochs, and the inverse: where a row comes in that order.

    index -> epoch, offset             an epoch is all rows of the component
    offset -> group                    groups (one shard, or several small shards) in a new keyed order each epoch
           -> block of the group       packing blocks of the group in a keyed order
           -> row of the block         rows of the block in a keyed order

Example. Two groups, A with blocks of 2 and 3 rows, B with one block of 5 rows: an epoch has 10 rows. Index 13 is
offset 3 of epoch 1. If that epoch's order is B, A, offset 3 falls in B's only block, at the fourth row of its
shuffled order. In epoch 0, with the order A, B and A's blocks in the order 1, 0, offset 3 is the first row of block 0
of A.

Each row appears exactly once per epoch, in a different order every epoch, while reads stay within one block at a
time: reads are large and contiguous. Shards are cut from a global shuffle, so a block is a sample of the whole
component. Both directions are closed form except for two prefix sums per epoch, which are cached for the epochs in
use.
"""

import functools
from collections.abc import Callable

import numpy as np

from castor.tasks import hashing
from castor.tasks.mixing import permutation

VERSION = 1


class EpochOrder:
    """The order of one component's rows: index to (epoch, group, block, row).

    name: component name; part of every key.

    seed: integer; part of every key.

    group_rows: int64 [groups], packed rows of each group.

    block_rows: function from a group to int64 [blocks], the packed rows of its blocks, which sum to the group's rows.
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

    def address(self, index: int) -> tuple[int, int, int, int]:
        """(epoch, group, block, row) of an index, counted from 0 over all epochs."""
        epoch, offset = divmod(index, self.rows)
        order, starts = self._groups(epoch)
        at = int(np.searchsorted(starts, offset, side="right")) - 1
        group, offset = int(order[at]), offset - int(starts[at])
        order, starts = self._blocks(epoch, group)
        at = int(np.searchsorted(starts, offset, side="right")) - 1
        block = int(order[at])
        return epoch, group, block, int(self._row_order(epoch, group, block)[offset - int(starts[at])])

    def index(self, epoch: int, group: int, block: int, row: int) -> int:
        """The index of a row in an epoch: address(index(e, g, b, r)) == (e, g, b, r)."""
        order, starts = self._groups(epoch)
        offset = int(starts[np.flatnonzero(order == group)[0]])
        order, starts = self._blocks(epoch, group)
        offset += int(starts[np.flatnonzero(order == block)[0]])
        size = int(self._block_rows(group)[block])
        return epoch * self.rows + offset + int(permutation.invert(row, size, self._key("rows", epoch, group, block)))

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
    """Items in keyed order, int64 [n], and where each starts in that order, then the total, int64 [n + 1]."""
    order = permutation.permute(np.arange(len(sizes)), max(1, len(sizes)), key)
    return order, np.concatenate([[0], np.cumsum(np.asarray(sizes, dtype=np.int64)[order])])
