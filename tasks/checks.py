"""Checks of numbers from gin files, JSON and callers, with one error message: binding, value and bounds.

`check_integer` and `check_number` return the number or raise ConfigurationError; `is_integer` and `is_number` return
a bool. True and False are never numbers here, although bool is a subclass of int in Python. Integer scalars of NumPy
and JAX are integers.
"""

import math
import operator
from typing import Any

from castor.tasks.errors import ConfigurationError


def is_integer(value: Any, at_least: int | None = None, at_most: int | None = None) -> bool:
    """Whether a value is an integer (not a bool) within the bounds, both inclusive; None for no bound."""
    return _as_integer(value) is not None and _within(_as_integer(value), at_least, at_most)


def is_number(value: Any, at_least: float | None = None, at_most: float | None = None) -> bool:
    """Whether a value is an int or a finite float (not a bool) within the bounds, both inclusive; None for no bound."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return number and _within(value, at_least, at_most)


def check_integer(
    name: str, value: Any, at_least: int | None = None, at_most: int | None = None, remedy: str = ""
) -> int:
    """The value as an int.

    name: gin binding or location of the value (`Run.prefetch`, `config.json: hidden_size`).

    value: value to check.

    at_least: smallest allowed value; None for no bound.

    at_most: largest allowed value; None for no bound.

    remedy: remedy in the message; by default, to give an integer within the bounds.

    Raises ConfigurationError unless the value is an integer within the bounds.
    """
    if not is_integer(value, at_least, at_most):
        raise _error(name, value, "an integer", at_least, at_most, remedy)
    return operator.index(value)


def check_number(
    name: str, value: Any, at_least: float | None = None, at_most: float | None = None, remedy: str = ""
) -> float:
    """The value unchanged. Raises ConfigurationError unless it is an int or a finite float within the bounds.

    The arguments are those of `check_integer`.
    """
    if not is_number(value, at_least, at_most):
        raise _error(name, value, "a finite number", at_least, at_most, remedy)
    return value


def _as_integer(value: Any) -> int | None:
    try:
        return None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        return None


def _within(value: float, at_least: float | None, at_most: float | None) -> bool:
    return (at_least is None or value >= at_least) and (at_most is None or value <= at_most)


def _error(name: str, value: Any, kind: str, at_least, at_most, remedy: str) -> ConfigurationError:
    bounds = {
        (False, False): "",
        (True, False): f" of at least {at_least}",
        (False, True): f" of at most {at_most}",
        (True, True): f" from {at_least} to {at_most}",
    }[at_least is not None, at_most is not None]
    return ConfigurationError(f"{name} = {value!r} is not {kind}{bounds}.", remedy or f"Give {kind}{bounds}.")
