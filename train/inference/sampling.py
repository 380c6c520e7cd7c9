"""Sampling of the next token: temperature, top-k and nucleus sampling, with settings and a seed per row.

The next token is the one with the largest sum of scaled logit and Gumbel noise among those kept, which samples from
their softmax. The noise is a function of (seed, position, id). A row's tokens therefore depend neither on the other
rows of its batch nor on how the kept tokens are found:

- If all rows sample from a few tokens (0 < top_k <= CANDIDATES), those are selected first and only they are processed.
- Otherwise the threshold above which tokens are kept is found bit by bit: 32 sums over the row, exact, without sorting
    the vocabulary.
"""

import dataclasses
from collections.abc import Sequence

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from castor.tasks.errors import ConfigurationError

CANDIDATES = 64  # up to this top_k, candidates are selected one by one
_LEAST_TEMPERATURE = 1e-6


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How tokens are sampled. Equal seeds give equal tokens.

    temperature: divisor of the logits; 0: greedy.
    top_k: sample from the k most likely tokens; 0: from all.
    top_p: sample from the fewest most likely tokens with this share of the probability left by top_k; 1: all (nucleus
        sampling, arXiv 1904.09751).
    seed: of the noise.
    """

    temperature: float = 0.8
    top_k: int = 40
    seed: int = 0
    top_p: float = 1.0

    def __post_init__(self):
        if not self.temperature >= 0 or not self.top_k >= 0:
            raise ConfigurationError(f"temperature {self.temperature}, top_k {self.top_k}: neither may be negative.")
        if not 0 < self.top_p <= 1:
            raise ConfigurationError(f"top_p {self.top_p}.", "Give a share of the probability: above 0, at most 1.")


class SamplingArrays(flax.struct.PyTreeNode):
    """The settings of the B rows of a batch, as arrays [B]: float32, int32, float32, uint32."""

    temperature_B: jax.Array
    top_k_B: jax.Array
    top_p_B: jax.Array
    seed_B: jax.Array

    @classmethod
    def of(cls, samplings: Sequence[Sampling]) -> "SamplingArrays":
        return cls(
            np.array([s.temperature for s in samplings], np.float32),
            np.array([min(s.top_k, np.iinfo(np.int32).max) for s in samplings], np.int32),
            np.array([s.top_p for s in samplings], np.float32),
            np.array([s.seed % (1 << 32) for s in samplings], np.uint32),
        )


def choose(
    logits_BxV: jax.Array, allowed_BxV: jax.Array, positions_B: jax.Array, settings: SamplingArrays
) -> jax.Array:
    """The id of each row's next token, int32 [B].

    logits: float32 [B, V].
    allowed: bool [B, V], at least one per row.
    positions: int32 [B], positions of the new tokens.
    settings: of each row.
    """
    logits_BxV = jnp.where(
        allowed_BxV, jnp.where(logits_BxV == 0, 0.0, logits_BxV), -jnp.inf
    )  # turns -0 into 0: some sorts distinguish them
    few_B = (settings.temperature_B == 0) | ((settings.top_k_B > 0) & (settings.top_k_B <= CANDIDATES))
    return jax.lax.cond(jnp.all(few_B), _choose_from_few, _choose_from_all, logits_BxV, positions_B, settings).astype(
        jnp.int32
    )


def _choose_from_few(logits_BxV: jax.Array, positions_B: jax.Array, settings: SamplingArrays) -> jax.Array:
    best_BxN, ids_BxN = jax.lax.top_k(
        logits_BxV, min(CANDIDATES, logits_BxV.shape[1])
    )  # largest first; ties: lower id first
    scaled_BxN = _scaled(best_BxN, settings)
    ranks_N = jnp.arange(best_BxN.shape[1])
    kept_BxN = jnp.where(
        ranks_N < jnp.where(settings.temperature_B > 0, settings.top_k_B, 1)[:, None], scaled_BxN, -jnp.inf
    )
    kept_BxN = top_p(kept_BxN, settings.top_p_B)
    picked_B = jnp.argmax(kept_BxN + noise(settings.seed_B, positions_B, ids_BxN), axis=-1)
    return jnp.take_along_axis(ids_BxN, picked_B[:, None], axis=1)[:, 0]


def _choose_from_all(logits_BxV: jax.Array, positions_B: jax.Array, settings: SamplingArrays) -> jax.Array:
    scaled_BxV = _scaled(logits_BxV, settings)
    kept_BxV = jax.lax.cond(
        jnp.any(settings.top_k_B > 0), top_k, lambda logits, _: logits, scaled_BxV, settings.top_k_B
    )
    kept_BxV = jax.lax.cond(jnp.any(settings.top_p_B < 1), top_p, lambda logits, _: logits, kept_BxV, settings.top_p_B)
    ids_BxV = jnp.broadcast_to(jnp.arange(logits_BxV.shape[1], dtype=jnp.int32), logits_BxV.shape)
    sampled_B = jnp.argmax(kept_BxV + noise(settings.seed_B, positions_B, ids_BxV), axis=-1)
    return jnp.where(settings.temperature_B > 0, sampled_B, jnp.argmax(logits_BxV, axis=-1))


def _scaled(logits_BxN: jax.Array, settings: SamplingArrays) -> jax.Array:
    return logits_BxN / jnp.maximum(settings.temperature_B, _LEAST_TEMPERATURE)[:, None]


def noise(seed_B: jax.Array, positions_B: jax.Array, ids_BxN: jax.Array) -> jax.Array:
    """Gumbel noise of each id at a position: float32 [B, N], a function of (seed, position, id)."""

    def of_row(seed, position, ids_N):
        key = jax.random.fold_in(jax.random.key(seed), position)
        return jax.vmap(lambda i: jax.random.key_data(jax.random.fold_in(key, i))[0])(
            ids_N
        )  # Threefry of the id: 32 random bits

    bits_BxN = jax.vmap(of_row)(seed_B, positions_B, ids_BxN)
    uniform_BxN = (
        jax.lax.bitcast_convert_type((bits_BxN >> 9) | jnp.uint32(0x3F800000), jnp.float32) - 1.0
    )  # 23 bits of mantissa: in [0, 1)
    return -jnp.log(-jnp.log(jnp.maximum(uniform_BxN, jnp.finfo(jnp.float32).tiny)))


def top_k(logits_BxV: jax.Array, k_B: jax.Array) -> jax.Array:
    """The logits with -inf for all but the k largest per row (ties: lower ids first); k = 0 keeps all."""
    keys_BxV = _ordered(logits_BxV)
    kth_Bx1 = _threshold(keys_BxV, jnp.ones_like(logits_BxV), k_B.astype(jnp.float32))[:, None]
    above_BxV, equal_BxV = keys_BxV > kth_Bx1, keys_BxV == kth_Bx1
    left_Bx1 = k_B[:, None] - jnp.sum(above_BxV, axis=-1, keepdims=True)
    kept_BxV = above_BxV | (equal_BxV & (jnp.cumsum(equal_BxV, axis=-1) <= left_Bx1))
    return jnp.where(kept_BxV | (k_B == 0)[:, None], logits_BxV, -jnp.inf)


def top_p(logits_BxV: jax.Array, p_B: jax.Array) -> jax.Array:
    """The logits with -inf for all but the fewest largest per row whose probabilities sum to p; p = 1 keeps all."""
    keys_BxV = _ordered(logits_BxV)
    least_B = _threshold(keys_BxV, jax.nn.softmax(logits_BxV, axis=-1), p_B)
    return jnp.where((keys_BxV >= least_B[:, None]) | (p_B >= 1)[:, None], logits_BxV, -jnp.inf)


def _ordered(x: jax.Array) -> jax.Array:
    """float32 -> uint32 in the same order: the sign bit of positive numbers is set, all bits of negative ones are
    flipped.
    """
    bits = jax.lax.bitcast_convert_type(jnp.where(x == 0, 0.0, x), jnp.uint32)  # -0 is 0
    return jnp.where(bits >> 31 == 1, ~bits, bits | jnp.uint32(1 << 31))


def _threshold(keys_BxV: jax.Array, weights_BxV: jax.Array, least_B: jax.Array) -> jax.Array:
    """The largest key t of each row, uint32 [B], such that the weights of keys >= t sum to at least `least`, or 0."""

    def settle(number, found_B):
        tried_B = found_B | (jnp.uint32(1) << (31 - number).astype(jnp.uint32))
        held_B = jnp.sum(jnp.where(keys_BxV >= tried_B[:, None], weights_BxV, 0.0), axis=-1)
        return jnp.where(held_B >= least_B, tried_B, found_B)

    return jax.lax.fori_loop(0, 32, settle, jnp.zeros(keys_BxV.shape[0], jnp.uint32))
