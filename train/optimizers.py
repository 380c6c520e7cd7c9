"""Optimizers and learning-rate schedules, as frozen dataclasses that gin fills; each builds its optax transformation.

A schedule maps the number of updates done (int32) to the learning rate of the next (float32); the first is not wasted on a rate of 0. Decay, where there is one, spares the norms' scales, which are
told by name: under the scan over layers they too have two axes.
"""

import dataclasses
from collections.abc import Callable

import gin
import jax
import jax.numpy as jnp
import optax

from tasks.errors import ConfigurationError


@gin.configurable(module="train.optimizers")
@dataclasses.dataclass(frozen=True)
class WarmupCosine:
    """Linear from 0 to `peak` over `warmup_steps`, then half a cosine down to `final_share` of the peak at `total_steps` (Chinchilla: 0.1)."""

    peak: float = 3e-3
    warmup_steps: int = 20
    total_steps: int = 1000
    final_share: float = 0.1

    def build(self) -> optax.Schedule:
        warmup = min(self.warmup_steps, self.total_steps)
        curve = optax.warmup_cosine_decay_schedule(0.0, self.peak, warmup, max(self.total_steps, warmup + 1), self.peak * self.final_share)

        def schedule(step):
            return curve(step + 1)

        return schedule


@gin.configurable(module="train.optimizers")
@dataclasses.dataclass(frozen=True)
class WarmupRsqrt:
    """Linear from 0 to `peak` over `warmup_steps`, then peak * sqrt(warmup_steps / step) (T5): needs no total, so a run can be prolonged."""

    peak: float = 1e-2
    warmup_steps: int = 1000

    def build(self) -> optax.Schedule:
        warmup = max(self.warmup_steps, 1)

        def schedule(step):
            step = jnp.asarray(step + 1, jnp.float32)
            return self.peak * jnp.minimum(step / warmup, jnp.sqrt(warmup / jnp.maximum(step, warmup)))

        return schedule


def _decayed(parameters):
    """True for the parameters that weight decay may pull: all but the norms' scales."""
    return jax.tree_util.tree_map_with_path(lambda path, _: jax.tree_util.keystr(path[-1:], simple=True) != "scale", parameters)


@gin.configurable(module="train.optimizers")
@dataclasses.dataclass(frozen=True)
class AdamW:
    """AdamW (arXiv 1711.05101) behind a clip of the global gradient norm; `clip` 0 or None leaves gradients as they are."""

    schedule: WarmupCosine | WarmupRsqrt = WarmupCosine()
    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.1
    clip: float | None = 1.0

    def build(self) -> optax.GradientTransformation:
        rate = _schedule(self.schedule).build()
        adamw = optax.adamw(rate, self.b1, self.b2, self.eps, weight_decay=self.weight_decay, mask=_decayed)
        return optax.chain(optax.clip_by_global_norm(self.clip), adamw) if self.clip else adamw


@gin.configurable(module="train.optimizers")
@dataclasses.dataclass(frozen=True)
class Adafactor:
    """Adafactor (arXiv 1804.04235): a row and a column of second moments instead of a matrix; updates are clipped by their own root mean square."""

    schedule: WarmupCosine | WarmupRsqrt = WarmupRsqrt()
    decay_rate: float = 0.8
    weight_decay: float = 0.0
    clip: float | None = None

    def build(self) -> optax.GradientTransformation:
        parts = [optax.clip_by_global_norm(self.clip)] if self.clip else []
        parts.append(optax.adafactor(None, decay_rate=self.decay_rate))
        if self.weight_decay:
            # optax's own decay would not be scaled by the learning rate; adafactor's updates are negative already.
            parts.append(optax.add_decayed_weights(-self.weight_decay, _decayed))
        return optax.chain(*parts, optax.scale_by_schedule(_schedule(self.schedule).build()))


Optimizer = AdamW | Adafactor


def _schedule(schedule: WarmupCosine | WarmupRsqrt) -> WarmupCosine | WarmupRsqrt:
    if not hasattr(schedule, "build"):
        raise ConfigurationError(f"the optimizer's schedule is {schedule!r}.", "Bind it to @train.optimizers.WarmupCosine() or @train.optimizers.WarmupRsqrt().")
    return schedule


def learning_rate(optimizer: Optimizer) -> Callable[[jax.Array], jax.Array]:
    """The schedule of an optimizer, for the metrics."""
    return _schedule(optimizer.schedule).build()
