"""train/inference/sampling.py: the tokens kept equal those found by sorting; noise depends only on the row."""

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from castor.tasks.errors import ConfigurationError
from castor.train.inference import sampling
from castor.train.inference.sampling import Sampling, SamplingArrays

logits = st.lists(st.floats(-30, 30, width=32), min_size=16, max_size=16).map(lambda row: np.array(row, np.float32))
top_k = jax.jit(sampling.top_k)
top_p = jax.jit(sampling.top_p)
choose = jax.jit(sampling.choose)


@hypothesis.given(logits, st.integers(0, 20))
def test_top_k_keeps_what_sorting_keeps(row, k):
    kept = np.asarray(top_k(row[None], np.array([k], np.int32)))[0]
    best = np.argsort(-row, kind="stable")[: k or None]
    wanted = np.full_like(row, -np.inf)
    wanted[best] = row[best]
    np.testing.assert_array_equal(kept, wanted)


@hypothesis.given(logits, st.floats(0.015625, 1.0, width=32))
def test_the_nucleus_is_the_fewest_that_hold_p(row, p):
    kept = np.isfinite(np.asarray(top_p(row[None], np.array([p], np.float32)))[0])
    mass = np.asarray(jax.nn.softmax(row)).astype(np.float64)
    assert row[kept].min() >= row[~kept].max(initial=-np.inf)
    assert p == 1 or mass[kept].sum() >= p - 1e-5
    least = kept & (row == row[kept].min())
    assert p == 1 or mass[kept & ~least].sum() < p + 1e-5, (
        "without the least likely of them (ties count as one) they hold less"
    )


def test_infinities_and_zeros_are_in_order():
    row = np.array([[-np.inf, -1.5, 0.0, -0.0, 3.0, np.inf]], np.float32)
    for k, wanted in ((1, [5]), (2, [4, 5]), (3, [2, 4, 5]), (4, [2, 3, 4, 5]), (5, [1, 2, 3, 4, 5])):
        assert np.flatnonzero(np.asarray(top_k(row, np.array([k], np.int32)))[0] > -np.inf).tolist() == wanted


@hypothesis.given(logits, st.integers(1, 20), st.sampled_from([0.3, 0.9, 1.0]), st.integers(0, 2**32 - 1))
def test_picking_a_few_first_chooses_what_looking_at_all_does(row, k, p, seed):
    alone = SamplingArrays.of([Sampling(0.9, k, seed, p)])
    with_another = SamplingArrays.of(
        [Sampling(0.9, k, seed, p), Sampling(1.0, 0, 1)]
    )  # one row that samples from all tokens forces the batch to process all
    allowed, at = np.arange(16) % 5 > 0, np.array([3, 3], np.int32)
    few = choose(row[None], allowed[None], at[:1], alone)
    assert few[0] == choose(np.stack([row, row]), np.stack([allowed, allowed]), at, with_another)[0]


def test_a_row_chooses_alike_in_any_company():
    random = np.random.default_rng(0)
    rows = random.normal(0, 2, (5, 300)).astype(np.float32)
    allowed = random.random((5, 300)) < 0.5
    settings = [
        Sampling(1.0, 0, 7),
        Sampling(0.7, 5, 8),
        Sampling(0),
        Sampling(1.5, 0, 9, 0.6),
        Sampling(1.2, 50, 2**40 + 3, 0.9),
    ]
    positions = np.array([3, 9, 1, 30, 4], np.int32)
    together = np.asarray(choose(rows, allowed, positions, SamplingArrays.of(settings)))
    for i, one in enumerate(settings):
        assert (
            choose(rows[i : i + 1], allowed[i : i + 1], positions[i : i + 1], SamplingArrays.of([one]))[0]
            == together[i]
        )
    assert all(allowed[i, chosen] for i, chosen in enumerate(together))
    assert together[2] == np.argmax(np.where(allowed[2], rows[2], -np.inf))


def test_tokens_come_as_often_as_their_probability():
    count = 20_000
    row = np.log(np.array([0.5, 0.25, 0.15, 0.1], np.float32))
    at = np.arange(count, dtype=np.int32)
    rows, allowed = np.broadcast_to(row, (count, 4)), np.ones((count, 4), bool)

    def shares(one):
        settings = jax.tree.map(lambda array: jnp.repeat(array, count), SamplingArrays.of([one]))
        return np.bincount(choose(rows, allowed, at, settings), minlength=4) / count

    np.testing.assert_allclose(shares(Sampling(1.0, 0)), [0.5, 0.25, 0.15, 0.1], atol=0.015)
    np.testing.assert_allclose(shares(Sampling(1.0, 2)), [2 / 3, 1 / 3, 0, 0], atol=0.015)
    np.testing.assert_allclose(shares(Sampling(1.0, 0, top_p=0.8)), [5 / 9, 2.5 / 9, 1.5 / 9, 0], atol=0.015)
    np.testing.assert_allclose(
        shares(Sampling(0.5, 0)), np.square(np.exp(row)) / np.sum(np.square(np.exp(row))), atol=0.015
    )


@pytest.mark.parametrize(
    "wrong", [{"temperature": -1}, {"top_k": -1}, {"top_p": 0}, {"top_p": 1.1}, {"temperature": float("nan")}]
)
def test_bad_settings_are_refused(wrong):
    with pytest.raises(ConfigurationError, match="top_"):
        Sampling(**wrong)
