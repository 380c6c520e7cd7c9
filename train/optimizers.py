"""Optimizers and learning-rate schedules, as frozen dataclasses that gin fills; each builds its optax transformation.

A schedule maps the step number (int32, from 0) to the learning rate of its update (float32). The first update uses a
nonzero learning rate. Weight decay, if any, excludes the scales of the norms. The scales are identified by name,
because the scan over layers gives them two axes too.

Transformations are updated by `update(gradients, state, parameters, step=, norm=, finite=)`:

    step    int32 [], step of the run. The rate follows from the step, not from a counter in the optimizer state, so a
            skipped update does not shift the schedule.
    norm    float32 [], global norm of the gradients, also reported as a metric
    finite  bool [], whether to apply the update. If false, parameters and state do not change.

An update is one loop over each parameter: clipping, moments, decay, descent and the skip fuse. AdamW therefore reads
and writes parameter and moments once, and reads the gradient twice (once for the norm). A skip is not a selection
between new and old arrays, which the loop would have to keep separately, but arithmetic that changes nothing: m = 1 m +
0. Moments are float32 unless configured otherwise; arithmetic is always float32.
"""

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import optax

import gin
from castor.tasks.checks import check_number
from castor.tasks.errors import ConfigurationError

LAYERS = "layers"  # the stacked subtree of the parameters: [N, ...]
_MOMENT_DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


# ------------------------------------------------------------------------------------------------------------ schedules


@gin.configurable(module="train.optimizers")
@dataclasses.dataclass(frozen=True)
class WarmupCosine:
    """Linear warmup from 0 to `peak`, then half a cosine down to a share of the peak at `total_steps`.

    peak: largest learning rate.
    warmup_steps: updates of the warmup.
    total_steps: updates of the run.
    final_share: final rate as a share of the peak (Chinchilla, arXiv 2203.15556: 0.1).
    """

    peak: float = 3e-3
    warmup_steps: int = 20
    total_steps: int = 1000
    final_share: float = 0.1

    def __post_init__(self):
        _check_schedule(self)

    def build(self) -> optax.Schedule:
        warmup = min(self.warmup_steps, self.total_steps)
        curve = optax.warmup_cosine_decay_schedule(
            0.0, self.peak, warmup, max(self.total_steps, warmup + 1), self.peak * self.final_share
        )

        def schedule(step):
            return curve(step + 1)

        return schedule


@gin.configurable(module="train.optimizers")
@dataclasses.dataclass(frozen=True)
class WarmupRsqrt:
    """Linear warmup from 0 to `peak`, then peak * sqrt(warmup_steps / step) (T5, arXiv 1910.10683).

    The schedule needs no total, so a run can be prolonged.

    peak: largest learning rate.
    warmup_steps: updates of the warmup.
    """

    peak: float = 1e-2
    warmup_steps: int = 1000

    def __post_init__(self):
        _check_schedule(self)

    def build(self) -> optax.Schedule:
        warmup = max(self.warmup_steps, 1)

        def schedule(step):
            step = jnp.asarray(step + 1, jnp.float32)
            return self.peak * jnp.minimum(step / warmup, jnp.sqrt(warmup / jnp.maximum(step, warmup)))

        return schedule


def _linear(progress):
    return 1.0 - progress


def _one_minus_sqrt(progress):
    return 1.0 - jnp.sqrt(progress)


def _cosine(progress):
    return 0.5 * (1.0 + jnp.cos(jnp.pi * progress))


_DECAYS = {"linear": _linear, "1-sqrt": _one_minus_sqrt, "cosine": _cosine}


@gin.configurable(module="train.optimizers")
@dataclasses.dataclass(frozen=True)
class WarmupStableDecay:
    """Linear warmup from 0 to `peak`, a constant phase at `peak`, then a decay (MiniCPM, arXiv 2404.06395).

    Nothing before the decay depends on `total_steps`: any checkpoint of the stable phase can be trained further or
    decayed at once (docs/optimizers.md). The first update of the decay uses the peak rate; no update has a rate of 0.

    peak: largest learning rate.
    warmup_steps: updates of the warmup.
    total_steps: updates of the run.
    decay_steps: updates of the decay; None takes `decay_share` of the total.
    decay_share: share of the updates that decay, if decay_steps is None (0.2: Haegele et al., arXiv 2405.18392,
        section 4).
    decay: "linear", "1-sqrt" (the best in that paper) or "cosine".
    final_share: final rate as a share of the peak.
    """

    peak: float = 3e-3
    warmup_steps: int = 20
    total_steps: int = 1000
    decay_steps: int | None = None
    decay_share: float = 0.2
    decay: str = "1-sqrt"
    final_share: float = 0.0

    def __post_init__(self):
        _check_schedule(self)
        if self.decay not in _DECAYS:
            raise ConfigurationError(
                f"WarmupStableDecay.decay = {self.decay!r}.", f"Choose one of {', '.join(_DECAYS)}."
            )
        if not 0 <= self.decay_share <= 1 or (self.decay_steps or 0) < 0:
            raise ConfigurationError(
                f"WarmupStableDecay.decay_share = {self.decay_share!r}, decay_steps = {self.decay_steps!r}.",
                "Give a share between 0 and 1, or a number of updates.",
            )

    @property
    def decay_start(self) -> int:
        """Number of updates before the decay. Checkpoints up to this step are unaffected by the decay."""
        steps = round(self.total_steps * self.decay_share) if self.decay_steps is None else self.decay_steps
        return max(self.total_steps - steps, 0)

    def build(self) -> optax.Schedule:
        warmup, start = max(self.warmup_steps, 1), self.decay_start
        length, curve = max(self.total_steps - start, 1), _DECAYS[self.decay]

        def schedule(step):
            step = jnp.asarray(step, jnp.float32)
            left = curve(jnp.clip((step - start) / length, 0.0, 1.0))
            return (
                self.peak * jnp.minimum((step + 1) / warmup, 1.0) * (self.final_share + (1.0 - self.final_share) * left)
            )

        return schedule


