"""Mixture shares from the contents of the caches: counts in, exact fractions out. This file reads no data.

    Proportional()                        share ~ tokens
    Temperature(temperature=3)            share ~ tokens ** (1 / 3)
    UniMax(budget=10**12, max_epochs=4)   equal shares, at most 4 epochs of any component
    ExampleRates(maximum=2**16)           share ~ min(examples * scale, maximum) ** (1 / T)

Example. web has 1000 tokens and code has 125. Proportional gives web 8/9 and code 1/9. Temperature(3) takes cube
roots, 10 and 5, and gives 2/3 and 1/3.

Temperature is mT5's (Xue et al. 2021, arXiv 2010.11934), UniMax is from Chung et al. 2023 (arXiv 2304.09151), and
ExampleRates is seqio.mixing_rate_num_examples.

In gin: `import castor.tasks.mixing.weights`, then `tasks.weights.Temperature.temperature = 3`, and
`tasks.Mixture.weighting = @tasks.weights.Temperature()`.

A float means the decimal it prints as. Sums, products and quotients are exact fractions. A power is computed in decimal
arithmetic and rounded to 12 significant digits, so shares are equal on every machine and with every math library.
"""

import dataclasses
import decimal
import fractions
import numbers
from collections.abc import Mapping
from typing import ClassVar, Protocol

import gin
from castor.tasks.checks import check_integer
from castor.tasks.errors import ConfigurationError

_DIGITS = 12
_DECIMAL = decimal.Context(
    prec=50,
    rounding=decimal.ROUND_HALF_EVEN,
    Emin=-99999,
    Emax=99999,
    traps=[decimal.Overflow, decimal.Underflow, decimal.InvalidOperation],
)
# Implementations of decimal may differ in the last of 50 digits. Rounding to 30 digits first makes a mathematically
# exact result exact here too, so the 12 digits never depend on the last of the 50.
_SNAPPED = decimal.Context(prec=30, rounding=decimal.ROUND_HALF_EVEN)
_ROUNDED = decimal.Context(prec=_DIGITS, rounding=decimal.ROUND_HALF_EVEN)


class Weighting(Protocol):
    """The interface that a mixture needs from a weighting.

    unit: what `counts` count: "tokens" or "examples".
    """

    unit: ClassVar[str]

    def weights(self, counts: Mapping[str, int]) -> dict[str, fractions.Fraction]:
        """Shares in the order of `counts`, which sum to 1; an empty component gets 0.

        counts: component -> tokens or examples.

        Raises ConfigurationError if all counts are 0.
        """


@gin.configurable(module="tasks.weights")
@dataclasses.dataclass(frozen=True)
class Proportional:
    """Shares proportional to tokens: every component is repeated for the same number of epochs."""

    unit: ClassVar[str] = "tokens"

    def weights(self, counts: Mapping[str, int]) -> dict[str, fractions.Fraction]:
        """Shares that sum to 1: see Weighting."""
        return _normalised(_checked(counts))


@gin.configurable(module="tasks.weights")
@dataclasses.dataclass(frozen=True)
class Temperature:
    """Shares proportional to tokens ** (1 / temperature).

    temperature: a positive number. 1 is proportional; a larger value is closer to uniform. mT5's alpha is its inverse.
    """

    temperature: float = gin.REQUIRED

    unit: ClassVar[str] = "tokens"

    def __post_init__(self):
        _positive(self.temperature, "Temperature.temperature")

    def weights(self, counts: Mapping[str, int]) -> dict[str, fractions.Fraction]:
        """Shares that sum to 1: see Weighting."""
        exponent = 1 / _positive(self.temperature, "Temperature.temperature")
        return _normalised({name: _power(count, exponent) for name, count in _checked(counts).items()})


