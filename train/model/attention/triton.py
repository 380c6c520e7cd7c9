"""Attention on GPU by Pallas's fused attention kernels on Triton.

The kernels read segment ids, stop at the diagonal and never write a T x T array. They are JAX's
(jax.experimental.pallas.ops.gpu.attention). cuDNN's kernels, used by
jax.nn.dot_product_attention(implementation="cudnn"), accept packed rows only as a T x T mask or with a fixed number of
segments per row. Shapes as in train/model/decoder.py.
"""

import math

import jax
import jax.numpy as jnp

Q_BLOCK, KV_BLOCK = 128, 64  # tokens per tile of the forward kernel
BACKWARD_BLOCK = 32  # of the backward kernels, which hold tiles of both sides in shared memory
MOST_HEAD_DIM = 128  # wider heads do not fit the shared memory of a multiprocessor
PADDING = -1  # the segment that fills up the last tile; being last, no token attends to it


def attend(
    q_BxLxHxK: jax.Array,
    k_BxLxGxK: jax.Array,
    v_BxLxGxK: jax.Array,
    segment_ids_BxL: jax.Array,
    interpret: bool = False,
) -> jax.Array:
    """[B, L, H, K]: every token attends to its own segment up to itself.

    q: [B, L, H, K]. k, v: [B, L, G, K].
    segment_ids: int32 [B, L].
    interpret: run the kernels' Python on any device; slow, for tests.
    """
    from jax.experimental.pallas.ops.gpu import attention as kernels

    L, H, K = q_BxLxHxK.shape[1:]
    q, k, v = (_lengthen(x, 0) for x in (q_BxLxHxK, _repeat(k_BxLxGxK, H), _repeat(v_BxLxGxK, H)))
    sizes = kernels.BlockSizes(
        block_q=Q_BLOCK,
        block_k=KV_BLOCK,
        block_q_dkv=BACKWARD_BLOCK,
        block_kv_dkv=BACKWARD_BLOCK,
        block_q_dq=BACKWARD_BLOCK,
        block_kv_dq=BACKWARD_BLOCK,
    )
    scale = 1.0 / math.sqrt(K)
    o = kernels.mha(
        q,
        k,
        v,
        _lengthen(segment_ids_BxL, PADDING),
        sm_scale=scale,
        causal=True,
        block_sizes=sizes,
        interpret=interpret,
    )
    return o[:, :L]


def _repeat(x_BxLxGxK: jax.Array, heads: int) -> jax.Array:
    """[B, L, H, K]: the kernels read one key-value head per query head."""
    return jnp.repeat(x_BxLxGxK, heads // x_BxLxGxK.shape[2], axis=2)


def _lengthen(x: jax.Array, value: int) -> jax.Array:
    return jnp.pad(x, ((0, 0), (0, -x.shape[1] % Q_BLOCK), *[(0, 0)] * (x.ndim - 2)), constant_values=value)
