"""Attention on TPU: Pallas's splash attention kernels, which skip what lies above the diagonal and never write a T x T array.

The kernels are JAX's (jax.experimental.pallas.ops.tpu.splash_attention). This room chooses their blocks, brings arrays into their shape, and
writes their table of blocks to visit, from the indices of the queries: so one program serves every shard of a row cut along its length.

Shapes as in train/model.py; i and j number blocks of queries and of keys.
"""

import dataclasses
import functools
import math

import gin
import jax
import jax.numpy as jnp
import numpy as np

from tasks.errors import ConfigurationError

LANES = 128  # the kernels' blocks are multiples of the vector unit's width
RESIDUALS = "attention"  # the name of output and log-sum-exp for remat policies: saved, the backward pass does not run the forward kernel again


@gin.configurable(module="train.splash")
@dataclasses.dataclass(frozen=True)
class Blocks:
    """Tokens a tile, multiples of 128; where the length is no multiple of one, the next smaller that divides it is taken.

    q, kv: of the forward kernel, whose inner loop takes kv_compute keys at a time. q_backward, kv_backward, kv_compute_backward: of the kernel for
    the gradients of keys and values, q_dq, kv_dq: of the one for those of the queries. fused: up to this many key blocks, one backward kernel
    computes all three gradients (5 matrix products a tile for 7) and writes one partial gradient of the queries a key block; 0: never.
    """

    q: int = 1024
    kv: int = 1024
    kv_compute: int = 512
    q_backward: int = 1024
    kv_backward: int = 1024
    kv_compute_backward: int = 512
    q_dq: int = 1024
    kv_dq: int = 1024
    fused: int = 4

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 0 or (field.name != "fused" and (value == 0 or value % LANES)):
                raise ConfigurationError(f"Blocks.{field.name} = {value!r}.", f"Blocks are multiples of {LANES}; fused is a number of key blocks.")


def fit(block: int, length: int) -> int:
    """The largest multiple of 128 up to `block` that divides `length`, itself a multiple of 128."""
    return max(size for size in range(LANES, min(block, length) + 1, LANES) if length % size == 0)


def packed(
    q_BxLxHxK: jax.Array,
    k_BxMxGxK: jax.Array,
    v_BxMxGxK: jax.Array,
    q_segments_BxL: jax.Array,
    kv_segments_BxM: jax.Array,
    blocks: Blocks = Blocks(),
    interpret: bool = False,
) -> jax.Array:
    """Attention inside the segments of packed rows: [B, L, H, K], in the type of `q`; scores and softmax are float32.

    interpret: run the kernels' Python on any device; slow, for tests.
    """
    L, M, heads, kv_heads = q_BxLxHxK.shape[1], k_BxMxGxK.shape[1], q_BxLxHxK.shape[2], k_BxMxGxK.shape[2]
    pad_q, pad_kv = -L % LANES, -M % LANES
    q_BxLxHxK, q_segments_BxL = _pad(q_BxLxHxK, pad_q), _pad(q_segments_BxL, pad_q)
    k_BxMxGxK, v_BxMxGxK, kv_segments_BxM = (_pad(x, pad_kv) for x in (k_BxMxGxK, v_BxMxGxK, kv_segments_BxM))
    kernel = _kernel(L + pad_q, M + pad_kv, heads, kv_heads == 1, blocks, interpret)
    q_BxHxLxK = jnp.swapaxes(q_BxLxHxK * (1.0 / math.sqrt(q_BxLxHxK.shape[-1])), 1, 2)
    if kv_heads == 1:
        k, v = k_BxMxGxK[:, :, 0], v_BxMxGxK[:, :, 0]
    else:
        k, v = jnp.swapaxes(k_BxMxGxK, 1, 2), jnp.swapaxes(v_BxMxGxK, 1, 2)
    o_BxHxLxK = jax.vmap(kernel)(q_BxHxLxK, k, v, _segment_ids(q_segments_BxL, kv_segments_BxM))
    return jnp.swapaxes(o_BxHxLxK, 1, 2)[:, :L]


def _pad(x: jax.Array, count: int) -> jax.Array:
    return jnp.pad(x, ((0, 0), (0, count), *[(0, 0)] * (x.ndim - 2))) if count else x


def _segment_ids(q_BxL, kv_BxM):
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel

    return splash_attention_kernel.SegmentIds(q_BxL, kv_BxM)


def _kernel(q_length: int, kv_length: int, heads: int, multi_query: bool, blocks: Blocks, interpret: bool):
    """The kernel for one row."""
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel, splash_attention_mask

    fitted = {name: fit(size, q_length if name.startswith("q") else kv_length) for name, size in dataclasses.asdict(blocks).items() if name != "fused"}
    fused = kv_length // fitted["kv_backward"] <= blocks.fused
    sizes = splash_attention_kernel.BlockSizes(
        block_q=fitted["q"],
        block_kv=fitted["kv"],
        block_kv_compute=math.gcd(fitted["kv"], fitted["kv_compute"]),
        block_q_dkv=fitted["q_backward"],
        block_kv_dkv=fitted["kv_backward"],
        block_kv_dkv_compute=math.gcd(fitted["kv_backward"], fitted["kv_compute_backward"]),
        block_q_dq=None if fused else fitted["q_dq"],
        block_kv_dq=None if fused else fitted["kv_dq"],
        use_fused_bwd_kernel=fused,
    )
    mask = splash_attention_mask.MultiHeadMask([splash_attention_mask.CausalMask((q_length, kv_length))] * heads)
    make = splash_attention_kernel.make_splash_mqa if multi_query else splash_attention_kernel.make_splash_mha
    return make(mask, block_sizes=sizes, head_shards=1, q_seq_shards=1, residual_checkpoint_name=RESIDUALS, interpret=interpret)