Schedule = WarmupCosine | WarmupRsqrt | WarmupStableDecay


def _check_schedule(schedule) -> None:
    name = type(schedule).__name__
    for field, least in (("peak", 0), ("warmup_steps", 0), ("total_steps", 0), ("final_share", 0)):
        check_number(f"{name}.{field}", getattr(schedule, field, least), at_least=least)


# ----------------------------------------------------------------------------------------------------------- optimizers


@gin.configurable(module="train.optimizers")
@dataclasses.dataclass(frozen=True)
class AdamW:
    """AdamW (arXiv 1711.05101) with clipping of the global gradient norm.

    Every update is parameter -= rate * (multiplier * m / (sqrt(v) + eps) + weight_decay * parameter), with m and v
    corrected for their start at 0.

    schedule: learning rate by step.
    b1, b2, eps: decay of the first and second moment, and the constant in the denominator.
    weight_decay: decay per unit of learning rate; excludes the scales of the norms.
    clip: largest global norm of the gradients; 0 or None: no clipping.
    first_moment: dtype of m: "float32", or "bfloat16" to save 2 bytes per parameter (docs/optimizers.md measures the
        cost). v stays float32: its increment, 1 - b2 of the difference, would vanish in the 8 bits of a bfloat16.
    """

    schedule: Schedule = WarmupCosine()
    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.1
    clip: float | None = 1.0
    first_moment: str = "float32"

    def __post_init__(self):
        if self.first_moment not in _MOMENT_DTYPES:
            raise ConfigurationError(
                f"AdamW.first_moment = {self.first_moment!r}.", f"Choose one of {', '.join(_MOMENT_DTYPES)}."
            )

    def build(self, multipliers: Mapping[str, float] | None = None) -> optax.GradientTransformationExtraArgs:
        """The optax transformation. multipliers: parameter name -> factor of its learning rate (muP), 1 if absent."""
        return optax.chain(
            _clip(self.clip),
            _scale_by_adam(self.b1, self.b2, self.eps, _MOMENT_DTYPES[self.first_moment]),
            _descend(_schedule(self.schedule).build(), self.weight_decay, multipliers or {}),
        )


@gin.configurable(module="train.optimizers")
@dataclasses.dataclass(frozen=True)
class Adafactor:
    """Adafactor (arXiv 1804.04235): factored second moments (a row and a column per matrix) and no first moment.

    Updates are clipped by their own root mean square and scaled by that of the parameter. Every layer of the stack
    counts as a separate parameter with its own root mean squares. Of each parameter the two longest axes are factored
    if both have at least 128 entries; other axes (heads) are kept.

    schedule: learning rate by step.
    decay_rate: the second moment of update t decays by 1 - t^-decay_rate.
    weight_decay: decay per unit of learning rate; excludes the scales of the norms.
    clip: largest global norm of the gradients; 0 or None: no clipping.
    """

    schedule: Schedule = WarmupRsqrt()
    decay_rate: float = 0.8
    weight_decay: float = 0.0
    clip: float | None = None

    def build(self, multipliers: Mapping[str, float] | None = None) -> optax.GradientTransformationExtraArgs:
        if multipliers:
            raise ConfigurationError(
                "Adafactor scales updates by the parameter's size; the multipliers of muP "
                "(Transformer.mup_base_embed) are for Adam.",
                "Use train.optimizers.AdamW with muP, or leave Transformer.mup_base_embed at 0.",
            )
        moments = optax.scale_by_factored_rms(decay_rate=self.decay_rate)
        of_one = optax.chain(moments, optax.clip_by_block_rms(1.0), optax.scale_by_param_block_rms())
        return optax.chain(
            _clip(self.clip), _layer_by_layer(of_one), _descend(_schedule(self.schedule).build(), self.weight_decay, {})
        )


