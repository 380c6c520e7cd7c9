"""Batch sizes: steps and positions are one line, without a gap and without an overlap, whatever the ramp."""

import fractions

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from castor.tasks.errors import ConfigurationError
from castor.tasks.mixing import schedule
from castor.tasks.mixing.schedule import BatchSizes, MixtureStage

RAMPS = st.dictionaries(st.integers(1, 60), st.integers(1, 9), max_size=5).flatmap(
    lambda later: st.integers(1, 9).map(lambda first: {0: first, **later})
)


@settings(derandomize=True, deadline=None)
@given(RAMPS)
def test_positions_are_contiguous(ramp):
    sizes = BatchSizes.of(ramp)
    position = 0
    for step in range(80):
        assert sizes.position(step) == position
        size = ramp[max(start for start in ramp if start <= step)]
        assert sizes.size(step) == size
        assert [sizes.step(position + row) for row in range(size)] == [(step, row) for row in range(size)]
        position += size


@settings(derandomize=True, deadline=None)
@given(RAMPS, st.integers(0, 10**15))
def test_steps_and_positions_are_inverse_far_out(ramp, step):
    sizes = BatchSizes.of(ramp)
    assert sizes.step(sizes.position(step)) == (step, 0)
    assert sizes.step(sizes.position(step + 1) - 1) == (step, sizes.size(step) - 1)


def test_one_size_is_a_ramp_of_one():
    assert BatchSizes.of(8) == BatchSizes((0,), (8,))
    assert BatchSizes.of({1000: 16, 0: 8}) == BatchSizes((0, 1000), (8, 16))
    assert BatchSizes.of(BatchSizes.of(8)) == BatchSizes.of(8)


@pytest.mark.parametrize("bad", [0, -1, 1.5, True, None, "8", {}, {1: 8}, {0: 0}, {0: 8, -1: 4}, {0: 8, 1.5: 3}])
def test_bad_batch_sizes(bad):
    with pytest.raises(ConfigurationError, match="batch_size"):
        BatchSizes.of(bad)


@pytest.mark.parametrize(
    "arguments", [(0, {"a": 1}), (1.5, {"a": 1}), (True, {"a": 1}), (5, {}), (5, None), (5, {"a": 1}, -1)]
)
def test_bad_stages(arguments):
    with pytest.raises(ConfigurationError, match="tage"):
        MixtureStage(*arguments)


def test_a_float_means_the_decimal_it_prints_as():
    assert schedule.exact("a", 0.1) == fractions.Fraction(1, 10)
    assert schedule.shares({"a": 0.1, "c": 0.3}, ["a", "b", "c"]) == (
        fractions.Fraction(1, 4),
        0,
        fractions.Fraction(3, 4),
    )
