"""Attention on TPU by Pallas's splash attention kernels, which skip tiles above the diagonal.

The kernels never write a T x T array. They are JAX's (jax.experimental.pallas.ops.tpu.splash_attention). This module
chooses their block sizes, arranges arrays in their layout, and computes their table of blocks to visit from the indices
of the queries. One program therefore serves every shard of a row that is split along its length.

Shapes as in train/model/decoder.py; i and j are indices of blocks of queries and of keys.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp

import gin
from castor.tasks.checks import is_integer
from castor.tasks.errors import ConfigurationError
from castor.train.model.attention import blockwise

LANES = 128  # the kernels' blocks are multiples of the vector unit's width
RESIDUALS = blockwise.RESIDUALS


@gin.configurable("Blocks", module="train.splash")
@dataclasses.dataclass(frozen=True)
class BlockSizes:
    """Tile sizes of the kernels: at most this many tokens, multiples of 128.

    If a size does not divide the length, the next smaller one that does is used. Beyond 512, q, kv, q_dq and kv_dq are
    at most a quarter of a row.

    q, kv: of the forward kernel, whose inner loop reads kv_compute keys at a time.
    q_backward, kv_backward, kv_compute_backward: of the kernel for the gradients of keys and values.
    q_dq, kv_dq: of the kernel for the gradients of queries.
    fused: up to this many key blocks, one backward kernel computes all three gradients (5 matrix products per tile
        instead of 7) and writes one partial gradient of the queries per key block; 0: never.
    sparse_from: rows at least this long also skip tiles between segments that have nothing in common. Every row then
        has its own table of tiles, and the rows of a device run sequentially; shorter rows run together.
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
    sparse_from: int = 8192

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            least, step = (0, 1) if field.name in ("fused", "sparse_from") else (LANES, LANES)
            if not is_integer(value, at_least=least) or value % step:
                raise ConfigurationError(
                    f"Blocks.{field.name} = {value!r}.",
                    f"Tiles are multiples of {LANES} tokens; fused and sparse_from are integers.",
                )


def fit(block: int, length: int) -> int:
    """The largest multiple of 128 up to `block` that divides `length`, itself a multiple of 128."""
    return max(size for size in range(LANES, min(block, length) + 1, LANES) if length % size == 0)


