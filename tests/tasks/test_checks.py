"""Numbers of configurations: what counts as one, and what the error says of one that does not."""

import fractions

import numpy as np
import pytest

from castor.tasks.checks import check_integer, check_number, is_integer, is_number
from castor.tasks.errors import ConfigurationError


@pytest.mark.parametrize("value", [0, -3, 10**30, np.int64(7), np.uint8(7), np.array(7)])
def test_integers(value):
    assert is_integer(value) and type(check_integer("N", value)) is int and check_integer("N", value) == value


@pytest.mark.parametrize("value", [True, False, np.True_, 1.0, np.float32(1), "1", None, [1], fractions.Fraction(2)])
def test_what_is_no_integer(value):
    assert not is_integer(value)
    with pytest.raises(ConfigurationError, match="^N = .* is not an integer. Give an integer.$"):
        check_integer("N", value)


@pytest.mark.parametrize("value", [0, 2, -1.5, 1e300])
def test_numbers(value):
    assert is_number(value) and check_number("N", value) is value


@pytest.mark.parametrize("value", [True, float("nan"), float("inf"), "1", None])
def test_what_is_no_number(value):
    assert not is_number(value)
    with pytest.raises(ConfigurationError, match="^N = .* is not a finite number. Give a finite number.$"):
        check_number("N", value)


def test_bounds_are_inclusive():
    assert is_integer(1, at_least=1, at_most=1) and is_number(0.5, 0.5, 0.5)
    assert not is_integer(0, at_least=1) and not is_integer(2, at_most=1) and not is_number(0.4, 0.5)


def test_the_error_names_the_binding_the_value_the_bounds_and_the_remedy():
    with pytest.raises(ConfigurationError) as caught:
        check_integer("Run.prefetch", 0, at_least=1)
    assert str(caught.value) == "Run.prefetch = 0 is not an integer of at least 1. Give an integer of at least 1."
    with pytest.raises(ConfigurationError) as caught:
        check_integer("SKIP_LIMIT", 11, at_least=1, at_most=10, remedy="Bind SKIP_LIMIT = 10.")
    assert str(caught.value) == "SKIP_LIMIT = 11 is not an integer from 1 to 10. Bind SKIP_LIMIT = 10."
    with pytest.raises(
        ConfigurationError, match="^peak = 2.5 is not a finite number of at most 1. Give a finite number of at most 1.$"
    ):
        check_number("peak", 2.5, at_most=1)
