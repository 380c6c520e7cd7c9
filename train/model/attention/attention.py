"""Segment-masked causal attention: the mask, the choice of kernel, and sharding over the mesh.

`packed` reads whole packed rows. `cached` reads the next tokens of sequences whose keys and values are in a cache.
Shapes as in train/model/decoder.py.

`packed` runs one of these kernels on every device, on the device's shard of batch, length and heads:

    full       scores of a whole row at once, float32 softmax: the reference, and the fastest for short rows
    blockwise  a running softmax over blocks (train/model/attention/blockwise.py): linear memory on any device
    splash     Pallas's kernels for TPU (train/model/attention/splash.py)
    triton     Pallas's kernels for GPU (train/model/attention/triton.py)

docs/attention.md describes which kernel is chosen where, and what each costs.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp

from castor.tasks.errors import ConfigurationError
from castor.train.model.attention import blockwise, context, splash, triton
from castor.train.partitioning import Partitioner

MASKED = blockwise.MASKED
KERNELS = ("auto", "full", "blockwise", "splash", "triton")
FEW_QUERIES = 16  # up to this many queries per sequence, all scores are computed at once


def packed(
    q_BxLxHxK: jax.Array,
    k_BxLxGxK: jax.Array,
    v_BxLxGxK: jax.Array,
    segment_ids_BxL: jax.Array,
    kernel: str = "auto",
    partitioner: Partitioner | None = None,
    blocks: splash.BlockSizes = splash.BlockSizes(),
) -> jax.Array:
    """Attention within the segments of packed rows: [B, L, H, K].

    q: [B, L, H, K]. k, v: [B, L, G, K].
    segment_ids: int32 [B, L]; 0 is padding.
    kernel: one of KERNELS.
    partitioner: its mesh may split batch, length and heads; None: one device.
    blocks: tile sizes of splash.

    Output and log-sum-exp of a kernel carry the name blockwise.RESIDUALS for remat policies.
    """
    platform = _platform(partitioner)
    L, K, length_parts = q_BxLxHxK.shape[1], q_BxLxHxK.shape[3], partitioner.size("length") if partitioner else 1
    device = _Device(choose(kernel, platform, L, K, q_BxLxHxK.dtype, length_parts), blocks, platform)
    if partitioner is None or partitioner.mesh.size == 1:
        return device.attend(q_BxLxHxK, k_BxLxGxK, v_BxLxGxK, segment_ids_BxL)
    # Sharded manually: the compiler cannot split a kernel and would not balance the work.
    heads, kv_heads, head_parts = q_BxLxHxK.shape[2], k_BxLxGxK.shape[2], partitioner.size("act_heads")
    kv_heads_cut = kv_heads % head_parts == 0
    q_spec = partitioner.spec(("batch", "length", "act_heads", "head"), "queries")
    kv_spec = partitioner.spec(("batch", "length", "act_heads" if kv_heads_cut else None, "head"), "keys and values")
    segments_spec = partitioner.spec(("batch", "length"), "segment ids")
    device = dataclasses.replace(
        device,
        length_axes=_names(q_spec[1]),
        length_parts=length_parts,
        head_axes=_names(q_spec[2]),
        heads=heads,
        select_heads=kv_heads > 1 and not kv_heads_cut,
    )
    cut = jax.shard_map(
        device.attend,
        mesh=partitioner.mesh,
        in_specs=(q_spec, kv_spec, kv_spec, segments_spec),
        out_specs=q_spec,
        check_vma=False,
    )
    return cut(q_BxLxHxK, k_BxLxGxK, v_BxLxGxK, segment_ids_BxL)


def choose(
    kernel: str, platform: str, length: int, head_dim: int = 128, dtype=jnp.bfloat16, length_parts: int = 1
) -> str:
    """The kernel that "auto" selects; any other kernel is returned unchanged.

    kernel: one of KERNELS.
    platform: "cpu", "gpu" or "tpu".
    length: tokens per row, split into `length_parts` over devices.
    head_dim, dtype: of the queries.

    Rows shorter than a tile support only `full`. Raises ConfigurationError if the kernel is unknown or does not support
    the arguments.
    """
    if kernel not in KERNELS:
        raise ConfigurationError(f"Transformer.attention = {kernel!r}.", f"Choose one of {', '.join(KERNELS)}.")
    for_triton = head_dim <= triton.MOST_HEAD_DIM and jnp.dtype(dtype).itemsize == 2 and length_parts == 1
    if kernel == "triton" and length_parts > 1:
        raise ConfigurationError(
            "Transformer.attention = 'triton' reads whole rows; MESH splits them.",
            "Choose 'blockwise', or do not split the length.",
        )
    if kernel == "auto":
        kernel = (
            "splash"
            if platform == "tpu"
            else "triton"
            if platform in ("gpu", "cuda", "rocm") and for_triton
            else "blockwise"
        )
    return "full" if length < splash.LANES else kernel


def _platform(partitioner: Partitioner | None) -> str:
    """The platform of the devices that will run the program.

    It may differ from this process's: TPU programs can be compiled on other machines.
    """
    if partitioner is None or isinstance(partitioner.mesh, jax.sharding.AbstractMesh):
        return jax.default_backend()
    return partitioner.mesh.devices.flat[0].platform


def _names(entry: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return () if entry is None else (entry,) if isinstance(entry, str) else tuple(entry)


@dataclasses.dataclass(frozen=True)
class _Device:
    """One device's share of the attention.

    length_axes, head_axes: mesh axes that split length and heads.
    heads: H before sharding.
    select_heads: the query heads are split but the key-value heads cannot be.
    """

    kernel: str
    blocks: splash.BlockSizes
    platform: str
    length_axes: tuple[str, ...] = ()
    length_parts: int = 1
    head_axes: tuple[str, ...] = ()
    heads: int = 0
    select_heads: bool = False

    def attend(self, q_BxLxHxK, k_BxLxGxK, v_BxLxGxK, segment_ids_BxL) -> jax.Array:
        k_BxLxGxK, v_BxLxGxK = self._own_heads(q_BxLxHxK, k_BxLxGxK), self._own_heads(q_BxLxHxK, v_BxLxGxK)
        length = q_BxLxHxK.shape[1]
        if self.length_parts == 1:
            return self._run(
                q_BxLxHxK,
                k_BxLxGxK,
                v_BxLxGxK,
                segment_ids_BxL,
                segment_ids_BxL,
                jnp.arange(length, dtype=jnp.int32),
                1,
            )
        axes, parts = self.length_axes, self.length_parts
        k_BxMxGxK, v_BxMxGxK = context.gather(k_BxLxGxK, axes), context.gather(v_BxLxGxK, axes)
        segments_BxM = jax.lax.all_gather(segment_ids_BxL, axes, axis=1, tiled=True)
        # Balancing pays off only if a chunk is a run of whole tiles.
        balanced = self.kernel != "full" and length % (2 * splash.LANES) == 0
        index_L = context.index(length, axes, parts, balanced)
        if not balanced:
            return self._run(q_BxLxHxK, k_BxMxGxK, v_BxMxGxK, segment_ids_BxL, segments_BxM, index_L, 1)
        q_BxLxHxK = context.balance(q_BxLxHxK, axes, parts)
        o_BxLxHxK = self._run(
            q_BxLxHxK, k_BxMxGxK, v_BxMxGxK, jnp.take(segments_BxM, index_L, axis=1), segments_BxM, index_L, 2
        )
        return context.unbalance(o_BxLxHxK, axes, parts)

    def _own_heads(self, q_BxLxHxK, k_BxLxGxK) -> jax.Array:
        """The key-value heads that this device's queries read: its head h of H reads head h // (H / G)."""
        H, G = q_BxLxHxK.shape[2], k_BxLxGxK.shape[2]
        if not self.select_heads:
            return k_BxLxGxK
        R = self.heads // G
        first = jax.lax.axis_index(self.head_axes) * H
        if R % H == 0:
            return jax.lax.dynamic_slice_in_dim(k_BxLxGxK, first // R, 1, 2)
        return jnp.take(k_BxLxGxK, (first + jnp.arange(H)) // R, axis=2)

    def _run(self, q_BxLxHxK, k_BxMxGxK, v_BxMxGxK, q_segments_BxL, kv_segments_BxM, index_L, runs: int) -> jax.Array:
        if self.kernel == "splash":
            interpret = self.platform != "tpu"
            return splash.attend(
                q_BxLxHxK, k_BxMxGxK, v_BxMxGxK, q_segments_BxL, kv_segments_BxM, index_L, self.blocks, runs, interpret
            )
        if self.kernel == "triton":
            return triton.attend(
                q_BxLxHxK, k_BxMxGxK, v_BxMxGxK, q_segments_BxL, interpret=self.platform not in ("gpu", "cuda", "rocm")
            )
        if self.kernel == "blockwise":
            sizes = blockwise.CPU_BLOCKS if self.platform == "cpu" else blockwise.BLOCKS
            return blockwise.attend(
                q_BxLxHxK, k_BxMxGxK, v_BxMxGxK, q_segments_BxL, kv_segments_BxM, index_L[None], runs, *sizes
            )
        return attend(q_BxLxHxK, k_BxMxGxK, v_BxMxGxK, packed_mask(q_segments_BxL, kv_segments_BxM, index_L))


def cached(q_BxLxHxK: jax.Array, k_BxMxGxK: jax.Array, v_BxMxGxK: jax.Array, positions_BxL: jax.Array) -> jax.Array:
    """Attention of queries at `positions` to the slots 0 ... position of their row's cache: [B, L, H, K].

    A few queries read the whole cache at once. A longer prompt is processed in blocks, so that no L x M scores exist
    and slots after its last position are not read.
    """
    (B, L), M = positions_BxL.shape, k_BxMxGxK.shape[1]
    if L < FEW_QUERIES:
        return attend(q_BxLxHxK, k_BxMxGxK, v_BxMxGxK, jnp.arange(M) <= positions_BxL[:, :, None])
    one_segment = jnp.ones((B, L + M), jnp.int32)
    return blockwise.attend(q_BxLxHxK, k_BxMxGxK, v_BxMxGxK, one_segment[:, :L], one_segment[:, L:], positions_BxL)


def attend(q_BxLxHxK: jax.Array, k_BxMxGxK: jax.Array, v_BxMxGxK: jax.Array, mask_BxLxM: jax.Array) -> jax.Array:
    """Softmax attention with float32 scores and softmax: [B, L, H, K]. Head h reads key-value head h // R."""
    B, L, H, K = q_BxLxHxK.shape
    G = k_BxMxGxK.shape[2]
    # The R queries of a position are adjacent, so one key-value head is one matrix product without transposing the
    # scores.
    q_BxGxLRxK = (
        (q_BxLxHxK * (1.0 / math.sqrt(K)))
        .reshape(B, L, G, H // G, K)
        .transpose(0, 2, 1, 3, 4)
        .reshape(B, G, L * (H // G), K)
    )
    scores_BxGxLRxM = jnp.einsum("bgqk,bmgk->bgqm", q_BxGxLRxK, k_BxMxGxK, preferred_element_type=jnp.float32)
    scores_BxGxLxRxM = jnp.where(mask_BxLxM[:, None, :, None], scores_BxGxLRxM.reshape(B, G, L, H // G, -1), MASKED)
    weights_BxGxLRxM = jax.nn.softmax(scores_BxGxLxRxM, axis=-1).astype(v_BxMxGxK.dtype).reshape(scores_BxGxLRxM.shape)
    o_BxGxLRxK = jnp.einsum("bgqm,bmgk->bgqk", weights_BxGxLRxM, v_BxMxGxK)
    return o_BxGxLRxK.reshape(B, G, L, H // G, K).transpose(0, 2, 1, 3, 4).reshape(B, L, H, K)


def packed_mask(q_segments_BxL: jax.Array, kv_segments_BxM: jax.Array, q_index_L: jax.Array) -> jax.Array:
    """bool [B, L, M]: a token attends to its own segment up to itself.

    Padding (segment 0) attends to padding, whose loss has weight 0.
    """
    same_BxLxM = q_segments_BxL[:, :, None] == kv_segments_BxM[:, None, :]
    return same_BxLxM & (jnp.arange(kv_segments_BxM.shape[1]) <= q_index_L[:, None])