@gin.configurable(module="tasks.weights")
@dataclasses.dataclass(frozen=True)
class UniMax:
    """Shares as equal as possible, with no component over `max_epochs` epochs (UniMax, algorithm 1).

    Example: budget 600, max_epochs 2, web with 1000 tokens and code with 100. An equal share is 300 tokens; code is
    capped at 200, and web takes the other 400: shares 2/3 and 1/3.

    The tokens that a capped component cannot take are divided equally among the others. If the budget exceeds the sum
    of all caps, shares are proportional to tokens, as in the last line (normalize) of the paper's algorithm. Every
    component is then repeated for the same number of epochs, more than max_epochs; no other shares have a smaller
    maximum. `epochs` computes that number.

    budget: tokens of the whole run.

    max_epochs: a positive number, possibly a fraction.
    """

    budget: int = gin.REQUIRED
    max_epochs: float = gin.REQUIRED

    unit: ClassVar[str] = "tokens"

    def __post_init__(self):
        _positive(self.budget, "UniMax.budget")
        _positive(self.max_epochs, "UniMax.max_epochs")

    def weights(self, counts: Mapping[str, int]) -> dict[str, fractions.Fraction]:
        """Shares that sum to 1: see Weighting."""
        counts = _checked(counts)
        left, max_epochs = _positive(self.budget, "UniMax.budget"), _positive(self.max_epochs, "UniMax.max_epochs")
        tokens: dict[str, fractions.Fraction] = {}
        # Smallest first: the rest of its equal share goes to the larger ones. Equal counts get equal shares in any
        # order.
        for number, name in enumerate(sorted(counts, key=counts.__getitem__)):
            tokens[name] = min(left / (len(counts) - number), counts[name] * max_epochs)
            left -= tokens[name]
        return _normalised({name: tokens[name] for name in counts})


@gin.configurable(module="tasks.weights")
@dataclasses.dataclass(frozen=True)
class ExampleRates:
    """SeqIO's rates, min(examples * scale, maximum) ** (1 / temperature), as in seqio.mixing_rate_num_examples.

    maximum: upper bound of the scaled number of examples; None for no bound.

    scale: a positive factor on the number of examples.

    temperature: a positive number; 1 keeps the rates.
    """

    maximum: float | None = None
    scale: float = 1.0
    temperature: float = 1.0

    unit: ClassVar[str] = "examples"

    def __post_init__(self):
        _positive(self.scale, "ExampleRates.scale")
        _positive(self.temperature, "ExampleRates.temperature")
        if self.maximum is not None:
            _positive(self.maximum, "ExampleRates.maximum")

    def rates(self, counts: Mapping[str, int]) -> dict[str, fractions.Fraction]:
        """The rates before normalization, equal to SeqIO's to 12 digits.

        counts: component -> examples.
        """
        scale, exponent = (
            _positive(self.scale, "ExampleRates.scale"),
            1 / _positive(self.temperature, "ExampleRates.temperature"),
        )
        scaled = {name: count * scale for name, count in _checked(counts).items()}
        if self.maximum is not None:
            maximum = _positive(self.maximum, "ExampleRates.maximum")
            scaled = {name: min(value, maximum) for name, value in scaled.items()}
        return {name: _power(value, exponent) for name, value in scaled.items()}

    def weights(self, counts: Mapping[str, int]) -> dict[str, fractions.Fraction]:
        """Shares that sum to 1: see Weighting."""
        return _normalised(self.rates(counts))


def combine(
    shares: Mapping[str, fractions.Fraction], multipliers: Mapping[str, float]
) -> dict[str, fractions.Fraction]:
    """multiplier * share of each component, exact and not normalized, in the order of `multipliers`.

    Example: shares web 3/4 and code 1/4 with multipliers 1 and 2 give 3/4 and 1/2.

    shares: component -> share.

    multipliers: component -> number, at least 0, for the same components. 2 doubles a component relative to the others.

    Raises ConfigurationError if the names differ, for an invalid multiplier, and if every product is 0.
    """
    if set(shares) != set(multipliers):
        odd = sorted(set(shares) ^ set(multipliers))[0]
        raise ConfigurationError(
            f"component {odd!r} has a count or a multiplier, not both.", "Give every component of the mixture both."
        )
    result = {name: _exact(value, f"the multiplier of {name!r}") * shares[name] for name, value in multipliers.items()}
    if not any(result.values()):
        raise ConfigurationError(
            "no component with a multiplier above 0 holds any data.",
            "Give a component with data a positive multiplier.",
        )
    return result


