"""Checksums of arrays: 64 bits each, identical on every mesh and host count.

A checksum is a sum modulo 2^32 over the elements of an array, where each element's bits are mixed with its index.
Integer sums do not depend on their order, so every device sums its own shard. For a given index the mixing is a
bijection of the bits (the finalizer of MurmurHash3, public domain), so changing one element always changes the sum. Two
sums with different constants make 64 bits.
"""

import hashlib
import json
from typing import Any

import jax
import jax.numpy as jnp

_SEEDS = (0x9E3779B9, 0x7F4A7C15)


def checksums(tree: Any) -> dict[str, str]:
    """Array name -> 16 hex digits, for a tree of jax.Arrays on any mesh. Every process gets the same result."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    sums = jax.device_get(_sums([leaf for _, leaf in leaves]))
    names = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves]
    return {name: "".join(f"{int(part):08x}" for part in pair) for name, pair in zip(names, sums)}


def digest(sums: Any) -> str:
    """16 hex digits summarizing a dict (or a dict of dicts) of checksums."""
    return hashlib.blake2b(json.dumps(sums, sort_keys=True).encode(), digest_size=8).hexdigest()


@jax.jit
def _sums(leaves: list[jax.Array]) -> list[list[jax.Array]]:
    return [[_sum(leaf, seed) for seed in _SEEDS] for leaf in leaves]


def _sum(array: jax.Array, seed: int) -> jax.Array:
    if array.dtype == jnp.bool_:
        array = array.astype(jnp.uint8)
    # 8-byte elements become pairs.
    bits = jax.lax.bitcast_convert_type(array, f"uint{min(array.dtype.itemsize, 4) * 8}").astype(jnp.uint32)
    index = jnp.zeros((), jnp.uint32)
    for axis, size in enumerate(bits.shape):
        index = index * jnp.uint32(size % 2**32) + jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis)
    mixed = bits ^ (index * jnp.uint32(seed) + jnp.uint32(seed >> 1))
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        mixed = (mixed ^ (mixed >> shift)) * jnp.uint32(factor)
    return jnp.sum(mixed ^ (mixed >> 16), dtype=jnp.uint32)
