"""Segment-masked causal attention: what a query may see, and how the weighted sums are computed.

`packed` reads whole packed rows, `cached` the next tokens of sequences whose keys and values lie in a cache. Shapes as in train/model.py.
"""

import math

import jax
import jax.numpy as jnp

MASKED = -2.0**30  # far below any logit in float32, without the NaNs that a row of -inf gives


def packed(q_BxLxHxK: jax.Array, k_BxLxGxK: jax.Array, v_BxLxGxK: jax.Array, segment_ids_BxL: jax.Array) -> jax.Array:
    """Attention inside the segments of packed rows: [B, L, H, K]."""
    return attend(q_BxLxHxK, k_BxLxGxK, v_BxLxGxK, packed_mask(segment_ids_BxL))


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