def epochs(weights: Mapping[str, float], counts: Mapping[str, int], tokens: int) -> dict[str, float]:
    """The number of epochs of each component that a run trains on.

    Example: equal weights, web with 1000 tokens, code with 125, and a run of 500 tokens give web 0.25 and code 2.0.

    weights: component -> share, or any multiple of the shares.

    counts: component -> tokens, regardless of what the weights were made from.

    tokens: tokens of the whole run.

    A component with a positive weight and no tokens has infinitely many epochs. Raises ConfigurationError as
    `combine` does.
    """
    exact = combine(dict.fromkeys(counts, fractions.Fraction(1)), weights)
    total, budget = sum(exact.values()), _exact(tokens, "the tokens of the run")
    counts = _counts(counts)
    result = {}
    for name, weight in exact.items():
        if weight and budget:
            result[name] = float(budget * weight / total / counts[name]) if counts[name] else float("inf")
        else:
            result[name] = 0.0
    return result


def _normalised(values: Mapping[str, fractions.Fraction]) -> dict[str, fractions.Fraction]:
    total = fractions.Fraction(sum(values.values()))
    return {name: value / total for name, value in values.items()}


def _checked(counts: Mapping[str, int]) -> dict[str, fractions.Fraction]:
    counts = _counts(counts)
    if not any(counts.values()):
        names = f"all of {', '.join(counts)} are empty" if counts else "the mixture has no components"
        raise ConfigurationError(f"weights from counts: {names}.", "Name task caches that have records in this split.")
    return counts


def _counts(counts: Mapping[str, int]) -> dict[str, fractions.Fraction]:
    result = {}
    for name, count in counts.items():
        result[name] = fractions.Fraction(check_integer(f"the count of {name!r}", count, at_least=0))
    return result


def _exact(value, what: str) -> fractions.Fraction:
    """A user's number as a fraction, a float as the decimal it prints as.

    Raises ConfigurationError unless the number is finite and at least 0.
    """
    try:
        if isinstance(value, numbers.Rational | decimal.Decimal):
            result = fractions.Fraction(value)
        elif isinstance(value, numbers.Real):
            result = fractions.Fraction(repr(float(value)))
        else:
            raise ValueError
        if result >= 0:
            return result
    except (ValueError, OverflowError):
        pass
    raise ConfigurationError(f"{what} is {value!r}.", "Give a number, finite and not negative.")


def _positive(value, what: str) -> fractions.Fraction:
    result = _exact(value, what)
    if not result:
        raise ConfigurationError(f"{what} is {value!r}.", "Give a number above 0.")
    return result


def _power(base: fractions.Fraction, exponent: fractions.Fraction) -> fractions.Fraction:
    """base ** exponent to 12 significant digits; exact if the exponent is 1."""
    if exponent == 1 or not base:
        return base
    try:
        result = _DECIMAL.power(_decimal(base), _decimal(exponent))
    except (decimal.Overflow, decimal.Underflow):
        what = f"a count to the power of {float(exponent)} is out of range."
        raise ConfigurationError(what, "Give a temperature of 1 or more.") from None
    return fractions.Fraction(_ROUNDED.plus(_SNAPPED.plus(result)))


def _decimal(value: fractions.Fraction) -> decimal.Decimal:
    return _DECIMAL.divide(decimal.Decimal(value.numerator), decimal.Decimal(value.denominator))
