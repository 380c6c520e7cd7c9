"""Attention over blocks of queries and keys with a running softmax: memory linear in the length, on any device.

For each block of queries, one loop visits only the blocks of keys that the queries may attend to: no blocks beyond the
diagonal and none of segments that have ended. The softmax is kept as a running maximum and sum (arXiv 1805.02867; over
blocks arXiv 2112.05682). The backward pass recomputes the weights from output and log-sum-exp (arXiv 2205.14135). Sums
are float32. Shapes as in train/model/decoder.py; Q and C are the sizes of a block of queries and of keys.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

BLOCKS = (512, 512)  # tokens per block of queries and per block of keys
CPU_BLOCKS = (128, 128)  # small enough that a block's scores stay in the cache
# The name of output and log-sum-exp for remat policies; if saved, the backward pass does not recompute them.
RESIDUALS = "attention"
MASKED = -(2.0**30)
UNUSED = -1  # the segment of the padding that fills up blocks; no query attends to it


def attend(
    q_BxLxHxK: jax.Array,
    k_BxMxGxK: jax.Array,
    v_BxMxGxK: jax.Array,
    q_segments_BxL: jax.Array,
    kv_segments_BxM: jax.Array,
    q_index_BxL: jax.Array,
    runs: int = 1,
    q_block: int = BLOCKS[0],
    kv_block: int = BLOCKS[1],
) -> jax.Array:
    """[B, L, H, K] in the dtype of `q`: the query at index t of its row attends to keys 0 ... t of its segment.

    q: [B, L, H, K]. k, v: [B, M, G, K].
    q_segments, kv_segments: int32 [B, L], [B, M].
    q_index: int32 [B, L] or [1, L], in `runs` equally long runs of consecutive indices. A block within one run visits
        few blocks of keys.
    q_block, kv_block: tokens per block.

    A query without any key returns zeros.
    """
    B, L, H, K = q_BxLxHxK.shape
    M, G = k_BxMxGxK.shape[1:3]
    q_block, kv_block = min(q_block, L) if runs == 1 else math.gcd(q_block, L // runs), min(kv_block, M)
    index_BxL = jnp.broadcast_to(q_index_BxL, (B, L))
    q_BxLxHxK = q_BxLxHxK * (1.0 / math.sqrt(K))
    q, q_segments, index = (
        _fill(x, q_block, fill) for x, fill in ((q_BxLxHxK, 0), (q_segments_BxL, UNUSED), (index_BxL, 0))
    )
    k, v, kv_segments = (
        _fill(x, kv_block, fill) for x, fill in ((k_BxMxGxK, 0), (v_BxMxGxK, 0), (kv_segments_BxM, UNUSED - 1))
    )
    # The R queries of a position that share a key-value head are rows of one matrix: [N, B, G, R * Q, K], N blocks.
    N, R = q.shape[1] // q_block, H // G
    q_NxBxGxRQxK = q.reshape(B, N, q_block, G, R, K).transpose(1, 0, 3, 4, 2, 5).reshape(N, B, G, R * q_block, K)
    o_NxBxGxRQxK = _blocks(
        q_NxBxGxRQxK,
        k,
        v,
        q_segments.reshape(B, N, q_block).swapaxes(0, 1),
        kv_segments,
        index.reshape(B, N, q_block).swapaxes(0, 1),
        kv_block,
    )
    o = o_NxBxGxRQxK.reshape(N, B, G, R, q_block, K).transpose(1, 0, 4, 2, 3, 5).reshape(B, N * q_block, H, K)
    return o[:, :L]


@functools.partial(jax.custom_vjp, nondiff_argnums=(6,))
def _blocks(
    q_NxBxGxRQxK, k_BxMxGxK, v_BxMxGxK, q_segments_NxBxQ, kv_segments_BxM, index_NxBxQ, kv_block: int
) -> jax.Array:
    return _forward(q_NxBxGxRQxK, k_BxMxGxK, v_BxMxGxK, q_segments_NxBxQ, kv_segments_BxM, index_NxBxQ, kv_block)[0]


def _forward(q_NxBxGxRQxK, k_BxMxGxK, v_BxMxGxK, q_segments_NxBxQ, kv_segments_BxM, index_NxBxQ, kv_block: int):
    """(outputs, residuals of the backward pass)."""
    first_N, end_N = visible_key_blocks(q_segments_NxBxQ, kv_segments_BxM, index_NxBxQ, kv_block)

    def of_block(inputs):
        q_BxGxRQxK, q_segments_BxQ, index_BxQ, first, end = inputs

        def add(j, carry):
            m_BxGxRQ, l_BxGxRQ, o_BxGxRQxK = carry
            k_BxCxGxK, v_BxCxGxK, mask = _keys(
                j, k_BxMxGxK, v_BxMxGxK, kv_segments_BxM, q_segments_BxQ, index_BxQ, kv_block, q_BxGxRQxK
            )
            s_BxGxRQxC = jnp.where(mask, _scores(q_BxGxRQxK, k_BxCxGxK), MASKED)
            m_next = jnp.maximum(m_BxGxRQ, jnp.max(s_BxGxRQxC, axis=-1))
            p_BxGxRQxC = jnp.where(mask, jnp.exp(s_BxGxRQxC - m_next[..., None]), 0.0)
            scale = jnp.exp(m_BxGxRQ - m_next)
            product = jnp.einsum(
                "bgqm,bmgk->bgqk", p_BxGxRQxC.astype(v_BxCxGxK.dtype), v_BxCxGxK, preferred_element_type=jnp.float32
            )
            return m_next, l_BxGxRQ * scale + jnp.sum(p_BxGxRQxC, axis=-1), o_BxGxRQxK * scale[..., None] + product

        rows = q_BxGxRQxK.shape[:-1]
        start = (
            jnp.full(rows, MASKED, jnp.float32),
            jnp.zeros(rows, jnp.float32),
            jnp.zeros(q_BxGxRQxK.shape, jnp.float32),
        )
        m, total, o = jax.lax.fori_loop(first, end, add, start)
        o = o / jnp.where(total > 0, total, 1.0)[..., None]
        return o.astype(q_BxGxRQxK.dtype), m + jnp.log(jnp.where(total > 0, total, 1.0))

    o, logsumexp = jax.lax.map(of_block, (q_NxBxGxRQxK, q_segments_NxBxQ, index_NxBxQ, first_N, end_N))
    o, logsumexp = checkpoint_name(o, RESIDUALS), checkpoint_name(logsumexp, RESIDUALS)
    return o, (q_NxBxGxRQxK, k_BxMxGxK, v_BxMxGxK, q_segments_NxBxQ, kv_segments_BxM, index_NxBxQ, o, logsumexp)


def _backward(kv_block: int, residuals, do_NxBxGxRQxK):
    q, k_BxMxGxK, v_BxMxGxK, q_segments_NxBxQ, kv_segments_BxM, index_NxBxQ, o, logsumexp = residuals
    first_N, end_N = visible_key_blocks(q_segments_NxBxQ, kv_segments_BxM, index_NxBxQ, kv_block)
    delta_NxBxGxRQ = jnp.sum(do_NxBxGxRQxK.astype(jnp.float32) * o.astype(jnp.float32), axis=-1)

    def of_block(gradients, inputs):
        q_BxGxRQxK, do_BxGxRQxK, logsumexp_BxGxRQ, delta_BxGxRQ, q_segments_BxQ, index_BxQ, first, end = inputs

        def add(j, carry):
            dq_BxGxRQxK, dk_BxMxGxK, dv_BxMxGxK = carry
            k_BxCxGxK, v_BxCxGxK, mask = _keys(
                j, k_BxMxGxK, v_BxMxGxK, kv_segments_BxM, q_segments_BxQ, index_BxQ, kv_block, q_BxGxRQxK
            )
            p_BxGxRQxC = jnp.where(mask, jnp.exp(_scores(q_BxGxRQxK, k_BxCxGxK) - logsumexp_BxGxRQ[..., None]), 0.0)
            dv = jnp.einsum(
                "bgqm,bgqk->bmgk", p_BxGxRQxC.astype(do_BxGxRQxK.dtype), do_BxGxRQxK, preferred_element_type=jnp.float32
            )
            dp_BxGxRQxC = _scores(do_BxGxRQxK, v_BxCxGxK)
            ds_BxGxRQxC = (p_BxGxRQxC * (dp_BxGxRQxC - delta_BxGxRQ[..., None])).astype(q_BxGxRQxK.dtype)
            dk = jnp.einsum("bgqm,bgqk->bmgk", ds_BxGxRQxC, q_BxGxRQxK, preferred_element_type=jnp.float32)
            dq = jnp.einsum("bgqm,bmgk->bgqk", ds_BxGxRQxC, k_BxCxGxK, preferred_element_type=jnp.float32)
            return dq_BxGxRQxK + dq, _add_at(dk_BxMxGxK, dk, j * kv_block), _add_at(dv_BxMxGxK, dv, j * kv_block)

        dq, *gradients = jax.lax.fori_loop(first, end, add, (jnp.zeros(q_BxGxRQxK.shape, jnp.float32), *gradients))
        return tuple(gradients), dq.astype(q_BxGxRQxK.dtype)

    zeros = (jnp.zeros(k_BxMxGxK.shape, jnp.float32), jnp.zeros(v_BxMxGxK.shape, jnp.float32))
    (dk, dv), dq = jax.lax.scan(
        of_block, zeros, (q, do_NxBxGxRQxK, logsumexp, delta_NxBxGxRQ, q_segments_NxBxQ, index_NxBxQ, first_N, end_N)
    )
    return dq, dk.astype(k_BxMxGxK.dtype), dv.astype(v_BxMxGxK.dtype), None, None, None


_blocks.defvjp(_forward, _backward)


def visible_key_blocks(
    q_segments_NxBxQ: jax.Array, kv_segments_BxM: jax.Array, index_NxBxQ: jax.Array, kv_block: int
) -> tuple[jax.Array, jax.Array]:
    """Range of key blocks visible to each block of queries: (first, one past the last), int32 [N] each."""
    needed_BxNxJ = needed(
        q_segments_NxBxQ.swapaxes(0, 1),
        kv_segments_BxM.reshape(kv_segments_BxM.shape[0], -1, kv_block),
        index_NxBxQ.swapaxes(0, 1),
    )
    needed_NxJ = jnp.any(needed_BxNxJ, axis=0)
    blocks = needed_NxJ.shape[1]
    end_N = jnp.where(jnp.any(needed_NxJ, axis=1), blocks - jnp.argmax(needed_NxJ[:, ::-1], axis=1), 0)
    return jnp.argmax(needed_NxJ, axis=1).astype(jnp.int32), end_N.astype(jnp.int32)


def needed(q_segments_BxNxQ: jax.Array, kv_segments_BxJxC: jax.Array, index_BxNxQ: jax.Array) -> jax.Array:
    """bool [B, N, J]: whether a block of queries may attend to a block of keys.

    False is always correct; True may be conservative.

    The ranges of segment ids are compared, so the result is tight only if ids rise along a row, as in packed rows.
    Padding (0) counts as the last segment.
    """
    C = kv_segments_BxJxC.shape[2]
    starts_J = jnp.arange(kv_segments_BxJxC.shape[1], dtype=jnp.int32) * C
    causal_BxNxJ = starts_J <= jnp.max(index_BxNxQ, axis=-1)[:, :, None]
    (q_low, q_high), (kv_low, kv_high) = (
        (jnp.min(x, axis=-1), jnp.max(x, axis=-1))
        for x in (_padding_last(q_segments_BxNxQ), _padding_last(kv_segments_BxJxC))
    )
    return causal_BxNxJ & (q_low[:, :, None] <= kv_high[:, None, :]) & (kv_low[:, None, :] <= q_high[:, :, None])


def _padding_last(segments: jax.Array) -> jax.Array:
    return jnp.where(segments <= 0, jnp.iinfo(segments.dtype).max, segments)


def _keys(j, k_BxMxGxK, v_BxMxGxK, kv_segments_BxM, q_segments_BxQ, index_BxQ, kv_block: int, q_BxGxRQxK):
    """Block j of keys and values [B, C, G, K], and the mask of the queries' visible keys: bool [B, 1, R * Q, C]."""
    k_BxCxGxK, v_BxCxGxK, kv_segments_BxC = (
        jax.lax.dynamic_slice_in_dim(x, j * kv_block, kv_block, 1) for x in (k_BxMxGxK, v_BxMxGxK, kv_segments_BxM)
    )
    causal_BxQxC = j * kv_block + jnp.arange(kv_block) <= index_BxQ[:, :, None]
    mask_BxQxC = causal_BxQxC & (q_segments_BxQ[:, :, None] == kv_segments_BxC[:, None, :])
    return k_BxCxGxK, v_BxCxGxK, jnp.tile(mask_BxQxC, (1, q_BxGxRQxK.shape[2] // index_BxQ.shape[1], 1))[:, None]


def _scores(q_BxGxRQxK, k_BxCxGxK) -> jax.Array:
    return jnp.einsum("bgqk,bmgk->bgqm", q_BxGxRQxK, k_BxCxGxK, preferred_element_type=jnp.float32)


def _add_at(total, part, start) -> jax.Array:
    here = jax.lax.dynamic_slice_in_dim(total, start, part.shape[1], 1)
    return jax.lax.dynamic_update_slice_in_dim(total, here + part, start, 1)


def _fill(x: jax.Array, block: int, value: int) -> jax.Array:
    """`x` padded along axis 1 to a multiple of `block`."""
    return jnp.pad(x, ((0, 0), (0, -x.shape[1] % block), *[(0, 0)] * (x.ndim - 2)), constant_values=value)
