"""Packing: every token once, nothing cut that fits a row, rows as full as best-fit decreasing makes them, the same plan for ever."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks import packing

LENGTHS = st.lists(st.integers(0, 70), max_size=60)


def best_fit_decreasing(lengths, length):
    """The textbook's algorithm, one record at a time. Returns the free tokens of each row."""
    rows = [0] * sum(n // length for n in lengths)
    for rest in sorted((n % length for n in lengths if n % length), reverse=True):
        fitting = [i for i, free in enumerate(rows) if free >= rest]
        if not fitting:
            rows.append(length)
            fitting = [len(rows) - 1]
        rows[min(fitting, key=lambda i: rows[i])] -= rest
    return rows


def test_golden_vectors():
    plan = packing.plan([5, 12, 3, 0, 4, 2, 8, 1, 1], 8)
    assert plan.row_starts.tolist() == [0, 1, 2, 4, 6, 9]
    assert plan.record.tolist() == [1, 6, 0, 2, 1, 4, 5, 7, 8]
    assert plan.start.tolist() == [0, 0, 0, 0, 8, 0, 0, 0, 0]
    assert plan.size.tolist() == [8, 8, 5, 3, 4, 4, 2, 1, 1]


@settings(derandomize=True, deadline=None, max_examples=200)
@given(LENGTHS, st.integers(1, 40))
def test_every_token_once_and_only_long_records_cut(lengths, length):
    plan = packing.plan(np.array(lengths, np.uint32), length)
    seen = {}
    for record, start, size in zip(plan.record.tolist(), plan.start.tolist(), plan.size.tolist()):
        seen.setdefault(record, []).append((start, start + size))
    assert set(seen) == {i for i, n in enumerate(lengths) if n}
    for record, pieces in seen.items():
        pieces.sort()
        assert pieces[0][0] == 0 and pieces[-1][1] == lengths[record]
        assert all(a[1] == b[0] for a, b in zip(pieces, pieces[1:]))
        assert len(pieces) == -(-lengths[record] // length)
    filled = [int(plan.size[a:b].sum()) for a, b in zip(plan.row_starts, plan.row_starts[1:])]
    assert all(0 < tokens <= length for tokens in filled)
    assert plan.tokens == sum(lengths)
    for a, b in zip(plan.row_starts, plan.row_starts[1:]):
        assert plan.record[a:b].tolist() == sorted(plan.record[a:b].tolist())


@settings(derandomize=True, deadline=None, max_examples=200)
@given(LENGTHS, st.integers(1, 40))
def test_it_is_best_fit_decreasing(lengths, length):
    plan = packing.plan(lengths, length)
    free = [length - int(plan.size[a:b].sum()) for a, b in zip(plan.row_starts, plan.row_starts[1:])]
    assert sorted(free) == sorted(best_fit_decreasing(lengths, length))


def test_no_records():
    assert packing.plan([], 8).num_rows == 0
    assert packing.plan([0, 0], 8).num_rows == 0
    with pytest.raises(ValueError):
        packing.plan([1], 0)


def test_rows_are_full_and_it_is_fast():
    lengths = np.minimum(np.exp(np.random.Generator(np.random.PCG64(0)).normal(6, 1.2, 200_000)), 1e6).astype(np.int64)
    begin = time.perf_counter()
    plan = packing.plan(lengths, 2048)
    assert time.perf_counter() - begin < 5
    assert plan.tokens / (plan.num_rows * 2048) > 0.99
