"""How the shares of a mixture follow from what its caches hold. Counts in, exact fractions out: no file is read here, no order made.

    Proportional()                        share ~ tokens
    Temperature(temperature=3)            share ~ tokens ** (1 / 3)                             mT5: Xue et al. 2021, arXiv 2010.11934
    UniMax(budget=10**12, max_epochs=4)   equal shares, none over 4 epochs of the budget        Chung et al. 2023, arXiv 2304.09151
    ExampleRates(maximum=2**16)           share ~ min(examples * scale, maximum) ** (1 / T)     seqio.mixing_rate_num_examples

In gin: `import castor.tasks.mixing.weights`, then `tasks.weights.Temperature.temperature = 3` and `@tasks.weights.Temperature()` where a weighting goes.

A float means the decimal it prints as. Sums, products and quotients are fractions; a power is taken in decimal arithmetic and rounded
to 12 significant digits, so shares are the same on every machine and in every version of its math library.
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
# The last of 50 digits may differ between implementations of decimal. Rounded to 30 first, a result that is exact in truth is exact here
# too, so that 12 digits never hang on that last one.
_SNAPPED = decimal.Context(prec=30, rounding=decimal.ROUND_HALF_EVEN)
_ROUNDED = decimal.Context(prec=_DIGITS, rounding=decimal.ROUND_HALF_EVEN)


class Weighting(Protocol):
    """What a mixture asks of a weighting. unit: what `counts` count, "tokens" or "examples"."""

    unit: ClassVar[str]

    def weights(self, counts: Mapping[str, int]) -> dict[str, fractions.Fraction]:
        """Shares in the order of `counts`, summing to 1; 0 where the count is 0. Raises ConfigurationError if all counts are 0."""


@gin.configurable(module="tasks.weights")
@dataclasses.dataclass(frozen=True)
class Proportional:
    """Shares in proportion to tokens: every component passes the same number of epochs."""

    unit: ClassVar[str] = "tokens"

    def weights(self, counts: Mapping[str, int]) -> dict[str, fractions.Fraction]:
        return _normalised(_checked(counts))


@gin.configurable(module="tasks.weights")
@dataclasses.dataclass(frozen=True)
class Temperature:
    """Shares in proportion to tokens ** (1 / temperature): 1 is proportional, larger is nearer to uniform. mT5's alpha is its inverse."""

    temperature: float = gin.REQUIRED

    unit: ClassVar[str] = "tokens"

    def __post_init__(self):
        _positive(self.temperature, "Temperature.temperature")

    def weights(self, counts: Mapping[str, int]) -> dict[str, fractions.Fraction]:
        exponent = 1 / _positive(self.temperature, "Temperature.temperature")
        return _normalised({name: _power(count, exponent) for name, count in _checked(counts).items()})


@gin.configurable(module="tasks.weights")
@dataclasses.dataclass(frozen=True)
class UniMax:
    """Shares as equal as they can be with no component over `max_epochs` epochs of a run of `budget` tokens (UniMax, algorithm 1).

    budget: tokens of the whole run. max_epochs: may be a fraction. What a capped component cannot take is divided among the others
    equally. If the budget is more than all caps together, shares are in proportion to tokens, as the paper's last line (normalize) has
    it: each component then passes the same number of epochs, more than max_epochs, and none could pass fewer without another
    passing more. `epochs` says how many.
    """

    budget: int = gin.REQUIRED
    max_epochs: float = gin.REQUIRED

    unit: ClassVar[str] = "tokens"

    def __post_init__(self):
        _positive(self.budget, "UniMax.budget")
        _positive(self.max_epochs, "UniMax.max_epochs")

    def weights(self, counts: Mapping[str, int]) -> dict[str, fractions.Fraction]:
        counts = _checked(counts)
        left, max_epochs = _positive(self.budget, "UniMax.budget"), _positive(self.max_epochs, "UniMax.max_epochs")
        tokens: dict[str, fractions.Fraction] = {}
        # From the smallest up: what it leaves of an equal share goes to the larger ones. Ties get the same in any order.
        for number, name in enumerate(sorted(counts, key=counts.__getitem__)):
            tokens[name] = min(left / (len(counts) - number), counts[name] * max_epochs)
            left -= tokens[name]
        return _normalised({name: tokens[name] for name in counts})


@gin.configurable(module="tasks.weights")
@dataclasses.dataclass(frozen=True)
class ExampleRates:
    """SeqIO's rates: min(examples * scale, maximum) ** (1 / temperature), as seqio.mixing_rate_num_examples with the same arguments."""

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
        """The rates before they are scaled to sum to 1: SeqIO's numbers to 12 digits."""
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
        return _normalised(self.rates(counts))


def combine(
    shares: Mapping[str, fractions.Fraction], multipliers: Mapping[str, float]
) -> dict[str, fractions.Fraction]:
    """multiplier * share of each component, exact and not scaled, in the order of `multipliers`: 2 doubles a component against the others.

    Raises ConfigurationError if the names differ, for a multiplier that is no number from 0 on, and if every product is 0.
    """
    if set(shares) != set(multipliers):
        odd = sorted(set(shares) ^ set(multipliers))[0]
        raise ConfigurationError(
            f"component {odd!r} has a count or a multiplier, not both.", "Give every component of the mixture one."
        )
    result = {name: _exact(value, f"the multiplier of {name!r}") * shares[name] for name, value in multipliers.items()}
    if not any(result.values()):
        raise ConfigurationError(
            "no component with a multiplier above 0 holds anything.", "Give one that does a positive multiplier."
        )
    return result


def epochs(weights: Mapping[str, float], counts: Mapping[str, int], tokens: int) -> dict[str, float]:
    """How many epochs of each component a run passes.

    weights: shares or any multiple of them. counts: tokens of each component, whatever the weights were made from. tokens: of the whole
    run. A component with a weight and no tokens passes infinitely many. Raises ConfigurationError as `combine` does.
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
        names = f"all of {', '.join(counts)} are empty" if counts else "there is nothing to count"
        raise ConfigurationError(f"weights from counts: {names}.", "Name task caches that hold records in this split.")
    return counts


def _counts(counts: Mapping[str, int]) -> dict[str, fractions.Fraction]:
    result = {}
    for name, count in counts.items():
        result[name] = fractions.Fraction(check_integer(f"the count of {name!r}", count, at_least=0))
    return result


def _exact(value, what: str) -> fractions.Fraction:
    """The number a user wrote, a float as the decimal it prints as. Raises ConfigurationError for what is no finite number from 0 on."""
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
    """base ** exponent to 12 significant digits; exact where the exponent is 1."""
    if exponent == 1 or not base:
        return base
    try:
        result = _DECIMAL.power(_decimal(base), _decimal(exponent))
    except (decimal.Overflow, decimal.Underflow):
        what = f"a count to the power of {float(exponent)} is beyond reason."
        raise ConfigurationError(what, "Give a temperature of 1 or more.") from None
    return fractions.Fraction(_ROUNDED.plus(_SNAPPED.plus(result)))


def _decimal(value: fractions.Fraction) -> decimal.Decimal:
    return _DECIMAL.divide(decimal.Decimal(value.numerator), decimal.Decimal(value.denominator))
