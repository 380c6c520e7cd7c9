"""Castor's own integer hash: fixed, versioned, and the same in every release, on every machine.

Order is data here. Which shard a record is cut to, where it stands in the shard, how an epoch is permuted and which way round an image and
its caption are told all follow from the functions of this file, so they may never change: golden vectors in
tests/tasks/test_hashing.py fail if one does. A new scheme gets a new VERSION and new functions beside these.

`mix64` is the finalizer of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014; constants of Stafford's variant 13): a bijection of 64-bit
integers whose every output bit depends on every input bit. `key64` condenses names and seeds into 64 bits with BLAKE2b; it is
used to derive keys, a handful a run, never an element.
"""

import hashlib

import numpy as np

VERSION = 1

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_ROUNDS = ((np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)), (np.uint64(27), np.uint64(0x94D049BB133111EB)))
_LAST_SHIFT = np.uint64(31)
_MASK_64 = (1 << 64) - 1


def mix64(values) -> np.ndarray:
    """Maps uint64 values [...] to well-mixed uint64 values [...], one to one."""
    z = np.array(
        values, dtype=np.uint64
    )  # a copy, and an array even for one value: numpy warns where a scalar wraps, which is meant here
    z += _GOLDEN
    shifted = np.empty_like(z)
    for shift, multiplier in _ROUNDS:
        np.right_shift(z, shift, out=shifted)
        z ^= shifted
        z *= multiplier
    np.right_shift(z, _LAST_SHIFT, out=shifted)
    z ^= shifted
    return z[()]


def key64(*parts: str | int | bytes) -> int:
    """Condenses parts into a 64-bit key. Parts are length-prefixed and typed, so ("ab", "c") and ("a", "bc"), or 1 and "1", differ."""
    digest = hashlib.blake2b(digest_size=8, person=b"castor.key64.v1")
    for part in parts:
        if isinstance(part, bool) or not isinstance(part, (str, int, bytes)):
            raise TypeError(f"key64 takes str, int and bytes, got {type(part).__name__}")
        kind = {str: b"s", int: b"i", bytes: b"b"}[type(part)]
        data = part if isinstance(part, bytes) else str(part).encode("utf-8", "surrogatepass")
        digest.update(kind + len(data).to_bytes(8, "little") + data)
    return int.from_bytes(digest.digest(), "little")


def record_hash(seed: int, document_id: str) -> int:
    """The place of a document in the offline shuffle: a uniform 64-bit integer from the seed and the 32 hex digits of the id.

    Raises ValueError if the id is not 128 bits of hexadecimal.
    """
    if len(document_id) != 32:
        raise ValueError(f"a document id is 32 hexadecimal digits, got {document_id!r}")
    low, high = int(document_id[16:], 16), int(document_id[:16], 16)
    key = np.uint64(key64("record", seed))
    return int(mix64(mix64(np.uint64(low) ^ key) ^ np.uint64(high)))


def shard_of(hash64: int, num_shards: int) -> int:
    """Cuts the range of a 64-bit hash into `num_shards` equal, ordered intervals and returns the interval's index."""
    return ((hash64 & _MASK_64) * num_shards) >> 64
