"""The permutation: bijective on any [0, n), exactly invertible, different for every key, and stable."""

import collections
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from castor.tasks.mixing import permutation

MASK = (1 << 64) - 1
KEYS = st.integers(0, MASK)


def mix64(value):
    z = (value + 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def reference(index, size, key):
    """The same network, one Python integer at a time."""
    bits = (size - 1).bit_length()
    low_bits, high_bits = bits // 2, bits - bits // 2
    while True:
        low, high = index % (1 << low_bits), index >> low_bits
        for number in range(8):
            round_key = mix64(key ^ mix64(number))
            if number % 2 == 0:
                high ^= mix64(low ^ round_key) % (1 << high_bits)
            else:
                low ^= mix64(high ^ round_key) % (1 << low_bits)
        index = (high << low_bits) | low
        if index < size:
            return index


def test_golden_vectors():
    assert permutation.permute(np.arange(10), 10, 0).tolist() == [9, 0, 5, 2, 7, 6, 4, 1, 3, 8]
    assert permutation.permute(np.arange(7), 7, 12345).tolist() == [0, 5, 6, 3, 4, 2, 1]
    assert permutation.permute([0, 1, 10**12 - 1], 10**12, MASK).tolist() == [29491952677, 477374735060, 78448797239]


@settings(derandomize=True, deadline=None)
@given(st.integers(1, 3000), KEYS)
def test_it_is_a_bijection_with_its_inverse(size, key):
    order = permutation.permute(np.arange(size), size, key)
    assert sorted(order.tolist()) == list(range(size))
    assert permutation.invert(order, size, key).tolist() == list(range(size))


@settings(derandomize=True, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2**48 - 1), st.integers(1, 2**48), KEYS), max_size=20))
def test_vectors_of_sizes_and_keys_agree_with_the_reference(rows):
    rows = [(index % size, size, key) for index, size, key in rows]
    index, size, key = (
        np.array(column, dtype=t)
        for column, t in zip(zip(*rows) if rows else ((), (), ()), (np.int64, np.int64, np.uint64))
    )
    assert permutation.permute(index, size, key).tolist() == [reference(*row) for row in rows]


def test_shapes_broadcast():
    assert permutation.permute(3, 10, 5).shape == ()
    assert permutation.permute(np.arange(4)[:, None], 10, np.arange(3, dtype=np.uint64)).shape == (4, 3)


def test_small_orders_all_occur():
    for size in (2, 3, 4):
        counts = collections.Counter(
            tuple(permutation.permute(np.arange(size), size, key).tolist()) for key in range(1200)
        )
        assert set(counts) == set(itertools.permutations(range(size)))
        assert min(counts.values()) > 0.4 * 1200 / len(counts)


def test_places_are_uniform_over_keys():
    size = 50
    places = permutation.permute(np.zeros(5000, np.int64), size, np.arange(5000, dtype=np.uint64))
    counts = np.bincount(places, minlength=size)
    chi_squared = float(((counts - 100) ** 2 / 100).sum())
    assert chi_squared < 90  # 49 degrees of freedom: 99.97%


@pytest.mark.parametrize("index, size", [(0, 0), (5, 5), (-1, 5), (0, 2**48 + 1)])
def test_values_outside_the_ranges_are_refused(index, size):
    with pytest.raises(ValueError):
        permutation.permute(index, size, 0)
