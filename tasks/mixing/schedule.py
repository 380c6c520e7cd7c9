"""What changes over a run: mixture weights and batch sizes by step, in closed form.

Example. Batch sizes {0: 2, 3: 4}: steps 0, 1 and 2 have 2 rows, later steps have 4. Step 4 starts at position
3 * 2 + 1 * 4 = 10, and position 11 is row 1 of step 4.

A `MixtureStage` sets new weights from a step on, at once or linearly over several steps. `BatchSizes` maps steps to
positions (all rows of all steps, numbered consecutively) and back, so a growing batch neither skips nor repeats a
row. Both count data steps. When steps are skipped (`tasks.Mixture.skip_steps`), later data steps keep their weights
and sizes.
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

    start: first data step, at least 1, at which the weights hold.

    weights: component -> weight. A component that is not named has weight 0.

    ramp: number of steps over which the shares change linearly, row by row, from the previous shares to these. 0
    switches exactly at `start`.

    Raises ConfigurationError for a negative ramp, a start below 1 and missing weights.
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
                remedy=f"Give a number of steps, {least} or more.",
            )
        if not isinstance(self.weights, Mapping) or not self.weights:
            raise ConfigurationError(
                f"the stage at step {self.start} has no weights.",
                "Bind tasks.MixtureStage.weights = {'web': 0.5, ...}.",
            )
        object.__setattr__(self, "weights", dict(self.weights))


@dataclasses.dataclass(frozen=True)
class BatchSizes:
    """Rows of the global batch by step; `of` constructs it.

    starts: data steps at which a size begins to hold, rising from 0.

    sizes: rows of the global batch from each of `starts` on.
    """

    starts: tuple[int, ...]
    sizes: tuple[int, ...]

    @classmethod
    def of(cls, batch_size: "int | Mapping[int, int] | BatchSizes") -> "BatchSizes":
        """From one size, or from a table {step: size} that starts at step 0. Raises ConfigurationError otherwise."""
        if isinstance(batch_size, BatchSizes):
            return batch_size
        table = dict(batch_size) if isinstance(batch_size, Mapping) else {0: batch_size}
        if (
            not table
            or any(not is_integer(step, 0) or not is_integer(size, 1) for step, size in table.items())
            or 0 not in table
        ):
            raise ConfigurationError(
                "batch_size must be a positive integer or a table {step: size} that starts at step 0, "
                f"not {batch_size!r}.",
                "Bind BATCH_SIZE = 256 or BATCH_SIZE = {0: 64, 1000: 256}.",
            )
        steps = sorted(int(step) for step in table)
        return cls(tuple(steps), tuple(int(table[step]) for step in steps))

    def size(self, step: int) -> int:
        """Rows of the global batch at a data step."""
        return self.sizes[bisect.bisect_right(self.starts, step) - 1]

    def position(self, step: int) -> int:
        """The first position of a data step: the number of rows in all earlier steps."""
        total = 0
        for start, size, end in zip(self.starts, self.sizes, (*self.starts[1:], step)):
            total += size * (max(start, min(end, step)) - start)
        return total

    def step(self, position: int) -> tuple[int, int]:
        """(step, row) of a position. Raises ValueError for a negative position."""
        for start, size in zip(reversed(self.starts), reversed(self.sizes)):
            first = self.position(start)
            if position >= first:
                return start + (position - first) // size, (position - first) % size
        raise ValueError(f"position {position} is negative")


def exact(name: str, weight: Any) -> fractions.Fraction:
    """A weight as an exact fraction; a float means the decimal it prints as: 0.1 is 1/10.

    name: component that has the weight, for the error message.

    weight: a number or a string such as "1/3".

    Raises ConfigurationError unless the weight is a number of at least 0.
    """
    try:
        value = fractions.Fraction(str(weight)) if not isinstance(weight, bool) else None
    except (ValueError, ZeroDivisionError):
        value = None
    if value is None or value < 0:
        raise ConfigurationError(
            f"component {name!r} of the mixture has weight {weight!r}.", "Give a number that is 0 or more."
        )
    return value


def shares(weights: Weights, names: Iterable[str]) -> tuple[fractions.Fraction, ...]:
    """The weights scaled to sum to 1: {"web": 3, "code": 1} gives 3/4 and 1/4.

    weights: component -> weight; a component without a weight has 0.

    names: components, in the order of the result.

    Raises ConfigurationError for an invalid weight and if all weights are 0.
    """
    values = [exact(name, weights.get(name, 0)) for name in names]
    total = sum(values)
    if not total > 0:
        raise ConfigurationError(
            f"all weights of the mixture of {', '.join(names)} are zero.", "Give a component a positive weight."
        )
    return tuple(value / total for value in values)
