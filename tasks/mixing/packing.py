"""Packing: assigns the records of a block to rows of a fixed length, from the record lengths alone.

    best_fit          (default) longest record first, each into the fullest row that still holds it: best-fit decreasing
    first_fit         in cache order, each into the first row that still holds it
    concat_and_split  in cache order, end to end, cut wherever a row ends

Example. Records 0 to 4 have 5, 3, 4, 2 and 9 tokens; a row holds 8.

    best_fit, first_fit    [4: tokens 0-7] [0, 1] [2, 3, 4: token 8]
    concat_and_split       [0, 1] [2, 3, 4: tokens 0-1] [4: tokens 2-8]

best_fit and first_fit cut a record only if it is longer than a row: into row-sized pieces and a remainder, which is
packed like a short record. With several features (tokens and patches, say) each feature has its own capacity, and a
record must fit in all of them. A record that exceeds one capacity is cut in all features at once: piece k takes
values [k * capacity, (k + 1) * capacity) of each feature.

A shard is packed in blocks of BLOCK_RECORDS records, so a batch needs only the plans of the blocks it reads. Small
shards are packed together, up to the records of one block, so that rows are full in small caches too. A plan depends
on the lengths, the capacities and the method. The same lengths must always give the same plan, because the order of
training data follows from it; golden vectors in tests/tasks/mixing/test_packing.py check this.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

VERSION = 1
METHODS = ("best_fit", "first_fit", "concat_and_split")
BLOCK_RECORDS = 16384
STANDARD_LENGTHS = tuple(1 << bits for bits in range(6, 16))
"""Row lengths whose number of best_fit rows is stored when a cache is written: opening the cache then needs no plan."""

_UNIT = 1 << 20
"""Free capacity is compared across features in units of 1 / _UNIT of each capacity."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """The rows of one block. Row r holds segments `row_starts[r]` to `row_starts[r + 1]`, in order.

    A segment is one piece of one record, as in `segment_ids` of a batch.

    capacities: feature -> values in a full row.

    row_starts: int32 [num_rows + 1], first segment of each row.

    record: int32 [segments], record of each segment, counted within the block.

    start: int32 [features, segments], first value of each segment, with features in the order of `capacities`.

    size: int32 [features, segments], number of values of each segment.
    """

    capacities: Mapping[str, int]
    row_starts: np.ndarray
    record: np.ndarray
    start: np.ndarray
    size: np.ndarray

    @property
    def num_rows(self) -> int:
        """Number of rows."""
        return len(self.row_starts) - 1

    def values(self, feature: str = "targets") -> int:
        """Total number of values of a feature in all rows."""
        return int(self.size[list(self.capacities).index(feature)].sum(dtype=np.int64))


def plan(lengths: Mapping[str, Sequence[int]], capacities: Mapping[str, int], method: str = "best_fit") -> Plan:
    """Packs records into rows.

    lengths: feature -> integers [records], the number of values of each record.

    capacities: feature -> values per row, for the same features.

    method: one of METHODS.

    Records without values get no row. Raises ValueError for an unknown method, a capacity below 1, features that differ
    between lengths and capacities, and concat_and_split with several features.
    """
    names = list(capacities)
    if method not in METHODS or set(lengths) != set(names) or not names:
        raise ValueError(f"cannot pack {sorted(lengths)} into {dict(capacities)} by {method!r}")
    if min(capacities.values()) < 1:
        raise ValueError(f"every capacity must be at least 1: {dict(capacities)}")
    if method == "concat_and_split" and len(names) > 1:
        raise ValueError("concat_and_split packs exactly one feature")
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
    """The number of rows that `plan` makes of one feature with best_fit.

    lengths: integers [records], values of each record.

    length: values per row.
    """
    lengths = np.asarray(lengths, dtype=np.int64)
    rests = lengths % length
    return int((lengths // length).sum()) + _best_fit(rests[rests > 0], length)[1]


def count_concatenated(tokens: int, length: int) -> int:
    """The number of rows that `plan` makes with concat_and_split: 17 tokens fill 3 rows of 8.

    tokens: values of all records together.

    length: values per row.
    """
    return -(-tokens // length)


def num_blocks(records: int) -> int:
    """The number of blocks in a shard of `records` records; an empty shard has none."""
    return -(-records // BLOCK_RECORDS)


def groups(records: Sequence[int]) -> list[tuple[int, int]]:
    """Groups of consecutive shards that are packed together: (first, last + 1) of each group, in order.

    Example: 9000, 9000, 5000, 2000, 40000 and 1 records give (0, 1), (1, 4), (4, 5), (5, 6).

    A shard joins the previous group if the group then has at most BLOCK_RECORDS (16384) records. A larger shard forms
    its own group, with several blocks.

    records: number of records of each shard.
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
    """Cuts records that are longer than a row.

    Returns record [m], start and size [features, m]. Row-sized pieces come first.

    sizes: int64 [features, n].

    room: int64 [features], capacities.
    """
    count = (-(-sizes // room[:, None])).max(axis=0, initial=0)
    record = np.repeat(np.arange(sizes.shape[1]), count)
    piece = np.arange(len(record)) - np.repeat(np.cumsum(count) - count, count)
    last = piece == count[record] - 1
    order = np.concatenate([np.flatnonzero(~last), np.flatnonzero(last)])
    record, piece = record[order], piece[order]
    start = np.minimum(piece * room[:, None], sizes[:, record])
    return record, start, np.minimum(sizes[:, record] - start, room[:, None])


def _concatenate(sizes: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(row, record, start [1, m], size [1, m]) of records joined end to end and cut at row ends."""
    ends = np.cumsum(sizes)
    total = int(ends[-1]) if len(ends) else 0
    cuts = np.unique(np.concatenate([np.arange(0, total, length), ends - sizes, [total]]))
    begins, stops = cuts[:-1], cuts[1:]
    record = np.searchsorted(ends, begins, side="right")
    start = begins - (ends - sizes)[record] if len(begins) else begins
    return begins // length, record, start[None], (stops - begins)[None]


def _fit(sizes: np.ndarray, room: np.ndarray, best: bool) -> np.ndarray:
    """Row [n] of each piece [features, n]: first-fit in order, or best-fit decreasing by share of a capacity."""
    shares = (sizes * _UNIT) // room[:, None]
    order = np.argsort(-shares.max(axis=0, initial=0), kind="stable") if best else np.arange(sizes.shape[1])
    free = np.zeros((len(room), max(1, sizes.shape[1])), dtype=np.int64)
    rows = np.zeros(sizes.shape[1], dtype=np.int64)
    count = closed = 0  # rows opened; leading rows that are full in every feature
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
    """Best-fit decreasing of one feature: row int64 [n] of each size [n] (1 <= size <= capacity), and the number of
    rows.

    Equal sizes are assigned together, so the cost grows with the number of distinct sizes and free capacities, not
    with the number of records.
    """
    order = np.argsort(-sizes, kind="stable")
    lengths, first = np.unique(-sizes[order], return_index=True)
    ends = [*first[1:].tolist(), len(sizes)]
    placed: list[int] = []  # row of each size, in `order`
    room: dict[int, list[int]] = {}  # free tokens -> rows with exactly that number of free tokens
    occupied = 0  # the keys of `room` as a bit set: the tightest fit is the lowest set bit at or above `size`
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
            last = number - (len(taken) - 1) * each  # the last row may have received fewer
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
