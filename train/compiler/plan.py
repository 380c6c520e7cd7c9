"""What a compute budget buys: model size and tokens by scaling laws, epochs of each mixture component, steps and days.

Training compute follows Hoffmann et al. (arXiv 2203.15556, "Chinchilla"): C = 6 N D FLOPs for N parameters and D
tokens. Attention over long rows costs more, which `flops_per_token` includes when estimating time. Everything is closed
form: only manifests are read, never the caches' data.

Four laws are compared, since they disagree where it matters. Approaches 1 (lower envelope of training curves) and 2
(parabolas through runs of equal compute) of Hoffmann et al. say that N and D grow alike. Their approach 3 fits the loss
L(N, D) = E + A / N^alpha + B / D^beta and says that D grows faster. Besiroglu et al. (arXiv 2404.10102) refitted the
same form to the same runs and found that approach 3 agrees with the first two. Prefer their law, or approach 1.
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
"""Up to this many epochs, repeated tokens are nearly as useful as new ones (Muennighoff et al., arXiv 2305.16264)."""


@dataclasses.dataclass(frozen=True)
class Optimum:
    """The compute-optimal model of a budget.

    flops: compute budget.
    parameters: including the embedding, as Hoffmann et al. count.
    tokens: training tokens.
    """

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
        """The budget whose optimum has this many parameters."""
        flops = (parameters / self.factor) ** (1 / self.exponent)
        return Optimum(flops, parameters, flops / (6 * parameters))


@dataclasses.dataclass(frozen=True)
class ParametricLaw:
    """L(N, D) = E + A / N^alpha + B / D^beta, in nats per token of the paper's own data and vocabulary.

    Use the loss for comparisons, not as a forecast.
    """

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
        """Minimum of L for C = 6 N D: N = G (C / 6)^a (Hoffmann et al., equation 4)."""
        exponent = self.beta / (self.alpha + self.beta)
        scale = (self.alpha * self.A / (self.beta * self.B)) ** (1 / (self.alpha + self.beta))
        return PowerLaw(self.name, scale / 6**exponent, exponent)

    def optimum(self, flops: float) -> Optimum:
        return self.frontier.optimum(flops)

    def of_parameters(self, parameters: float) -> Optimum:
        return self.frontier.of_parameters(parameters)


# Hoffmann et al. print the exponents of approaches 1 and 2 to two digits (table 2: 0.50 and 0.49) and omit the factors.
# These are the lines through the nine rows of their tables 3 and A3. The rows match within 0.6 %, except "67 billion"
# (1.2 and 3.3 %), which is rounded.
APPROACH_1 = PowerLaw("Hoffmann et al., approach 1", 0.0992, 0.4981)
APPROACH_2 = PowerLaw("Hoffmann et al., approach 2", 0.1449, 0.4899)
# E, alpha and beta to four digits are from the paper's TeX source, as quoted by Besiroglu et al. The printed two digits
# (1.69, 0.34, 0.28) would give 1.5 times as many tokens at Chinchilla's budget.
APPROACH_3 = ParametricLaw("Hoffmann et al., approach 3", 1.6934, 406.4, 410.7, 0.3392, 0.2849)
BESIROGLU = ParametricLaw("Besiroglu et al., approach 3 refitted", 1.8172, 482.01, 2085.43, 0.3478, 0.3658)
LAWS = (APPROACH_1, APPROACH_2, APPROACH_3, BESIROGLU)


def flops_per_token(parameters: int, layers: int, heads: int, head_dim: int, length: int) -> float:
    """Training FLOPs per token in a row of `length`, as `castor compile` counts them.

    6 FLOPs per parameter, plus causal attention over the whole row. Rows of several documents need less, because splash
    attention skips masked blocks.
    """
    return predict.model_flops(parameters, layers, heads, head_dim, 1, length) / length


@dataclasses.dataclass(frozen=True)
class Cluster:
    """Chips that train together.

    chips: their number.
    peak: FLOP/s of one chip.
    mfu: share of the peak rate that becomes training (model FLOPs utilization).
    """

    chips: int
    peak: float
    mfu: float

    def __post_init__(self):
        if not 0 < self.mfu <= 1:
            raise ConfigurationError(
                f"--mfu={self.mfu}.",
                "Give a share of the chips' peak rate, above 0 and at most 1; 0.4 to 0.6 is usual.",
            )

    def days(self, flops: float) -> float:
        return flops / (self.chips * self.peak * self.mfu) / DAY

    def flops(self, days: float) -> float:
        return self.chips * self.peak * self.mfu * days * DAY


@dataclasses.dataclass(frozen=True)
class ComponentEpochs:
    """How often a run repeats one component of the mixture.

    name: the component.
    cache_tokens: tokens of its cache.
    share: of the run's rows.
    run_tokens: tokens that the run trains on.
    """

    name: str
    cache_tokens: int
    share: float
    run_tokens: float

    @property
    def epochs(self) -> float:
        """Training tokens divided by cached tokens."""
        if self.cache_tokens:
            return self.run_tokens / self.cache_tokens
        return math.inf if self.run_tokens else 0.0


def component_epochs(
    stages, cache_tokens: Mapping[str, int], batch_sizes: BatchSizes, length: int, steps: int
) -> list[ComponentEpochs]:
    """Epochs of each component after `steps` updates, by name.

    stages: (start, ramp, component -> weight), as returned by `tasks.Mixture.weights`.
    cache_tokens: component -> tokens of its cache.
    batch_sizes: rows per step.
    length: tokens per row.
    steps: number of updates.

    The integrals of the shares over the rows are exact. Rows are counted as full, which overestimates tokens by about
    one percent.
    """
    (_, _, first), *later = stages
    at = batch_sizes.position
    order = mixing.Mixing.of(
        first, 0, [(at(start), at(start + ramp) - at(start), weights) for start, ramp, weights in later]
    )
    rows = at(steps)
    return [
        ComponentEpochs(name, cache_tokens[name], float(drawn / rows) if rows else 0.0, float(drawn * length))
        for name, drawn in zip(order.names, order.integral(rows))
    ]


def steps_for(tokens: float, batch_sizes: BatchSizes, length: int) -> int:
    """The number of updates that train on at least `tokens`."""
    return max(batch_sizes.step(max(math.ceil(tokens / length) - 1, 0))[0] + 1, 1)


def count(text: str, what: str) -> float:
    """Parses a positive number such as 1e24. Raises ConfigurationError for anything else."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise ConfigurationError(f"{what}={text}.", "Give a positive number, such as 1e24.")
    return value