Optimizer = AdamW | Adafactor


def learning_rate(optimizer: Optimizer) -> Callable[[jax.Array], jax.Array]:
    """The schedule of an optimizer, for the metrics."""
    return _schedule(optimizer.schedule).build()


def _schedule(schedule: Schedule) -> Schedule:
    if not hasattr(schedule, "build"):
        names = ", ".join(
            f"@train.optimizers.{kind.__name__}()" for kind in (WarmupCosine, WarmupRsqrt, WarmupStableDecay)
        )
        raise ConfigurationError(f"the optimizer's schedule is {schedule!r}.", f"Bind it to one of {names}.")
    return schedule


# ------------------------------------------------------------------------------------------------------ transformations


def _clip(largest: float | None) -> optax.GradientTransformationExtraArgs:
    """Scales gradients to a global norm of at most `largest`; returns zeros if the update is skipped."""

    def update(gradients, state, parameters, *, norm, finite, **_):
        del parameters
        scale = jnp.minimum(1.0, largest / norm) if largest else 1.0
        return jax.tree.map(lambda g: jnp.where(finite, g * scale, 0.0), gradients), state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)


def _scale_by_adam(b1: float, b2: float, eps: float, first_moment) -> optax.GradientTransformationExtraArgs:
    """The direction of Adam's update.

    optax would multiply a bfloat16 moment by b1 in bfloat16. Here only the stored moment is rounded, once per update.
    """

    def init(parameters):
        mu = jax.tree.map(lambda p: jnp.zeros_like(p, first_moment), parameters)
        return optax.ScaleByAdamState(jnp.zeros((), jnp.int32), mu, jax.tree.map(jnp.zeros_like, parameters))

    def update(gradients, state, parameters, *, finite, **_):
        del parameters
        count = (state.count + 1).astype(jnp.float32)  # applied updates, including this one
        correct1, correct2 = 1.0 - b1**count, 1.0 - b2**count
        keep1, keep2 = jnp.where(finite, b1, 1.0), jnp.where(finite, b2, 1.0)
        mu = jax.tree.map(lambda g, m: keep1 * m.astype(jnp.float32) + (1.0 - b1) * g, gradients, state.mu)
        nu = jax.tree.map(lambda g, v: keep2 * v + (1.0 - b2) * jnp.square(g), gradients, state.nu)
        direction = jax.tree.map(lambda m, v: (m / correct1) / (jnp.sqrt(v / correct2) + eps), mu, nu)
        return direction, optax.ScaleByAdamState(
            state.count + finite, jax.tree.map(lambda m: m.astype(first_moment), mu), nu
        )

    return optax.GradientTransformationExtraArgs(init, update)


def _descend(
    rate: optax.Schedule, weight_decay: float, multipliers: Mapping[str, float]
) -> optax.GradientTransformationExtraArgs:
    """-rate(step) * (multiplier * direction + weight_decay * parameter).

    Multipliers do not scale the decay: weight decay should not fade with width.
    """

    def update(directions, state, parameters, *, step, finite, **_):
        now = jnp.where(finite, jnp.asarray(rate(step), jnp.float32), 0.0)

        def of(path, direction, parameter):
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            decay = weight_decay if _decays(path) else 0.0
            return -now * (multipliers.get(name, 1.0) * direction + decay * parameter)

        return jax.tree_util.tree_map_with_path(of, directions, parameters), state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)


def _decays(path) -> bool:
    """Whether weight decay applies to a parameter: all but the scales of the norms."""
    return jax.tree_util.keystr(path[-1:], simple=True) != "scale"


def _layer_by_layer(transformation: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """Applies the transformation to each layer of the stack separately, and to the parameters outside the stack.

    The optimizer state is small, so a skip selects the old state.
    """

    def split(tree):
        return {LAYERS: tree[LAYERS]} if LAYERS in tree else {}, {
            name: part for name, part in tree.items() if name != LAYERS
        }

    def init(parameters):
        stacked, others = split(parameters)
        return (jax.vmap(transformation.init)(stacked) if stacked else (), transformation.init(others))

    def update(gradients, state, parameters, *, finite, **_):
        (stacked, others), (stacked_parameters, other_parameters) = split(gradients), split(parameters)
        stacked_state, other_state = state
        if stacked:
            stacked, stacked_state = jax.vmap(transformation.update)(stacked, stacked_state, stacked_parameters)
        others, other_state = transformation.update(others, other_state, other_parameters)
        new = jax.tree.map(lambda new, old: jnp.where(finite, new, old), (stacked_state, other_state), state)
        return {**stacked, **others}, new

    return optax.GradientTransformationExtraArgs(init, update)
