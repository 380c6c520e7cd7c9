"""Segment-masked causal attention: what a query may see, which kernel computes it, and how it is cut over the mesh.

`packed` reads whole packed rows, `cached` the next tokens of sequences whose keys and values lie in a cache. Shapes as in train/model.py.

`packed` runs one of these on every device, with the device's part of batch, length and heads:

    full       scores of a whole row at once, float32 softmax: the oracle, and the fastest where rows are short
    splash     Pallas kernels for TPU (train/splash.py)

A row cut along its length gathers keys and values from the other devices: with few key-value heads they are small.
"""

import functools
import math

import jax
import jax.numpy as jnp

from tasks.errors import ConfigurationError
from train import splash
from train.partitioning import Partitioner

MASKED = -2.0**30  # far below any logit in float32, without the NaNs that a row of -inf gives
KERNELS = ("auto", "full", "splash")


def packed(
    q_BxLxHxK: jax.Array,
    k_BxLxGxK: jax.Array,
    v_BxLxGxK: jax.Array,
    segment_ids_BxL: jax.Array,
    kernel: str = "auto",
    partitioner: Partitioner | None = None,
    blocks: splash.Blocks = splash.Blocks(),
) -> jax.Array:
    """Attention inside the segments of packed rows: [B, L, H, K]. kernel: one of KERNELS. blocks: the tiles of splash."""
    platform = _platform(partitioner)
    kernel = choose(kernel, platform, q_BxLxHxK.shape[1])
    run = functools.partial(_one_device, kernel=kernel, blocks=blocks, interpret=platform != "tpu")
    if partitioner is None or partitioner.mesh.size == 1 or kernel == "full":
        return run(q_BxLxHxK, k_BxLxGxK, v_BxLxGxK, segment_ids_BxL, segment_ids_BxL)
    # Cut by hand: the compiler cannot cut a kernel.
    if partitioner.size("length") > 1:
        raise ConfigurationError("attention of rows cut along their length has only the kernel 'full'.", "Set Transformer.attention = 'full'.")
    if k_BxLxGxK.shape[2] > 1 and partitioner.size("act_heads") > 1:
        raise ConfigurationError("attention of several key-value heads cut over devices has only the kernel 'full'.", "Set Transformer.attention = 'full'.")
    q_spec = partitioner.spec(("batch", "length", "act_heads", "head"), "queries")
    kv_spec = partitioner.spec(("batch", "kv_length", "kv_heads", "head"), "keys and values")
    segments_spec = partitioner.spec(("batch", "length"), "segment ids")
    cut = jax.shard_map(
        run, mesh=partitioner.mesh, in_specs=(q_spec, kv_spec, kv_spec, segments_spec, segments_spec), out_specs=q_spec, check_vma=False
    )
    return cut(q_BxLxHxK, k_BxLxGxK, v_BxLxGxK, segment_ids_BxL, segment_ids_BxL)


def choose(kernel: str, platform: str, length: int) -> str:
    """The kernel that "auto" means for rows of `length` tokens on `platform`; any other, itself. Rows shorter than a tile have `full` alone."""
    if kernel not in KERNELS:
        raise ConfigurationError(f"Transformer.attention = {kernel!r}.", f"Choose one of {', '.join(KERNELS)}.")
    if length < splash.LANES:
        return "full"
    if kernel == "auto":
        return "splash" if platform == "tpu" else "full"
    return kernel


def _platform(partitioner: Partitioner | None) -> str:
    """Of the devices that will run it, which need not be this process's: programs for TPUs are compiled on other machines."""
    if partitioner is None or isinstance(partitioner.mesh, jax.sharding.AbstractMesh):
        return jax.default_backend()
    return partitioner.mesh.devices.flat[0].platform


def _one_device(q_BxLxHxK, k_BxMxGxK, v_BxMxGxK, q_segments_BxL, kv_segments_BxM, kernel: str, blocks: splash.Blocks, interpret: bool) -> jax.Array:
    if kernel == "splash":
        return splash.packed(q_BxLxHxK, k_BxMxGxK, v_BxMxGxK, q_segments_BxL, kv_segments_BxM, blocks, interpret)
    return attend(q_BxLxHxK, k_BxMxGxK, v_BxMxGxK, packed_mask(q_segments_BxL))


def cached(q_BxLxHxK: jax.Array, k_BxMxGxK: jax.Array, v_BxMxGxK: jax.Array, positions_BxL: jax.Array) -> jax.Array:
    """Attention of queries at `positions` to the slots 0 ... position of their row's cache: [B, L, H, K]."""
    slots_M = jnp.arange(k_BxMxGxK.shape[1])
    return attend(q_BxLxHxK, k_BxMxGxK, v_BxMxGxK, slots_M <= positions_BxL[:, :, None])


def attend(q_BxLxHxK: jax.Array, k_BxMxGxK: jax.Array, v_BxMxGxK: jax.Array, mask_BxLxM: jax.Array) -> jax.Array:
    """Softmax attention, scores and softmax in float32: [B, L, H, K]. Head h reads key-value head h // R."""
    B, L, H, K = q_BxLxHxK.shape
    G = k_BxMxGxK.shape[2]
    # The R queries of a position stand side by side, so that one key-value head is one matrix product without transposing the scores.
    q_BxGxLRxK = (q_BxLxHxK * (1.0 / math.sqrt(K))).reshape(B, L, G, H // G, K).transpose(0, 2, 1, 3, 4).reshape(B, G, L * (H // G), K)
    scores_BxGxLRxM = jnp.einsum("bgqk,bmgk->bgqm", q_BxGxLRxK, k_BxMxGxK, preferred_element_type=jnp.float32)
    scores_BxGxLxRxM = jnp.where(mask_BxLxM[:, None, :, None], scores_BxGxLRxM.reshape(B, G, L, H // G, -1), MASKED)
    weights_BxGxLRxM = jax.nn.softmax(scores_BxGxLxRxM, axis=-1).astype(v_BxMxGxK.dtype).reshape(scores_BxGxLRxM.shape)
    o_BxGxLRxK = jnp.einsum("bgqm,bmgk->bgqk", weights_BxGxLRxM, v_BxMxGxK)
    return o_BxGxLRxK.reshape(B, G, L, H // G, K).transpose(0, 2, 1, 3, 4).reshape(B, L, H, K)


def packed_mask(segment_ids_BxL: jax.Array) -> jax.Array:
    """bool [B, L, L]: a token sees its own segment up to itself. Padding (segment 0) sees padding, whose loss nobody counts."""
    same_BxLxL = segment_ids_BxL[:, :, None] == segment_ids_BxL[:, None, :]
    return same_BxLxL & jnp.tril(jnp.ones((segment_ids_BxL.shape[1],) * 2, bool))
