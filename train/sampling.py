"""Which token comes next: temperature, top-k and nucleus sampling, every row by its own settings and its own seed.

The noise of a token is a function of (seed, position) alone, so a row's tokens do not depend on which other rows it is decoded with.
Neither top-k nor the nucleus sorts the vocabulary: the value down to which tokens are kept is found bit by bit, 32 sums over the row,
which on 256k tokens is a fraction of a sort's work and exact all the same.
"""

import dataclasses
from collections.abc import Sequence

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from tasks.errors import ConfigurationError

_LEAST_TEMPERATURE = 1e-6


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How tokens are chosen. Equal seeds give equal tokens.

    temperature: what logits are divided by; 0: the likeliest token. top_k: sample from the k likeliest tokens (and those as likely as the last
    of them), 0: from all. top_p: from the fewest likeliest tokens that hold this share of the probability that top_k left, 1: all
    (nucleus sampling, arXiv 1904.09751).
    """

    temperature: float = 0.8
    top_k: int = 40
    seed: int = 0
    top_p: float = 1.0

    def __post_init__(self):
        if not self.temperature >= 0 or not self.top_k >= 0:
            raise ConfigurationError(f"temperature {self.temperature}, top_k {self.top_k}: neither may be negative.")
        if not 0 < self.top_p <= 1:
            raise ConfigurationError(f"top_p {self.top_p}.", "It is a share of the probability: above 0, at most 1.")


class Settings(flax.struct.PyTreeNode):
    """The samplings of the B rows of a batch, as arrays [B]: float32, int32, float32, uint32."""

    temperature_B: jax.Array
    top_k_B: jax.Array
    top_p_B: jax.Array
    seed_B: jax.Array

    @classmethod
    def of(cls, samplings: Sequence[Sampling]) -> "Settings":
        return cls(
            np.array([s.temperature for s in samplings], np.float32),
            np.array([min(s.top_k, np.iinfo(np.int32).max) for s in samplings], np.int32),
            np.array([s.top_p for s in samplings], np.float32),
            np.array([s.seed % (1 << 32) for s in samplings], np.uint32),
        )


def choose(logits_BxV: jax.Array, allowed_BxV: jax.Array, positions_B: jax.Array, settings: Settings) -> jax.Array:
    """The id of each row's next token, int32 [B]. logits: float32; allowed: bool, at least one a row; positions: where the tokens will stand."""
    logits_BxV = jnp.where(allowed_BxV, logits_BxV, -jnp.inf)
    greedy_B = jnp.argmax(logits_BxV, axis=-1)

    def sample():
        scaled_BxV = logits_BxV / jnp.maximum(settings.temperature_B, _LEAST_TEMPERATURE)[:, None]
        kept_BxV = jax.lax.cond(jnp.any(settings.top_k_B > 0), lambda: top_k(scaled_BxV, settings.top_k_B), lambda: scaled_BxV)
        kept_BxV = jax.lax.cond(jnp.any(settings.top_p_B < 1), lambda: top_p(kept_BxV, settings.top_p_B), lambda: kept_BxV)
        noise_BxV = jax.vmap(lambda seed, position: jax.random.gumbel(jax.random.fold_in(jax.random.key(seed), position), logits_BxV.shape[1:]))
        return jnp.argmax(kept_BxV + noise_BxV(settings.seed_B, positions_B), axis=-1)

    sampled_B = jax.lax.cond(jnp.any(settings.temperature_B > 0), sample, lambda: greedy_B)
    return jnp.where(settings.temperature_B > 0, sampled_B, greedy_B).astype(jnp.int32)


def top_k(logits_BxV: jax.Array, k_B: jax.Array) -> jax.Array:
    """The logits with -inf for those below the k-th largest of their row; k = 0 keeps all."""
    keys_BxV = _ordered(logits_BxV)
    kth_B = _threshold(keys_BxV, jnp.ones_like(logits_BxV), k_B.astype(jnp.float32))
    return jnp.where((keys_BxV >= kth_B[:, None]) | (k_B == 0)[:, None], logits_BxV, -jnp.inf)


def top_p(logits_BxV: jax.Array, p_B: jax.Array) -> jax.Array:
    """The logits with -inf for all but the fewest largest of their row whose probabilities add up to p; p = 1 keeps all."""
    keys_BxV = _ordered(logits_BxV)
    least_B = _threshold(keys_BxV, jax.nn.softmax(logits_BxV, axis=-1), p_B)
    return jnp.where((keys_BxV >= least_B[:, None]) | (p_B >= 1)[:, None], logits_BxV, -jnp.inf)


def _ordered(x: jax.Array) -> jax.Array:
    """float32 -> uint32 in the same order: the sign bit of positive numbers set, all bits of negative ones turned."""
    bits = jax.lax.bitcast_convert_type(jnp.where(x == 0, 0.0, x), jnp.uint32)  # -0 is 0
    return jnp.where(bits >> 31 == 1, ~bits, bits | jnp.uint32(1 << 31))


def _threshold(keys_BxV: jax.Array, weights_BxV: jax.Array, least_B: jax.Array) -> jax.Array:
    """The largest key t of each row, uint32 [B], such that the weights of the keys >= t add up to `least` or more (0 where none does)."""

    def settle(number, found_B):
        tried_B = found_B | (jnp.uint32(1) << (31 - number).astype(jnp.uint32))
        held_B = jnp.sum(jnp.where(keys_BxV >= tried_B[:, None], weights_BxV, 0.0), axis=-1)
        return jnp.where(held_B >= least_B, tried_B, found_B)

    return jax.lax.fori_loop(0, 32, settle, jnp.zeros(keys_BxV.shape[0], jnp.uint32))
