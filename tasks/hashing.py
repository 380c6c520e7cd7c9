"""Castor's own integer hash: fixed and versioned, with equal results in every release and on every machine.

Every pseudo-random choice in the data order follows from this file: the shard of a record and its rank in the shard,
the permutation of an epoch, and whether a caption comes before or after its image. The functions must therefore never
change; golden vectors in tests/tasks/test_hashing.py check them. A new scheme gets a new VERSION and new functions.

`mix64` is the finalizer of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014; constants of Stafford's variant 13): a
bijection of 64-bit integers in which every output bit depends on every input bit. `key64` condenses names and seeds
into 64 bits with BLAKE2b. Keys are derived a few times per run, never per element.
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
    # A copy, and an array even for one value: numpy warns when a scalar wraps around, and wrapping is intended.
    z = np.array(values, dtype=np.uint64)
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
    """Condenses parts into a 64-bit key.

    parts: strings, integers and bytes. Each part is typed and length-prefixed, so ("ab", "c") and ("a", "bc") differ,
    and so do 1 and "1".

    Raises TypeError for a part of another type.
    """
    digest = hashlib.blake2b(digest_size=8, person=b"castor.key64.v1")
    for part in parts:
        if isinstance(part, bool) or not isinstance(part, (str, int, bytes)):
            raise TypeError(f"key64 takes str, int and bytes, got {type(part).__name__}")
        kind = {str: b"s", int: b"i", bytes: b"b"}[type(part)]
        data = part if isinstance(part, bytes) else str(part).encode("utf-8", "surrogatepass")
        digest.update(kind + len(data).to_bytes(8, "little") + data)
    return int.from_bytes(digest.digest(), "little")


def record_hash(seed: int, document_id: str) -> int:
    """A document's key in the offline shuffle: a uniform 64-bit integer.

    seed: shuffle seed of the cache or corpus.

    document_id: 32 hexadecimal digits.

    Raises ValueError unless the id is 128 bits of hexadecimal.
    """
    if len(document_id) != 32:
        raise ValueError(f"a document id must have 32 hexadecimal digits, got {document_id!r}")
    low, high = int(document_id[16:], 16), int(document_id[:16], 16)
    key = np.uint64(key64("record", seed))
    return int(mix64(mix64(np.uint64(low) ^ key) ^ np.uint64(high)))


def shard_of(hash64: int, num_shards: int) -> int:
    """The index of the interval that holds a hash when the 64-bit range is cut into `num_shards` equal intervals.

    Example: with 4 shards, hashes below 2**62 go to shard 0, and the largest hashes go to shard 3.
    """
    return ((hash64 & _MASK_64) * num_shards) >> 64
