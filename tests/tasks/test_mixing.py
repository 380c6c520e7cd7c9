"""The mixture: counts that always add up, follow the weights at every position, starve nobody, and turn into an order one to one."""

import collections
import fractions

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.errors import ConfigurationError
from tasks.mixing import BLOCK, MAX_DEVIATION, Mixing

WEIGHTS = st.lists(st.one_of(st.floats(1e-9, 1e3), st.integers(0, 50)), min_size=1, max_size=9).filter(lambda w: sum(w) > 0)


def of(weights, seed=0):
    return Mixing.of({f"c{i}": w for i, w in enumerate(weights)}, seed)


def test_golden_vectors():
    mixing = Mixing.of({"a": 0.5, "b": 0.3, "c": 0.2}, seed=1)
    assert [mixing.regular(p)[0] for p in range(10)] == [0, 1, 0, 2, 0, 1, 0, 2, 0, 1]
    components, indices = mixing.at(np.arange(34))
    assert components.tolist() == [1, 1, 2, 2, 2, 0, 0, 0, 1, 2, 2, 0, 0, 1, 0, 0, 1, 0, 2, 0, 1, 0, 0, 1, 0, 1, 0, 1, 0, 1, 0, 0, 2, 1]
    assert indices.tolist() == [7, 2, 5, 1, 2, 0, 9, 11, 8, 0, 4, 2, 15, 6, 12, 7, 1, 4, 3, 8, 0, 1, 3, 3, 14, 5, 13, 4, 6, 9, 5, 10, 6, 15]


@settings(derandomize=True, deadline=None)
@given(WEIGHTS, st.integers(0, 10**15))
def test_counts_add_up_and_follow_the_weights(weights, position):
    mixing = of(weights)
    counts, after = mixing.counts(position), mixing.counts(position + 1)
    assert sum(counts) == position
    assert sorted(b - a for a, b in zip(counts, after)) == [0] * (len(weights) - 1) + [1]
    assert all(abs(count - share * position) <= MAX_DEVIATION for count, share in zip(counts, mixing.shares))
    component, index = mixing.regular(position)
    assert after[component] == counts[component] + 1 and index == counts[component]


@settings(derandomize=True, deadline=None, max_examples=30)
@given(WEIGHTS, st.integers(0, 5))
def test_the_shuffled_order_is_one_to_one_with_the_counts_of_the_tree(weights, seed):
    mixing = of(weights, seed)
    components, indices = mixing.at(np.arange(4 * BLOCK))
    for end in range(0, 4 * BLOCK + 1, BLOCK):
        assert np.bincount(components[:end], minlength=len(weights)).tolist() == list(mixing.counts(end))
    for component in range(len(weights)):
        mine = indices[components == component]
        assert sorted(mine.tolist()) == list(range(len(mine)))
    for end in range(4 * BLOCK):
        counts = np.bincount(components[:end], minlength=len(weights))
        allowed = [MAX_DEVIATION + BLOCK * min(share, 1 - share) + 1 for share in mixing.shares]
        assert all(abs(c - s * end) <= a for c, s, a in zip(counts.tolist(), mixing.shares, allowed))


@settings(derandomize=True, deadline=None)
@given(WEIGHTS, st.integers(0, 10**9), st.permutations(range(20)))
def test_positions_can_be_asked_in_any_order(weights, start, order):
    positions = start + np.arange(20)
    components, indices = of(weights).at(positions)
    shuffled = of(weights).at(positions[list(order)])
    np.testing.assert_array_equal(components[list(order)], shuffled[0])
    np.testing.assert_array_equal(indices[list(order)], shuffled[1])


def test_tiny_weights_get_their_share():
    mixing = Mixing.of({"big": 1.0, "tiny": 1e-5, "tinier": 1e-7})
    for position in (2 * 10**5, 2 * 10**7, 10**9, 10**13):
        for count, share in zip(mixing.counts(position), mixing.shares):
            assert count >= 1 or share * position < 1
            assert abs(count - share * position) <= MAX_DEVIATION
    crowd = Mixing.of({f"c{i}": 1 for i in range(1000)})
    assert set(crowd.counts(2000)) <= {1, 2, 3}


def test_a_weight_of_zero_keeps_its_place_and_gets_nothing():
    mixing = Mixing.of({"a": 0, "b": 1, "c": 0})
    assert mixing.counts(1000) == (0, 1000, 0)
    assert set(mixing.at(np.arange(100))[0].tolist()) == {1}


def test_only_ratios_and_names_count():
    small, large = Mixing.of({"a": 0.2, "b": 0.8}, 3), Mixing.of({"b": 8, "a": 2}, 3)
    components, indices = small.at(np.arange(200))
    turned, same = large.at(np.arange(200))
    assert [small.names[c] for c in components] == [large.names[c] for c in turned]
    np.testing.assert_array_equal(indices, same)


def test_seeds_and_blocks_differ():
    orders = {tuple(of([1, 1], seed).at(np.arange(b * BLOCK, (b + 1) * BLOCK))[0].tolist()) for seed in range(5) for b in range(5)}
    assert len(orders) == 25


def test_weights_are_exact():
    assert Mixing.of({"a": 0.1, "b": 0.2}).weights == (fractions.Fraction(1, 10), fractions.Fraction(1, 5))
    assert Mixing.of({"a": "1/3", "b": np.float64(2)}).shares == (fractions.Fraction(1, 7), fractions.Fraction(6, 7))
    assert collections.Counter(Mixing.of({"a": 1, "b": 1, "c": 1}).at(np.arange(960))[0].tolist()) == {0: 320, 1: 320, 2: 320}


@pytest.mark.parametrize(
    "weights", [{}, {"a": 0}, {"a": -1}, {"a": float("nan")}, {"a": float("inf")}, {"a": "x"}, {"a": True}, {"a": None}, {"a": "1/0"}]
)
def test_weights_that_are_no_shares_are_refused(weights):
    with pytest.raises(ConfigurationError):
        Mixing.of(weights)
