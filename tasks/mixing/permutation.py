"""A keyed bijection of [0, n): evaluates a shuffled order at any index, or its inverse, without building the order.

Example. permute([0, 1, 2, 3, 4], 5, key=78) is [3, 0, 4, 1, 2], and invert(4, 5, key=78) is 2.

The bijection is a Feistel network of ROUNDS rounds of `hashing.mix64` over the smallest number of bits that holds n -
1, split as evenly as possible. A value outside [0, n) walks the cycle until it falls inside, in fewer than two steps
on average; cycle walking keeps the map one to one (Black and Rogaway, "Ciphers with arbitrary finite domains", CT-RSA
2002). For n = 5 the network permutes 3 bits; an output of 5, 6 or 7 is fed back in. Indices, sizes and keys
broadcast: one call serves a batch whose rows come from different epochs of different tasks. The order of training
data depends on this file, so its results must never change; golden vectors in tests/tasks/mixing/test_permutation.py
check them.
"""

import numpy as np

from castor.tasks.hashing import mix64

ROUNDS = 8
MAX_SIZE = 1 << 48


def permute(index, size, key) -> np.ndarray:
    """The element at `index` in the shuffled order of [0, size) under `key`. All arguments broadcast.

    index: integers, 0 <= index < size.

    size: integers, 1 <= size <= MAX_SIZE.

    key: uint64.

    Returns int64 of the broadcast shape. Raises ValueError for an index or a size outside its range.
    """
    return _walk(index, size, key, range(ROUNDS))


def invert(element, size, key) -> np.ndarray:
    """The index of `element` in the shuffled order of [0, size) under `key`: invert(permute(i, n, k), n, k) == i.

    Arguments, result and errors are those of `permute`, with the element in place of the index.
    """
    return _walk(element, size, key, range(ROUNDS - 1, -1, -1))


def _walk(values, sizes, keys, rounds) -> np.ndarray:
    values, sizes = np.asarray(values, dtype=np.int64), np.asarray(sizes, dtype=np.int64)
    keys = np.asarray(keys, dtype=np.uint64)
    if np.any(sizes < 1) or np.any(sizes > MAX_SIZE) or np.any(values < 0) or np.any(values >= sizes):
        raise ValueError(f"a permutation of [0, n) takes 0 <= index < n <= {MAX_SIZE}")
    values, sizes, keys = np.broadcast_arrays(values, sizes, keys)
    shape = values.shape
    x, n, k = values.ravel().astype(np.uint64), sizes.ravel().astype(np.uint64), keys.ravel()
    bits = np.frexp((n - np.uint64(1)).astype(np.float64))[1]  # the bit length of n - 1, exact below 2**53
    bits = bits.astype(np.uint64)
    pending = np.arange(x.size)
    while pending.size:
        x[pending] = _network(x[pending], bits[pending], k[pending], rounds)
        pending = pending[x[pending] >= n[pending]]
    return x.astype(np.int64).reshape(shape)


def _network(x: np.ndarray, bits: np.ndarray, key: np.ndarray, rounds) -> np.ndarray:
    """A bijection of [0, 2**bits): even rounds hash the lower half into the upper, odd rounds the upper into the lower.

    The halves may differ in size by one bit, since neither is ever swapped with the other.
    """
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
