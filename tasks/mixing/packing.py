"""How the records of a block lie in rows of a fixed length: a plan made from their lengths alone.

    best_fit          (default) the longest first, each into the fullest row that still holds it: best-fit decreasing
    first_fit         in the order of the cache, each into the first row that still holds it
    concat_and_split  in the order of the cache, end to end, cut wherever a row ends

The first two cut a record only when it is longer than a row: into pieces of a row each, and a rest that is packed like a short record.
With several features (tokens and, say, patches) each has a capacity of its own and a record must fit in all of them; a record that is
longer than one of them is cut in all of them at once, piece k taking [k * capacity, (k + 1) * capacity) of each.

A shard is packed in blocks of BLOCK_RECORDS records, so that a batch needs the plans of the blocks it reads and of no others; small shards
are packed together, as many as make a block, so that rows are full in small caches too. A plan
depends on the lengths, the capacities and the method; the same lengths give the same plan for ever (golden vectors hold it), since the
order of training data follows from it.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

VERSION = 1
METHODS = ("best_fit", "first_fit", "concat_and_split")
BLOCK_RECORDS = 16384
STANDARD_LENGTHS = tuple(1 << bits for bits in range(6, 16))
"""Lengths of a row whose number of rows is counted when a cache is written, so that no plan is needed to open it (best_fit)."""

_UNIT = 1 << 20
"""Room is compared between features in this part of their capacity."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """Rows of one block. Segments of row r are `row_starts[r]` to `row_starts[r + 1]`, in the order they lie in the row.

    capacities: feature -> values of a full row. row_starts: int32 [num_rows + 1]. record: int32 [segments], record of the block. start,
    size: int32 [features, segments], first value and number of values of each feature, in the order of `capacities`.
    """

    capacities: Mapping[str, int]
    row_starts: np.ndarray
    record: np.ndarray
    start: np.ndarray
    size: np.ndarray

    @property
    def num_rows(self) -> int:
        return len(self.row_starts) - 1

    def values(self, feature: str = "targets") -> int:
        """Values of a feature in all rows."""
        return int(self.size[list(self.capacities).index(feature)].sum(dtype=np.int64))


def plan(lengths: Mapping[str, Sequence[int]], capacities: Mapping[str, int], method: str = "best_fit") -> Plan:
    """Packs records into rows. lengths: feature -> integers [records]; capacities: feature -> values of a row, of the same features.

    Records without any value are in no row. Raises ValueError for an unknown method, a capacity below 1, features that do not agree, or
    concat_and_split of more than one feature.
    """
    names = list(capacities)
    if method not in METHODS or set(lengths) != set(names) or not names:
        raise ValueError(f"cannot pack {sorted(lengths)} into {dict(capacities)} by {method!r}")
    if min(capacities.values()) < 1:
        raise ValueError(f"a row has room for at least one value: {dict(capacities)}")
    if method == "concat_and_split" and len(names) > 1:
        raise ValueError("concat_and_split packs one feature")
    sizes = np.stack([np.asarray(lengths[name], dtype=np.int64) for name in names])
    room = np.array([capacities[name] for name in names], dtype=np.int64)
    if method == "concat_and_split":
        row, record, start, size = _concatenate(sizes[0], int(room[0]))
    else:
        record, start, size = _pieces(sizes, room)
        if method == "best_fit" and len(names) == 1:
            row = _best_fit(size[0], int(room[0]))[0]
        else:
            row = _fit(size, room, best=method == "best_fit")
    order = np.lexsort((start.max(axis=0, initial=0), record, row))
    num_rows = int(row.max()) + 1 if len(row) else 0
    row_starts = np.searchsorted(row[order], np.arange(num_rows + 1))
    as_int32 = [array.astype(np.int32) for array in (row_starts, record[order], start[:, order], size[:, order])]
    return Plan(dict(capacities), *as_int32)


def count_rows(lengths: Sequence[int], length: int) -> int:
    """How many rows `plan` makes of one feature by best_fit."""
    lengths = np.asarray(lengths, dtype=np.int64)
    rests = lengths % length
    return int((lengths // length).sum()) + _best_fit(rests[rests > 0], length)[1]


def count_concatenated(tokens: int, length: int) -> int:
    """How many rows `plan` makes of so many values in all by concat_and_split."""
    return -(-tokens // length)


def num_blocks(records: int) -> int:
    """Blocks of a shard of so many records; one without records has none."""
    return -(-records // BLOCK_RECORDS)


def groups(records: Sequence[int]) -> list[tuple[int, int]]:
    """Which shards, of so many records each, are packed together: (first, last + 1) of each group, in order.

    Shards join the group before them as long as it has at most BLOCK_RECORDS records; a larger shard is a group by itself, of several blocks.
    """
    result: list[tuple[int, int]] = []
    total = 0
    for shard, count in enumerate(records):
        if result and total + count <= BLOCK_RECORDS:
            result[-1] = (result[-1][0], shard + 1)
            total += count
        else:
            result.append((shard, shard + 1))
            total = count
    return result


def _pieces(sizes: np.ndarray, room: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cuts records [features, n] that are longer than a row. Returns record [m], start and size [features, m]; whole rows come first."""
    count = (-(-sizes // room[:, None])).max(axis=0, initial=0)
    record = np.repeat(np.arange(sizes.shape[1]), count)
    piece = np.arange(len(record)) - np.repeat(np.cumsum(count) - count, count)
    last = piece == count[record] - 1
    order = np.concatenate([np.flatnonzero(~last), np.flatnonzero(last)])
    record, piece = record[order], piece[order]
    start = np.minimum(piece * room[:, None], sizes[:, record])
    return record, start, np.minimum(sizes[:, record] - start, room[:, None])


def _concatenate(sizes: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(row, record, start [1, m], size [1, m]) of records laid end to end and cut at row ends."""
    ends = np.cumsum(sizes)
    total = int(ends[-1]) if len(ends) else 0
    cuts = np.unique(np.concatenate([np.arange(0, total, length), ends - sizes, [total]]))
    begins, stops = cuts[:-1], cuts[1:]
    record = np.searchsorted(ends, begins, side="right")
    start = begins - (ends - sizes)[record] if len(begins) else begins
    return begins // length, record, start[None], (stops - begins)[None]


def _fit(sizes: np.ndarray, room: np.ndarray, best: bool) -> np.ndarray:
    """Row [n] of each piece [features, n]: best-fit decreasing by the largest share of a capacity, or first-fit in the order given."""
    shares = (sizes * _UNIT) // room[:, None]
    order = np.argsort(-shares.max(axis=0, initial=0), kind="stable") if best else np.arange(sizes.shape[1])
    free = np.zeros((len(room), max(1, sizes.shape[1])), dtype=np.int64)
    rows = np.zeros(sizes.shape[1], dtype=np.int64)
    count = closed = 0  # rows opened; rows at the beginning that are full in every feature
    for piece in order.tolist():
        need = sizes[:, piece : piece + 1]
        fits = (free[:, closed:count] >= need).all(axis=0)
        row = -1
        if best:
            candidates = np.flatnonzero(fits)
            if candidates.size:
                left = ((free[:, closed + candidates] - need) * _UNIT // room[:, None]).sum(axis=0)
                row = closed + int(candidates[np.argmin(left)])
        elif fits.any():
            row = closed + int(np.argmax(fits))
        if row < 0:
            row, count = count, count + 1
            free[:, row] = room
        free[:, row] -= need[:, 0]
        rows[piece] = row
        while closed < count and not free[:, closed].any():
            closed += 1
    return rows


def _best_fit(sizes: np.ndarray, capacity: int) -> tuple[np.ndarray, int]:
    """Row int64 [n] of each size [n] (1 <= size <= capacity), and the number of rows: best-fit decreasing of one feature.

    Equal sizes are placed together, so that the work is counted in runs of equal sizes and equal room, not in records.
    """
    order = np.argsort(-sizes, kind="stable")
    lengths, first = np.unique(-sizes[order], return_index=True)
    ends = [*first[1:].tolist(), len(sizes)]
    placed: list[int] = []  # row of each size, in `order`
    room: dict[int, list[int]] = {}  # free tokens -> rows that have as many
    occupied = 0  # the keys of `room` as a bit set: the tightest fit is the lowest bit from `size` up
    count = 0
    for size, begin, end in zip((-lengths).tolist(), first.tolist(), ends):
        wanted = end - begin
        while wanted:
            fits = occupied >> size
            if fits:
                free = size + (fits & -fits).bit_length() - 1
                each = free // size
                most = -(-wanted // each)
                available = room[free]
                if len(available) <= most:
                    taken = room.pop(free)
                    occupied ^= 1 << free
                else:
                    taken = available[-most:]
                    del available[-most:]
            else:
                free, each = capacity, capacity // size
                taken = list(range(count, count - (-wanted // each)))
                count += len(taken)
            number = min(len(taken) * each, wanted)
            placed += taken if each == 1 else [row for row in taken for _ in range(each)][:number]
            wanted -= number
            last = number - (len(taken) - 1) * each  # the last row may have got fewer
            left = free - each * size
            if last < each:
                row, rest = taken.pop(), free - last * size
                room.setdefault(rest, []).append(row)
                occupied |= 1 << rest
            if left and taken:
                room.setdefault(left, []).extend(taken)
                occupied |= 1 << left
    rows = np.empty(len(sizes), dtype=np.int64)
    rows[order] = placed
    return rows, count
