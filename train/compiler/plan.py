"""What a compute budget buys: model size and tokens after Hoffmann et al., epochs of each component of the mixture, steps and days.

Training compute is told in FLOPs by the rule of Hoffmann et al. (arXiv 2203.15556, "Chinchilla"), C = 6 N D for N parameters and D tokens. The
attention over long rows costs more than that and is counted where time is told (`flops_per_token`). Closed form throughout: no cache is opened,
only manifests are read.

Four laws are held side by side, since they disagree where it matters. Approaches 1 (the lower envelope of training curves) and 2 (parabolas
through runs of equal compute) of Hoffmann et al. say that N and D grow alike; their approach 3 fits the loss L(N, D) = E + A / N^alpha +
B / D^beta and says that D grows faster. Besiroglu et al. (arXiv 2404.10102) fitted the same form to the same runs anew and found the third at
one with the first two: take theirs, or the first.
"""

import dataclasses
import math
from collections.abc import Mapping

from castor.tasks.errors import ConfigurationError
from castor.tasks.mixing import mixing
from castor.tasks.mixing.schedule import BatchSizes
from castor.train.compiler import predict

DAY = 86_400.0
FRESH_EPOCHS = 4
"""Up to so many passes, tokens seen again are worth nearly what new ones are (Muennighoff et al., arXiv 2305.16264)."""


@dataclasses.dataclass(frozen=True)
class Optimum:
    """Parameters and tokens that go with a compute budget (FLOPs), the embedding counted among the parameters as Hoffmann et al. do."""

    flops: float
    parameters: float
    tokens: float


@dataclasses.dataclass(frozen=True)
class PowerLaw:
    """N = factor * C^exponent."""

    name: str
    factor: float
    exponent: float

    def optimum(self, flops: float) -> Optimum:
        parameters = self.factor * flops**self.exponent
        return Optimum(flops, parameters, flops / (6 * parameters))

    def of_parameters(self, parameters: float) -> Optimum:
        """The budget whose optimum has so many parameters."""
        flops = (parameters / self.factor) ** (1 / self.exponent)
        return Optimum(flops, parameters, flops / (6 * parameters))


@dataclasses.dataclass(frozen=True)
class ParametricLaw:
    """L(N, D) = E + A / N^alpha + B / D^beta, nats a token of the paper's own data and vocabulary: good for comparisons, not as a forecast."""

    name: str
    E: float
    A: float
    B: float
    alpha: float
    beta: float

    def loss(self, parameters: float, tokens: float) -> float:
        return self.E + self.A / parameters**self.alpha + self.B / tokens**self.beta

    @property
    def frontier(self) -> PowerLaw:
        """Where L is least for C = 6 N D: N = G (C / 6)^a (Hoffmann et al., equation 4)."""
        exponent = self.beta / (self.alpha + self.beta)
        scale = (self.alpha * self.A / (self.beta * self.B)) ** (1 / (self.alpha + self.beta))
        return PowerLaw(self.name, scale / 6**exponent, exponent)

    def optimum(self, flops: float) -> Optimum:
        return self.frontier.optimum(flops)

    def of_parameters(self, parameters: float) -> Optimum:
        return self.frontier.of_parameters(parameters)


# Hoffmann et al. print the exponents of the first two to two digits (table 2: 0.50 and 0.49) and no factors: these are the lines through the nine
# rows of their tables 3 and A3, which they meet within 0.6 % (1.2 and 3.3 % at the row of "67 billion", which is rounded).
APPROACH_1 = PowerLaw("Hoffmann et al., approach 1", 0.0992, 0.4981)
APPROACH_2 = PowerLaw("Hoffmann et al., approach 2", 0.1449, 0.4899)
# E, alpha and beta to four digits from the paper's TeX source, as Besiroglu et al. quote them; the two digits that are printed (1.69, 0.34, 0.28)
# ask for half as many tokens again at Chinchilla's budget.
APPROACH_3 = ParametricLaw("Hoffmann et al., approach 3", 1.6934, 406.4, 410.7, 0.3392, 0.2849)
BESIROGLU = ParametricLaw("Besiroglu et al., approach 3 anew", 1.8172, 482.01, 2085.43, 0.3478, 0.3658)
LAWS = (APPROACH_1, APPROACH_2, APPROACH_3, BESIROGLU)


def flops_per_token(parameters: int, layers: int, heads: int, head_dim: int, length: int) -> float:
    """FLOPs of training on a token in a row of `length`, as `castor compile` counts them: 6 a parameter, and causal attention over the whole row.
    Rows that hold several documents need less: splash attention leaves out what the segments mask."""
    return predict.model_flops(parameters, layers, heads, head_dim, 1, length) / length


@dataclasses.dataclass(frozen=True)
class Fleet:
    """Chips and what they do: peak FLOP/s of one, and the share of it that becomes training (MFU)."""

    chips: int
    peak: float
    mfu: float

    def __post_init__(self):
        if not 0 < self.mfu <= 1:
            raise ConfigurationError(
                f"--mfu={self.mfu}.",
                "It is a share of the chips' peak rate, above 0 and at most 1; 0.4 to 0.6 is usual.",
            )

    def days(self, flops: float) -> float:
        return flops / (self.chips * self.peak * self.mfu) / DAY

    def flops(self, days: float) -> float:
        return self.chips * self.peak * self.mfu * days * DAY


@dataclasses.dataclass(frozen=True)
class Passes:
    """One component of the mixture over a run. held, seen: tokens of its cache and of the run; share: of the run's rows. epochs: seen / held."""

    name: str
    held: int
    share: float
    seen: float

    @property
    def epochs(self) -> float:
        return self.seen / self.held if self.held else math.inf if self.seen else 0.0


def passes(stages, held: Mapping[str, int], batch_sizes: BatchSizes, length: int, steps: int) -> list[Passes]:
    """What `steps` updates see of each component, by name.

    stages: (start, ramp, component -> weight) as `tasks.Mixture.weights` has them. held: component -> tokens. Exact integrals of the shares over
    the rows; rows are taken as full, which packing misses by a percent or so.
    """
    (_, _, first), *later = stages
    at = batch_sizes.position
    order = mixing.Mixing.of(
        first, 0, [(at(start), at(start + ramp) - at(start), weights) for start, ramp, weights in later]
    )
    rows = at(steps)
    return [
        Passes(name, held[name], float(seen / rows) if rows else 0.0, float(seen * length))
        for name, seen in zip(order.names, order.integral(rows))
    ]


def steps_for(tokens: float, batch_sizes: BatchSizes, length: int) -> int:
    """The updates that see at least `tokens`."""
    return max(batch_sizes.step(max(math.ceil(tokens / length) - 1, 0))[0] + 1, 1)


def count(text: str, what: str) -> float:
    """A positive number such as 1e24; ConfigurationError for anything else."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise ConfigurationError(f"{what}={text}.", "Give a positive number, such as 1e24.")
    return value
