"""Log-probabilities of given continuations of given prompts, in batches.

Prompt and continuation are one row, processed at once as in training. The logits of a row are computed a few tokens at
a time, so no [B, L, V] array exists. Few programs are compiled: rows are rounded up to a few lengths and counts.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from castor.tasks.errors import ConfigurationError
from castor.train.inference.decode import START, for_decoding, rounded
from castor.train.model import losses
from castor.train.model.decoder import Decoder, DecoderConfig
from castor.train.partitioning import Partitioner

_LEAST_LENGTH = 64
_LOGITS_BYTES = 64 << 20  # largest size of logits that exist at once


@dataclasses.dataclass(frozen=True)
class Score:
    """The score of one continuation.

    log_probabilities: float32 [n], nats, of each token given all earlier ones.
    likeliest: whether every token was the most likely one.
    """

    log_probabilities: np.ndarray
    likeliest: bool

    @property
    def total(self) -> float:
        """log p(continuation | prompt)."""
        return float(np.sum(self.log_probabilities, dtype=np.float64))

    @property
    def mean(self) -> float:
        """Mean log-probability per token, which does not favour short continuations; 0 for an empty one."""
        return self.total / max(len(self.log_probabilities), 1)


class Scorer:
    """Scores pairs (prompt ids, continuation ids) with a model.

    config, parameters: the model.
    max_length: tokens per row in training.
    partitioner: mesh of the parameters; None: one device.
    batch_tokens: largest number of rows times length, unless a single row is longer.
    """

    def __init__(
        self,
        config: DecoderConfig,
        parameters,
        max_length: int,
        partitioner: Partitioner | None = None,
        batch_tokens: int = 16_384,
    ):
        self._parameters, self._max_length, self._batch_tokens = parameters, max_length, batch_tokens
        self._partitioner = for_decoding(partitioner)
        self._config = dataclasses.replace(config, remat="none")
        self._program = _program(self._config, self._partitioner)

    def __call__(
        self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], on_done: Callable[[int], None] | None = None
    ) -> list[Score]:
        """One Score per pair, in order. on_done: called after each batch with the number of pairs it finished.

        Raises ConfigurationError for a pair longer than the training length.
        """
        lengths = [len(prompt) + len(continuation) for prompt, continuation in pairs]
        if max(lengths, default=0) > self._max_length:
            raise ConfigurationError(
                f"prompt and continuation are {max(lengths)} tokens long; the model was trained on {self._max_length}.",
                "Shorten the prompt.",
            )
        order = sorted(range(len(pairs)), key=lambda i: (-lengths[i], i))
        scores: list[Score | None] = [None] * len(pairs)
        while order:
            length = rounded(lengths[order[0]], _LEAST_LENGTH)
            most = max(self._batch_tokens // length, 1)
            here, order = order[:most], order[most:]
            for i, score in zip(
                here, self._score([pairs[i] for i in here], length, min(rounded(len(here), 1, 4), most))
            ):
                scores[i] = score
            if on_done:
                on_done(len(here))
        return scores

    def _score(self, pairs, length: int, rows: int) -> list[Score]:
        shards = self._partitioner.size("batch") if self._partitioner else 1
        rows = -(-rows // shards) * shards
        inputs, targets, segments = (np.zeros((rows, length), np.int32) for _ in range(3))
        for row, (prompt, continuation) in enumerate(pairs):
            ids = [*prompt, *continuation]
            inputs[row, : len(ids)] = [START, *ids[:-1]][: len(ids)]
            targets[row, : len(ids)] = ids
            segments[row, : len(ids)] = 1
        place = self._place
        log_p, likeliest = jax.device_get(
            self._program(self._parameters, place(inputs), place(targets), place(segments))
        )
        found = []
        for row, (prompt, continuation) in enumerate(pairs):
            part = slice(len(prompt), len(prompt) + len(continuation))
            found.append(Score(log_p[row, part].copy(), bool(likeliest[row, part].all())))
        return found

    def _place(self, array: np.ndarray) -> jax.Array:
        if self._partitioner is None:
            return jax.device_put(array)
        return jax.make_array_from_callback(
            array.shape, self._partitioner.sharding(("batch", "length")), lambda index: array[index]
        )


@functools.cache
def _program(config: DecoderConfig, partitioner: Partitioner | None):
    return jax.jit(functools.partial(_log_probabilities, Decoder(config, partitioner)))


def _log_probabilities(decoder: Decoder, parameters, inputs_BxL, targets_BxL, segments_BxL):
    """(log p of each target, float32 [B, L]; whether the target was the most likely token, bool [B, L])."""
    B, L = inputs_BxL.shape
    positions_BxL = jnp.broadcast_to(jnp.arange(L, dtype=jnp.int32), (B, L))
    x_BxLxD, _ = decoder.apply({"params": parameters}, inputs_BxL, positions_BxL, segments_BxL, method="hidden")
    at_once = max(_LOGITS_BYTES // (4 * B * decoder.config.vocab_size), 1)
    at_once = next(n for n in range(min(at_once, L), 0, -1) if L % n == 0)

    def part(args):
        x_BxlxD, targets_Bxl = args
        logits_BxlxV = decoder.apply({"params": parameters}, x_BxlxD, method="logits")
        nll_Bxl, _ = losses.cross_entropy(logits_BxlxV, targets_Bxl)
        return -nll_Bxl, jnp.argmax(logits_BxlxV, axis=-1) == targets_Bxl

    def split(array):
        return jnp.moveaxis(array.reshape(B, L // at_once, at_once, *array.shape[2:]), 1, 0)

    log_p, likeliest = (
        jnp.moveaxis(array, 0, 1).reshape(B, L) for array in jax.lax.map(part, (split(x_BxLxD), split(targets_BxL)))
    )
    if decoder.partitioner:  # replicated, so that every process can read them
        log_p, likeliest = (
            decoder.partitioner.constrain(log_p, None, None),
            decoder.partitioner.constrain(likeliest, None, None),
        )
    return log_p, likeliest
