"""train/model/attention/blockwise.py: equals attention over the whole square for any lengths, segments, orders and
blocks.

No visible block is skipped.
"""

import functools

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

from castor.train.model.attention import attention, blockwise


@functools.partial(jax.jit, static_argnums=(6, 7))
def in_blocks(q, k, v, segments, kv_segments, index, q_block, kv_block):
    return blockwise.attend(q, k, v, segments, kv_segments, index, 1, q_block, kv_block)


rows = st.lists(st.integers(0, 3), min_size=24, max_size=24)


@hypothesis.settings(max_examples=25)
@hypothesis.given(
    kv=st.tuples(rows, rows),
    index=st.permutations(range(24)),
    shape=st.sampled_from([(24, 24, 24), (24, 8, 4), (24, 5, 7), (1, 16, 9)]),
)
def test_any_segments_and_any_order_of_queries(kv, index, shape):
    length, *blocks = shape
    random = np.random.default_rng(0)
    kv_segments, index = jnp.array(kv, jnp.int32), jnp.array(index[:length], jnp.int32)
    q = random.normal(size=(2, length, 4, 8)).astype(np.float32)
    k, v = random.normal(size=(2, 2, 24, 2, 8)).astype(np.float32)
    segments = kv_segments[:, index]
    found = in_blocks(q, k, v, segments, kv_segments, index[None], *blocks)
    np.testing.assert_allclose(
        found, attention.attend(q, k, v, attention.packed_mask(segments, kv_segments, index)), atol=2e-5
    )


@hypothesis.given(kv=rows, q=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 23)), min_size=12, max_size=12))
def test_no_block_that_is_seen_is_skipped(kv, q):
    segments, index = np.array(q, np.int32).T
    kv = np.array(kv, np.int32)
    needed = np.asarray(blockwise.needed(segments.reshape(1, 3, 4), kv.reshape(1, 4, 6), index.reshape(1, 3, 4)))[0]
    seen = (segments[:, None] == kv) & (np.arange(24) <= index[:, None])
    assert not (seen.reshape(3, 4, 4, 6).any((1, 3)) & ~needed).any()
    first, end = blockwise.visible_key_blocks(segments.reshape(3, 1, 4), kv[None], index.reshape(3, 1, 4), 6)
    for block in range(3):
        assert not needed[block, : first[block]].any() and not needed[block, int(end[block]) :].any()


def test_packed_rows_skip_what_cannot_be_seen():
    """Three segments of 8 and padding of 8, in blocks of 8: every block of queries needs one block of keys."""
    segments = np.repeat([1, 2, 3, 0], 8).astype(np.int32)
    first, end = blockwise.visible_key_blocks(
        segments.reshape(4, 1, 8), segments[None], np.arange(32).reshape(4, 1, 8), 8
    )
    np.testing.assert_array_equal([first, end], [[0, 1, 2, 3], [1, 2, 3, 4]])


def test_a_query_without_keys_gets_zeros_and_no_gradient():
    q = jnp.ones((1, 4, 1, 8))
    segments, others = jnp.ones((1, 4), jnp.int32), jnp.full((1, 4), 2, jnp.int32)
    o, gradients = jax.value_and_grad(
        lambda q, k: blockwise.attend(q, k, k, segments, others, jnp.arange(4)[None]).sum(), (0, 1)
    )(q, q)
    assert o == 0 and not any(np.any(np.asarray(g)) for g in gradients)


def test_the_gradient_holds_no_square_of_the_length(optimized):
    L = 4096
    q, k = jax.ShapeDtypeStruct((1, L, 2, 16), jnp.float32), jax.ShapeDtypeStruct((1, L, 1, 16), jnp.float32)
    segments = jax.ShapeDtypeStruct((1, L), jnp.int32)
    loss = lambda q, k, v, s: jnp.sum(attention.packed(q, k, v, s, "blockwise"))  # noqa: E731
    memory = jax.jit(jax.grad(loss, (0, 1, 2))).lower(q, k, k, segments).compile().memory_analysis()
    assert memory.temp_size_in_bytes < L * L
