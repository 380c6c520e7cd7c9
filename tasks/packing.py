"""How the records of a shard lie in rows of a fixed length: a plan made from their lengths alone.

Best-fit decreasing: the longest first, each into the fullest row that still holds it. A record is cut only when it is longer than a row;
it then fills whole rows, and its rest is packed like a short record. Equal lengths are placed together, so that the work is counted in
runs of equal lengths and equal room, not in records. A plan depends on lengths and the row length; the same lengths give the same plan
for ever (golden vectors hold it), since the order of training data follows from it.
"""

import dataclasses

import numpy as np

VERSION = 1


@dataclasses.dataclass(frozen=True)
class Plan:
    """Rows of one shard. Segments of row r are `segments[row_starts[r] : row_starts[r + 1]]`, in the order they lie in the row.

    length: tokens of a full row. row_starts: int64 [num_rows + 1]. record: int32 or int64 [segments], row of the sidecar; start: int64
    [segments], first token of the record; size: int64 [segments], tokens.
    """

    length: int
    row_starts: np.ndarray
    record: np.ndarray
    start: np.ndarray
    size: np.ndarray

    @property
    def num_rows(self) -> int:
        return len(self.row_starts) - 1

    @property
    def tokens(self) -> int:
        return int(self.size.sum())


def plan(lengths: np.ndarray, length: int) -> Plan:
    """Packs records of `lengths` [n] tokens into rows of `length` tokens. Records without tokens are in no row."""
    lengths = np.asarray(lengths, dtype=np.int64)
    if length < 1:
        raise ValueError(f"a row has at least one token, not {length}")
    full_rows = lengths // length
    rests = lengths - full_rows * length
    whole_record = np.repeat(np.arange(len(lengths)), full_rows)
    whole_start = (np.arange(len(whole_record)) - np.repeat(np.cumsum(full_rows) - full_rows, full_rows)) * length
    rest_record = np.flatnonzero(rests)
    rest_row, rest_rows = _best_fit(rests[rest_record], length)

    row = np.concatenate([np.arange(len(whole_record)), rest_row + len(whole_record)])
    record = np.concatenate([whole_record, rest_record])
    start = np.concatenate([whole_start, (full_rows * length)[rest_record]])
    size = np.concatenate([np.full(len(whole_record), length, dtype=np.int64), rests[rest_record]])
    order = np.lexsort((record, row))
    row_starts = np.searchsorted(row[order], np.arange(len(whole_record) + rest_rows + 1))
    return Plan(length, row_starts, record[order], start[order], size[order])


def _best_fit(sizes: np.ndarray, capacity: int) -> tuple[np.ndarray, int]:
    """Row int64 [n] of each size [n] (1 <= size < capacity), and the number of rows."""
    rows = np.zeros(len(sizes), dtype=np.int64)
    order = np.argsort(-sizes, kind="stable")
    lengths, first = np.unique(-sizes[order], return_index=True)
    ends = [*first[1:].tolist(), len(sizes)]
    room: dict[int, list[int]] = {}  # free tokens -> rows that have as many
    occupied = 0  # the keys of `room` as a bit set: the tightest fit is the lowest bit from `size` up
    count = 0
    for size, begin, end in zip((-lengths).tolist(), first.tolist(), ends):
        while begin < end:
            fits = occupied >> size
            if fits:
                free = size + (fits & -fits).bit_length() - 1
                each = free // size
                wanted = -(-(end - begin) // each)
                available = room[free]
                taken = available[-wanted:]
                del available[-wanted:]
                if not available:
                    del room[free]
                    occupied ^= 1 << free
            else:
                free, each = capacity, capacity // size
                taken = list(range(count, count - (-(end - begin) // each)))
                count += len(taken)
            placed = min(len(taken) * each, end - begin)
            rows[order[begin : begin + placed]] = np.repeat(taken, each)[:placed]
            begin += placed
            last = placed - (len(taken) - 1) * each  # the last row may have got fewer
            for left, which in ((free - each * size, taken[:-1]), (free - last * size, taken[-1:])):
                if left and which:
                    room.setdefault(left, []).extend(which)
                    occupied |= 1 << left
    return rows, count
