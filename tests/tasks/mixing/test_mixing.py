"""The mixture: counts add up, follow the schedule at every position, starve no component, and map to an order 1:1."""

import collections
import fractions
import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from castor.tasks.errors import ConfigurationError
from castor.tasks.mixing.mixing import BLOCK, Mixing, max_deviation

NAMES = [f"c{i}" for i in range(9)]
WEIGHTS = st.lists(st.one_of(st.floats(1e-9, 1e3), st.integers(0, 50)), min_size=1, max_size=9).filter(
    lambda w: sum(w) > 0
)


@st.composite
def schedules(draw):
    """(weights, seed, stages): up to four stages: immediate changes, ramps, and stages that follow at once."""
    count = draw(st.integers(1, 7))
    weight = st.one_of(st.sampled_from([0, 0, 1, 2, 0.3, 1e-6]), st.floats(1e-6, 10))

    def weights():
        values = draw(st.lists(weight, min_size=count, max_size=count))
        return dict(zip(NAMES, values if sum(values) else [1] * count))

    first, stages, position = weights(), [], 0
    for _ in range(draw(st.integers(0, 4))):
        position += draw(st.one_of(st.sampled_from([0, 1, 31, 32, 33]), st.integers(0, 300)))
        ramp = draw(st.sampled_from([0, 0, 1, 7, 64, 200]))
        stages.append((position, ramp, weights()))
        position += ramp
    return first, draw(st.integers(0, 3)), stages


def of(weights, seed=0):
    return Mixing.of(dict(zip(NAMES, weights)), seed)


def block_ends(mixing, last):
    """Positions at which a block ends, up to the first beyond `last`."""
    ends = []
    for phase in mixing.phases:
        length = phase.length if phase.length is not None else max(BLOCK, last - phase.start + BLOCK) // BLOCK * BLOCK
        ends += [phase.start + min(offset, length) for offset in range(0, length + BLOCK, BLOCK)]
    return sorted(set(ends))


def test_golden_vectors():
    mixing = Mixing.of({"a": 0.5, "b": 0.3, "c": 0.2}, 1, [(40, 20, {"a": 0.1, "c": 0.9}), (70, 0, {"b": 1})])
    components, indices = mixing.at(0, 80)
    assert "".join(mixing.names[c] for c in components) == GOLDEN_COMPONENTS
    assert indices.tolist() == GOLDEN_INDICES
    assert [mixing.counts(p) for p in (1, 2, 5, 32, 40, 50, 60, 70, 10**6)] == GOLDEN_COUNTS


def test_golden_order_of_nine_components():
    """Long enough that whoever cuts the tree or rounds in another way fails here."""
    first = {name: number + 0.1 for number, name in enumerate(NAMES, start=1)}
    stages = [
        (1000, 500, {name: 2.0**-number for number, name in enumerate(NAMES)}),
        (2000, 0, {name: 1 for name in NAMES[2:]}),
    ]
    mixing = Mixing.of(first, 5, stages)
    found = []
    for position in (0, 10**12):
        components, indices = mixing.at(position, 3000)
        found.append(
            hashlib.sha256(components.astype("<i8").tobytes() + indices.astype("<i8").tobytes()).hexdigest()[:16]
        )
    assert [mixing.counts(position) for position in (500, 1250, 1999, 2500)] == GOLDEN_NINE_COUNTS
    assert found == GOLDEN_NINE


@settings(derandomize=True, deadline=None)
@given(WEIGHTS, st.integers(0, 10**15))
def test_counts_add_up_and_follow_the_weights(weights, position):
    mixing = of(weights)
    counts, after = mixing.counts(position), mixing.counts(position + 1)
    assert sum(counts) == position
    assert sorted(b - a for a, b in zip(counts, after)) == [0] * (len(weights) - 1) + [1]
    assert all(abs(count - due) <= max_deviation(len(weights)) for count, due in zip(counts, mixing.integral(position)))


