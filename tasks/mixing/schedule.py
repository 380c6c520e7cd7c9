"""What changes over a run: the mixture's weights and the batch size, by step, in closed form.

A `MixtureStage` sets new weights from a step on, at once or in a straight line over some steps. `BatchSizes` turns steps into positions (rows of
all steps in one line) and back, so that a growing batch neither skips a row nor repeats one. Both count in data steps: where steps are
skipped (`tasks.Mixture.skip_steps`), what follows keeps the weights and the sizes that it would have had.
"""

import bisect
import dataclasses
import fractions
from collections.abc import Iterable, Mapping
from typing import Any

import gin
from castor.tasks.checks import check_integer, is_integer
from castor.tasks.errors import ConfigurationError

Weights = Mapping[str, Any]


@gin.configurable(module="tasks")
@dataclasses.dataclass(frozen=True)
class MixtureStage:
    """Weights of a mixture from a step on.

    start: the first step, above 0, at which they begin to hold. weights: component -> weight; a component not named has 0. ramp: steps
    over which the shares move from those before to these, in a straight line over the rows of those steps; 0 switches exactly at `start`.
    """

    start: int
    weights: Weights
    ramp: int = 0

    def __post_init__(self):
        for name, least in (("start", 1), ("ramp", 0)):
            check_integer(
                f"MixtureStage.{name}",
                getattr(self, name),
                at_least=least,
                remedy=f"Give a number of steps, at least {least}.",
            )
        if not isinstance(self.weights, Mapping) or not self.weights:
            raise ConfigurationError(
                f"the stage at step {self.start} has no weights.",
                "Bind tasks.MixtureStage.weights = {'web': 0.5, ...}.",
            )
        object.__setattr__(self, "weights", dict(self.weights))


@dataclasses.dataclass(frozen=True)
class BatchSizes:
    """Rows of the global batch by step: sizes[i] from step starts[i] on. `of` makes one; all else is closed form."""

    starts: tuple[int, ...]
    sizes: tuple[int, ...]

    @classmethod
    def of(cls, batch_size: "int | Mapping[int, int] | BatchSizes") -> "BatchSizes":
        """From one size, or from step -> size beginning at step 0. Raises ConfigurationError for anything else."""
        if isinstance(batch_size, BatchSizes):
            return batch_size
        table = dict(batch_size) if isinstance(batch_size, Mapping) else {0: batch_size}
        if (
            not table
            or any(not is_integer(step, 0) or not is_integer(size, 1) for step, size in table.items())
            or 0 not in table
        ):
            raise ConfigurationError(
                f"batch_size is a positive integer, or a table of them by step that begins at step 0, not {batch_size!r}.",
                "Bind BATCH_SIZE = 256 or BATCH_SIZE = {0: 64, 1000: 256}.",
            )
        steps = sorted(int(step) for step in table)
        return cls(tuple(steps), tuple(int(table[step]) for step in steps))

    def size(self, step: int) -> int:
        """Rows of the global batch at a step."""
        return self.sizes[bisect.bisect_right(self.starts, step) - 1]

    def position(self, step: int) -> int:
        """Rows of all steps before a step."""
        total = 0
        for start, size, end in zip(self.starts, self.sizes, (*self.starts[1:], step)):
            total += size * (max(start, min(end, step)) - start)
        return total

    def step(self, position: int) -> tuple[int, int]:
        """(step, row) that a position falls on."""
        for start, size in zip(reversed(self.starts), reversed(self.sizes)):
            first = self.position(start)
            if position >= first:
                return start + (position - first) // size, (position - first) % size
        raise ValueError(f"there is no position {position}")


def exact(name: str, weight: Any) -> fractions.Fraction:
    """A weight as a fraction; a float means the decimal it prints as. Raises ConfigurationError if it is no number from 0 up."""
    try:
        value = fractions.Fraction(str(weight)) if not isinstance(weight, bool) else None
    except (ValueError, ZeroDivisionError):
        value = None
    if value is None or value < 0:
        raise ConfigurationError(
            f"component {name!r} of the mixture has weight {weight!r}.", "Give it a number that is not negative."
        )
    return value


def shares(weights: Weights, names: Iterable[str]) -> tuple[fractions.Fraction, ...]:
    """The weights of components, scaled to sum to 1. Raises ConfigurationError if none is positive, or for a bad one."""
    values = [exact(name, weights.get(name, 0)) for name in names]
    total = sum(values)
    if not total > 0:
        raise ConfigurationError(
            f"all weights of the mixture of {', '.join(names)} are zero.", "Give one a positive weight."
        )
    return tuple(value / total for value in values)
