"""A keyed bijection of [0, n): any place of a shuffled order, or where an element went, without ever making the order.

A Feistel network over the smallest number of bits that holds n - 1, halves as equal as they can be, ROUNDS rounds of `hashing.mix64`;
values that fall outside [0, n) walk the cycle until they fall inside (fewer than two steps on average), which keeps the map one to one
(Black and Rogaway, "Ciphers with arbitrary finite domains", CT-RSA 2002). Indices, sizes and keys broadcast, so a batch whose rows come
from different epochs of different tasks takes one call. The order of training data follows from this file: it never changes, and golden
vectors hold it.
"""

import numpy as np

from castor.tasks.hashing import mix64

ROUNDS = 8
MAX_SIZE = 1 << 48


def permute(index, size, key) -> np.ndarray:
    """The element at place `index` of the order of [0, size) under `key`.

    index, size: integers, 0 <= index < size <= MAX_SIZE; key: uint64. All broadcast. Returns int64. Raises ValueError outside the ranges.
    """
    return _walk(index, size, key, range(ROUNDS))


def invert(element, size, key) -> np.ndarray:
    """The place of `element` in the order of [0, size) under `key`: invert(permute(i, n, k), n, k) == i."""
    return _walk(element, size, key, range(ROUNDS - 1, -1, -1))


def _walk(values, sizes, keys, rounds) -> np.ndarray:
    values, sizes = np.asarray(values, dtype=np.int64), np.asarray(sizes, dtype=np.int64)
    keys = np.asarray(keys, dtype=np.uint64)
    if np.any(sizes < 1) or np.any(sizes > MAX_SIZE) or np.any(values < 0) or np.any(values >= sizes):
        raise ValueError(f"a permutation of [0, n) takes 0 <= index < n <= {MAX_SIZE}")
    values, sizes, keys = np.broadcast_arrays(values, sizes, keys)
    shape = values.shape
    x, n, k = values.ravel().astype(np.uint64), sizes.ravel().astype(np.uint64), keys.ravel()
    bits = np.frexp((n - np.uint64(1)).astype(np.float64))[1].astype(
        np.uint64
    )  # bit length of n - 1, exact below 2**53
    pending = np.arange(x.size)
    while pending.size:
        x[pending] = _network(x[pending], bits[pending], k[pending], rounds)
        pending = pending[x[pending] >= n[pending]]
    return x.astype(np.int64).reshape(shape)


def _network(x: np.ndarray, bits: np.ndarray, key: np.ndarray, rounds) -> np.ndarray:
    """A bijection of [0, 2**bits). Even rounds change the upper half by a hash of the lower, odd rounds the lower: halves may differ."""
    one = np.uint64(1)
    low_bits = bits >> one
    low_mask = (one << low_bits) - one
    high_mask = (one << (bits - low_bits)) - one
    low, high = x & low_mask, x >> low_bits
    for number in rounds:
        round_key = mix64(key ^ mix64(np.uint64(number)))
        if number % 2 == 0:
            high = high ^ (mix64(low ^ round_key) & high_mask)
        else:
            low = low ^ (mix64(high ^ round_key) & low_mask)
    return (high << low_bits) | low