def attend(
    q_BxLxHxK: jax.Array,
    k_BxMxGxK: jax.Array,
    v_BxMxGxK: jax.Array,
    q_segments_BxL: jax.Array,
    kv_segments_BxM: jax.Array,
    q_index_L: jax.Array,
    blocks: BlockSizes = BlockSizes(),
    runs: int = 1,
    interpret: bool = False,
) -> jax.Array:
    """[B, L, H, K] in the dtype of `q`: the query at index t of its row attends to keys 0 ... t of its segment.

    q: [B, L, H, K]. k, v: [B, M, G, K].
    q_segments, kv_segments: int32 [B, L], [B, M].
    q_index: int32 [L], in `runs` equally long runs of consecutive indices.
    blocks: tile sizes.
    interpret: run the kernels' Python on any device; slow, for tests.

    Scores and softmax are float32.
    """
    L, M = q_BxLxHxK.shape[1], k_BxMxGxK.shape[1]
    pad_q, pad_kv = -L % LANES, -M % LANES
    q_BxLxHxK, q_segments_BxL = _pad(q_BxLxHxK, pad_q), _pad(q_segments_BxL, pad_q)
    k_BxMxGxK, v_BxMxGxK, kv_segments_BxM = (_pad(x, pad_kv) for x in (k_BxMxGxK, v_BxMxGxK, kv_segments_BxM))
    q_index_L = jnp.pad(q_index_L, (0, pad_q), constant_values=M + pad_kv - 1)
    sizes = tiles(q_index_L.shape[0] // (1 if pad_q else runs), M + pad_kv, blocks)

    def table(q_block: int, kv_block: int, keys_outside: bool):
        index_1xNxQ = q_index_L.reshape(1, -1, q_block)
        kv_starts = kv_segments_BxM.reshape(kv_segments_BxM.shape[0], -1, kv_block)
        if M < blocks.sparse_from:  # one table for all rows
            needed_BxNxJ = blockwise.needed(jnp.zeros_like(index_1xNxQ), jnp.zeros_like(kv_starts[:1]), index_1xNxQ)
        else:
            needed_BxNxJ = blockwise.needed(
                q_segments_BxL.reshape(-1, index_1xNxQ.shape[1], q_block), kv_starts, index_1xNxQ
            )
        return visits(needed_BxNxJ, keys_outside)

    fused = sizes["use_fused_bwd_kernel"]
    tables = (
        table(sizes["block_q"], sizes["block_kv"], False),
        None if fused else table(sizes["block_q_dq"], sizes["block_kv_dq"], False),
        table(sizes["block_q_dkv"], sizes["block_kv_dkv"], True),
    )
    q_BxHxLxK = jnp.swapaxes(q_BxLxHxK * (1.0 / math.sqrt(q_BxLxHxK.shape[-1])), 1, 2)
    k_BxGxMxK, v_BxGxMxK = (jnp.swapaxes(x, 1, 2) for x in (k_BxMxGxK, v_BxMxGxK))
    row = functools.partial(_row, q_index_L=q_index_L, sizes=tuple(sizes.items()), interpret=interpret)
    together = jax.vmap(row, in_axes=(0, 0, 0, 0, 0, None))  # all rows share one table
    rows = q_BxHxLxK, k_BxGxMxK, v_BxGxMxK, q_segments_BxL, kv_segments_BxM
    if tables[0][0].shape[0] == 1:
        o_BxHxLxK = together(*rows, jax.tree.map(lambda table_1xNxJ: table_1xNxJ[0], tables))
    else:  # explicit loop: the kernels' batching rule would lose their names in the compiled program
        o_Bx1xHxLxK = jax.lax.map(lambda of_row: together(*of_row), (*jax.tree.map(lambda x: x[:, None], rows), tables))
        o_BxHxLxK = o_Bx1xHxLxK[:, 0]
    return jnp.swapaxes(o_BxHxLxK, 1, 2)[:, :L]


def _row(
    q_HxLxK, k_GxMxK, v_GxMxK, q_segments_L, kv_segments_M, tables, q_index_L, sizes, interpret: bool
) -> jax.Array:
    """Attention of one row: [H, L, K]."""
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
    from jax.experimental.pallas.ops.tpu.splash_attention.splash_attention_mask_info import MaskInfo

    def information(table):
        if table is None:
            return None
        following_NxJ, needed_NxJ = table
        return MaskInfo(
            data_next=following_NxJ[None],
            mask_next=None,
            block_mask=needed_NxJ[None],
            partial_mask_blocks=None,
            q_sequence=q_index_L,
        )

    kernel = kernels.SplashAttentionKernel(
        *map(information, tables),
        block_sizes=kernels.BlockSizes(**dict(sizes)),
        is_mqa=False,  # the grouped-heads kernels also support a single group
        save_residuals=False,
        mask_value=kernels.DEFAULT_MASK_VALUE,
        attn_logits_soft_cap=None,
        residual_checkpoint_name=RESIDUALS,
        mask_function=_causal,
        interpret=interpret,
    )
    return kernel(q_HxLxK, k_GxMxK, v_GxMxK, kernels.SegmentIds(q_segments_L, kv_segments_M))


def _causal(q_index, kv_index):
    return q_index >= kv_index


def visits(needed_BxNxJ: jax.Array, keys_outside: bool) -> tuple[jax.Array, jax.Array]:
    """The kernels' table of blocks: (block to fetch, whether it is needed), int32 [B, N, J] each.

    The block to fetch at (i, j) is block j if needed, else the next one that is needed, so that no fetch is wasted. It
    is a block of keys for kernels whose inner loop runs over keys, and a block of queries if `keys_outside`.
    """
    needed = jnp.swapaxes(needed_BxNxJ, 1, 2) if keys_outside else needed_BxNxJ  # [B, outer, inner]
    outer, inner = needed.shape[1:]
    places = jnp.arange(outer * inner, dtype=jnp.int32)
    needed_BxP = needed.reshape(-1, outer * inner)
    following_BxP = jax.lax.cummin(jnp.where(needed_BxP, places, outer * inner), axis=1, reverse=True)
    following_BxP = jnp.where(
        following_BxP < outer * inner, following_BxP, jnp.argmax(needed_BxP, axis=1, keepdims=True).astype(jnp.int32)
    )
    following = (following_BxP % inner).reshape(needed.shape)
    if keys_outside:
        following = jnp.swapaxes(following, 1, 2)
    return following, needed_BxNxJ.astype(jnp.int32)


def tiles(q_run: int, kv_length: int, blocks: BlockSizes) -> dict[str, int | bool | None]:
    """The kernels' block sizes for queries in runs of `q_run` and `kv_length` keys, both multiples of 128."""
    # With four tiles per side, the masked halves of diagonal tiles waste a fifth of the work; with two, a third. Tiles
    # under 512 cost more in start-up.
    most = max(512, kv_length // 4)
    q, kv, kv_backward = (
        fit(min(blocks.q, most), q_run),
        fit(min(blocks.kv, most), kv_length),
        fit(blocks.kv_backward, kv_length),
    )
    fused = kv_length // kv_backward <= blocks.fused
    return {
        "block_q": q,
        "block_kv": kv,
        "block_kv_compute": fit(blocks.kv_compute, kv),
        "block_q_dkv": fit(blocks.q_backward, q_run),
        "block_kv_dkv": kv_backward,
        "block_kv_dkv_compute": fit(blocks.kv_compute_backward, kv_backward),
        "block_q_dq": None if fused else fit(min(blocks.q_dq, most), q_run),
        "block_kv_dq": None if fused else fit(min(blocks.kv_dq, most), kv_length),
        "use_fused_bwd_kernel": fused,
    }


def _pad(x: jax.Array, count: int) -> jax.Array:
    return jnp.pad(x, ((0, 0), (0, count), *[(0, 0)] * (x.ndim - 2))) if count else x