@settings(derandomize=True, deadline=None, max_examples=60)
@given(schedules())
def test_every_schedule_is_one_to_one_and_follows_its_integral_at_every_position(schedule):
    mixing = Mixing.of(*schedule)
    ends = block_ends(mixing, mixing.phases[-1].start + 100)
    last = ends[-1]
    components, indices = mixing.at(0, last)
    for component in range(len(mixing.names)):
        mine = indices[components == component]
        assert mine.tolist() == list(range(len(mine))), "in the order of the positions"
    running = np.zeros((last + 1, len(mixing.names)), dtype=np.int64)
    running[1:] = np.cumsum(components[:, None] == np.arange(len(mixing.names)), axis=0)
    for end in ends:
        assert running[end].tolist() == list(mixing.counts(end))
    for position in range(0, last, 5):
        counts, due = mixing.counts(position), mixing.integral(position)
        assert sum(counts) == position == sum(due)
        assert all(abs(count - d) <= 1 + max_deviation(len(mixing.names)) for count, d in zip(counts, due))
        assert all(abs(count - d) <= BLOCK for count, d in zip(running[position], due))
        place = mixing.position(int(components[position]), int(indices[position]))
        assert place == position


@settings(derandomize=True, deadline=None, max_examples=40)
@given(schedules(), st.integers(1, 10**12))
def test_long_schedules_are_exact_too(schedule, scale):
    weights, seed, stages = schedule
    mixing = Mixing.of(weights, seed, [(start * scale, ramp * scale, later) for start, ramp, later in stages])
    for phase in mixing.phases:
        for offset in (0, 1, (phase.length or 10**15) // 3, (phase.length or 10**15) - 1):
            position = phase.start + max(0, offset)
            counts, due = mixing.counts(position), mixing.integral(position)
            after = mixing.counts(position + 1)
            assert sum(counts) == position and sorted(b - a for a, b in zip(counts, after)) == [0] * (
                len(counts) - 1
            ) + [1]
            assert all(abs(count - d) <= 1 + max_deviation(len(counts)) for count, d in zip(counts, due))
            (component,), (index,) = mixing.at(position, 1)
            assert mixing.position(int(component), int(index)) == position


@settings(derandomize=True, deadline=None, max_examples=60)
@given(schedules())
def test_a_component_without_weight_in_a_phase_gets_nothing_in_it(schedule):
    mixing = Mixing.of(*schedule)
    for phase in mixing.phases:
        components, _ = mixing.at(phase.start, phase.length or 200)
        empty = {c for c, (before, after) in enumerate(zip(phase.before, phase.after)) if not before and not after}
        assert not empty & set(components.tolist())


def test_a_stage_switches_exactly():
    mixing = Mixing.of({"a": 1, "b": 1}, 0, [(101, 0, {"c": 1, "d": 2}), (333, 0, {"a": 1})])
    components = "".join(mixing.names[c] for c in mixing.at(0, 400)[0])
    assert (
        set(components[:101]) == {"a", "b"}
        and set(components[101:333]) == {"c", "d"}
        and set(components[333:]) == {"a"}
    )


def test_a_ramp_is_a_straight_line():
    mixing = Mixing.of({"a": 1}, 0, [(0, 10**6, {"b": 1})])
    for part in range(0, 11):
        position = part * 10**5
        assert abs(mixing.counts(position)[1] - position**2 / (2 * 10**6)) <= 0.5
    assert mixing.shares(250_000)[1] == fractions.Fraction(2 * 250_000 + 1, 2 * 10**6)
    assert mixing.shares(2 * 10**6) == (0, 1)


@settings(derandomize=True, deadline=None, max_examples=50)
@given(schedules(), st.integers(0, 700), st.integers(1, 80))
def test_positions_can_be_asked_in_any_order(schedule, start, count):
    whole = Mixing.of(*schedule).at(start, count)
    fresh = Mixing.of(*schedule)
    for offset in reversed(range(count)):
        (component,), (index,) = fresh.at(start + offset, 1)
        assert (component, index) == (whole[0][offset], whole[1][offset])


def test_tiny_weights_get_their_share():
    mixing = Mixing.of({"big": 1.0, "tiny": 1e-6, "tinier": 1e-8})
    for position in (2 * 10**6, 2 * 10**8, 10**10, 10**14):
        for count, due in zip(mixing.counts(position), mixing.integral(position)):
            assert count >= 1 or due < 1
            assert abs(count - due) <= max_deviation(3)
    crowd = Mixing.of({f"c{i:03d}": 1 for i in range(1000)})
    assert set(crowd.counts(2000)) <= {1, 2, 3}
    # Many short stages do not starve it either: what rounding leaves over is carried on.
    stages = [(10**5 * (i + 1), 0, {"big": 1.0 + i % 2, "tiny": 1e-6}) for i in range(200)]
    assert abs(Mixing.of({"big": 1.0, "tiny": 1e-6}, 0, stages).counts(2 * 10**7)[1] - 15) <= 1


def test_errors_do_not_add_up_over_stages():
    turns = [(101 * i, 0, {"a": 1, "b": 1} if i % 2 == 0 else {"a": 1, "c": 1}) for i in range(1, 201)]
    single = [(i, 0, {"a": 1, "b": 1} if i % 2 == 0 else {"a": 1, "c": 1}) for i in range(1, 201)]
    ramps = [(64 * i, 60, {"a": 1, "b": i % 3, "c": (i + 1) % 3, "d": 0.01}) for i in range(1, 100)]
    for stages in (turns, single, ramps):
        mixing = Mixing.of({"a": 1, "b": 1}, 0, stages)
        for phase in mixing.phases:
            assert all(
                abs(count - due) <= 2 for count, due in zip(mixing.counts(phase.start), mixing.integral(phase.start))
            )


def test_a_weight_of_zero_keeps_its_place_and_gets_nothing():
    mixing = Mixing.of({"a": 0, "b": 1, "c": 0})
    assert mixing.counts(1000) == (0, 1000, 0)
    assert set(mixing.at(0, 100)[0].tolist()) == {1}
    assert mixing.position(0, 0) is None


def test_only_ratios_and_names_count():
    small, large = Mixing.of({"a": 0.2, "b": 0.8}, 3), Mixing.of({"b": 8, "a": 2}, 3)
    assert small.names == large.names
    for one, other in zip(small.at(0, 200), large.at(0, 200)):
        np.testing.assert_array_equal(one, other)


def test_seeds_and_blocks_differ():
    orders = {tuple(of([1, 1], seed).at(b * BLOCK, BLOCK)[0].tolist()) for seed in range(5) for b in range(5)}
    assert len(orders) == 25


def test_weights_are_exact():
    thirds = Mixing.of({"a": "1/3", "b": np.float64(2)})
    assert thirds.shares(0) == (fractions.Fraction(1, 7), fractions.Fraction(6, 7))
    assert collections.Counter(Mixing.of({"a": 1, "b": 1, "c": 1}).at(0, 960)[0].tolist()) == {0: 320, 1: 320, 2: 320}


@pytest.mark.parametrize(
    "weights",
    [
        {},
        {"a": 0},
        {"a": -1},
        {"a": float("nan")},
        {"a": float("inf")},
        {"a": "x"},
        {"a": True},
        {"a": None},
        {"a": "1/0"},
    ],
)
def test_weights_that_are_no_shares_are_refused(weights):
    with pytest.raises(ConfigurationError):
        Mixing.of(weights)
    if weights:
        with pytest.raises(ConfigurationError):
            Mixing.of({"b": 1}, 0, [(10, 0, weights)])


def test_stages_come_one_after_the_other():
    with pytest.raises(ConfigurationError, match="starts at position 15"):
        Mixing.of({"a": 1}, 0, [(10, 10, {"a": 2}), (15, 0, {"a": 1})])


GOLDEN_COMPONENTS = "bacaaabbcabacbbaaabbaaaacbcaacabcbcbaaaaaccaccbcacbcacaaccbccccaccccccbbbbbbbbbb"
# fmt: off
GOLDEN_INDICES = [
    0, 0, 0, 1, 2, 3, 1, 2, 1, 4, 3, 5, 2, 4, 5, 6, 7, 8, 6, 7,
    9, 10, 11, 12, 3, 8, 4, 13, 14, 5, 15, 9, 6, 10, 7, 11, 16, 17, 18, 19,
    20, 8, 9, 21, 10, 11, 12, 12, 22, 13, 13, 14, 23, 15, 24, 25, 16, 17, 14, 18,
    19, 20, 21, 26, 22, 23, 24, 25, 26, 27, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24,
]
# fmt: on
GOLDEN_COUNTS = [
    (1, 0, 0),
    (1, 1, 0),
    (3, 1, 1),
    (16, 10, 6),
    (20, 12, 8),
    (24, 14, 12),
    (26, 15, 19),
    (27, 15, 28),
    (27, 999945, 28),
]
GOLDEN_NINE_COUNTS = [
    (12, 23, 34, 45, 56, 66, 77, 88, 99),
    (60, 70, 88, 110, 134, 159, 184, 210, 235),
    (405, 245, 178, 159, 162, 178, 199, 224, 249),
    (406, 245, 250, 230, 234, 249, 270, 296, 320),
]
GOLDEN_NINE = ["730f36e21aa8a0fd", "339d6b654fcfe951"]
