"""The hash never changes: golden vectors from SplitMix64's published stream and from BLAKE2b by hand."""

import collections
import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from castor.tasks import hashing

GOLDEN = 0x9E3779B97F4A7C15
MASK = (1 << 64) - 1
# The first outputs of SplitMix64 from seed 0, as its authors' C program (prng.di.unimi.it/splitmix64.c) prints them.
SPLITMIX64 = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F, 0xF88BB8A8724C81EC]


def reference_mix64(value):
    z = (value + GOLDEN) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def test_mix64_is_splitmix64():
    states = np.array([(i * GOLDEN) & MASK for i in range(4)], dtype=np.uint64)
    assert hashing.mix64(states).tolist() == SPLITMIX64


@settings(derandomize=True, deadline=None)
@given(st.integers(0, MASK))
def test_mix64_agrees_with_integers_of_any_size(value):
    assert int(hashing.mix64(np.uint64(value))) == reference_mix64(value)


def test_key64_is_blake2b_of_typed_length_prefixed_parts():
    data = (
        b"s"
        + (1).to_bytes(8, "little")
        + b"a"
        + b"i"
        + (1).to_bytes(8, "little")
        + b"1"
        + b"b"
        + (1).to_bytes(8, "little")
        + b"x"
    )
    expected = hashlib.blake2b(data, digest_size=8, person=b"castor.key64.v1").digest()
    assert hashing.key64("a", 1, b"x") == int.from_bytes(expected, "little") == 1802613132898546361
    assert hashing.key64() == 9408931382365886771
    assert hashing.key64("castor") == 13239742753926672390


def test_key64_tells_parts_apart():
    parts = [("ab", "c"), ("a", "bc"), ("abc",), ("1",), (1,), (b"1",), (), ("",), ("", ""), (-1,), (1 << 70,)]
    assert len({hashing.key64(*p) for p in parts}) == len(parts)
    with pytest.raises(TypeError):
        hashing.key64(True)
    with pytest.raises(TypeError):
        hashing.key64(1.0)


def test_record_hash():
    assert hashing.record_hash(0, "0" * 32) == 9001488122882506883
    assert hashing.record_hash(7, "0123456789abcdef" * 2) == 7130827538275072517
    low, high, key = 0xFEDCBA9876543210, 0x0123456789ABCDEF, hashing.key64("record", 9)
    assert hashing.record_hash(9, f"{high:016x}{low:016x}") == reference_mix64(reference_mix64(low ^ key) ^ high)
    with pytest.raises(ValueError):
        hashing.record_hash(0, "abc")


def test_shard_of_cuts_equal_ordered_intervals():
    assert [hashing.shard_of(h, 4) for h in (0, (1 << 62) - 1, 1 << 62, MASK)] == [0, 0, 1, 3]
    hashes = [hashing.record_hash(1, f"{i:032x}") for i in range(4000)]
    assert len(set(hashes)) == 4000
    counts = collections.Counter(hashing.shard_of(h, 8) for h in hashes)
    assert min(counts.values()) > 400 and max(counts.values()) < 600
    assert [hashing.shard_of(h, 8) for h in sorted(hashes)] == sorted(hashing.shard_of(h, 8) for h in hashes)
