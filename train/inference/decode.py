"""Batched decoding: prompts are read in chunks, then tokens are sampled one at a time on the device.

A batch has B rows, each with its own prompt, grammar, sampling and limit. Keys and values are in a multi-query cache
whose slot m holds the token at position m, so rows of different lengths need no shifting.

    read     the next C tokens of every prompt -> the cache, and the logits after each prompt's last token; no buffer is
             larger than C x M
    write    a `lax.while_loop` on the device: sample, record, advance the grammar, read the sampled token; the host
             does not wait inside the loop; the loop ends when every row has ended

Few programs are compiled: rows, chunks, cache slots and tokens to write are rounded up to a few sizes. On a mesh, rows
are sharded over its batch axes, and heads, MLP and vocabulary over its tensor axis, as in training. The length is never
split.

A request yields the same tokens in any batch, up to float rounding. Noise belongs to the row
(train/inference/sampling.py), and padding adds zero to every sum. Only matrix products of another shape may add up in
another order, which can change the last bit of a logit.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from castor.tasks.errors import ConfigurationError
from castor.train.inference import grammar as grammars
from castor.train.inference import sampling as samplings
from castor.train.inference.grammar import Grammar
from castor.train.inference.sampling import Sampling
from castor.train.model.decoder import DTYPES, Decoder, DecoderConfig, KVCache
from castor.train.partitioning import Partitioner

START = 0  # the input before a segment's first token, as in training (T5X)
_LEAST_CHUNK, _LEAST_SLOTS, _LEAST_STEPS = (
    32,
    128,
    256,
)  # lengths are rounded up to these; a loop that ends early does not pay for the rest
_STREAMED = 4  # tokens written between two looks of the host, if the caller streams


@dataclasses.dataclass(frozen=True)
class Request:
    """One row of a batch.

    prompt: ids before the answer.
    grammar: what the answer may contain.
    sampling: how tokens are sampled.
    max_tokens: largest number of tokens; None: as many as the model's length allows.
    """

    prompt: Sequence[int]
    grammar: Grammar = Grammar.text()
    sampling: Sampling = Sampling()
    max_tokens: int | None = None


class DecodeState(flax.struct.PyTreeNode):
    """The state of B rows between two tokens.

    logits: float32 [B, V], of the next token.
    positions: int32 [B], position of the next token.
    left: int32 [B], number of tokens that may still follow.
    grammar: what may come next.
    cache: keys and values of the tokens so far.
    """

    logits_BxV: jax.Array
    positions_B: jax.Array
    left_B: jax.Array
    grammar: grammars.GrammarState
    cache: KVCache


class Generator:
    """Answers requests with a model.

    config, parameters: the model; parameters must be on the partitioner's mesh.
    table: the vocabulary's ids that grammars use.
    max_length: tokens per row in training, prompt and answer together.
    partitioner: a mesh of any shape; None: one device.
    batch_size: largest number of rows decoded together; fewer if their cache would exceed `cache_bytes`.
    chunk: prompt tokens read at once.
    cache_bytes: limit of the key-value cache in bytes, over all devices.
    """

    def __init__(
        self,
        config: DecoderConfig,
        parameters,
        table: grammars.GrammarTokens,
        max_length: int,
        partitioner: Partitioner | None = None,
        batch_size: int = 32,
        chunk: int = 256,
        cache_bytes: int = 2 << 30,
    ):
        if batch_size < 1:
            raise ConfigurationError(f"batch_size = {batch_size}.", "Give a positive number of rows.")
        self.config = dataclasses.replace(config, remat="none")
        self.parameters, self.table, self.max_length = parameters, table, max_length
        self.partitioner = for_decoding(partitioner)
        self._batch_size, self._chunk, self._cache_bytes = batch_size, chunk, cache_bytes
        self._read, self._write = programs(self.config, self.partitioner, table)

    def room(self, prompt: Sequence[int]) -> int:
        """Number of tokens that may follow a prompt. Raises ConfigurationError if the prompt leaves no room."""
        room = self.max_length - len(prompt)
        if room < 1:
            raise ConfigurationError(
                f"the prompt is {len(prompt)} tokens long; the model was trained on {self.max_length}.", "Shorten it."
            )
        return room

    def __call__(self, requests: Sequence[Request], on_done: Callable[[int], None] | None = None) -> list[list[int]]:
        """The ids that follow each prompt, including the one that ends the answer (eos, </image>).

        on_done: called after each batch with the number of requests it finished.
        """
        limits = [self._limit(r) for r in requests]
        lengths = [len(r.prompt) + limit for r, limit in zip(requests, limits)]
        order = sorted(
            range(len(requests)), key=lambda i: (-_slots(lengths[i]), -len(requests[i].prompt), -limits[i], i)
        )  # group similar requests
        answers: list[list[int]] = [[] for _ in requests]
        while order:
            rows = self._rows_that_fit(lengths[order[0]] + 1)
            here, order = order[:rows], order[rows:]
            for i, ids in zip(here, self._decode_batch([requests[i] for i in here], [limits[i] for i in here], rows)):
                answers[i] = ids
            if on_done:
                on_done(len(here))
        return answers

    def _limit(self, request: Request) -> int:
        room = self.room(request.prompt)
        return room if request.max_tokens is None else max(min(room, request.max_tokens), 0)

    def _rows_that_fit(self, length: int) -> int:
        c = self.config
        row_bytes = 2 * c.layers * _slots(length) * c.kv_heads * c.head_dim * jnp.dtype(DTYPES[c.dtype]).itemsize
        return max(min(self._batch_size, self._cache_bytes // row_bytes), 1)

    def _decode_batch(self, requests: Sequence[Request], limits: Sequence[int], most: int) -> list[list[int]]:
        shards = self.partitioner.size("batch") if self.partitioner else 1
        count = -(-min(rounded(len(requests), 1, 4), most) // shards) * shards
        pad = count - len(requests)
        steps = rounded(max(limits), _LEAST_STEPS)
        prompts = [[START, *r.prompt] for r in requests] + [[START]] * pad
        logits, cache = self._prefill(prompts, max(len(p) + n for p, n in zip(prompts, [*limits, *[0] * pad])))
        rows = DecodeState(
            logits,
            self.place(np.array([len(p) for p in prompts], np.int32), "batch"),
            self.place(np.array([*limits, *[0] * pad], np.int32), "batch"),
            self._place_all(grammars.GrammarState.of([*(r.grammar for r in requests), *[None] * pad])),
            cache,
        )
        settings = samplings.SamplingArrays.of([*(r.sampling for r in requests), *[Sampling(0)] * pad])
        _, ids, counts = self._write(self.parameters, rows, self._place_all(settings), steps)
        ids, counts = jax.device_get((ids, counts))
        return [row[:n].tolist() for row, n in zip(ids, counts[: len(requests)])]

    def _prefill(self, prompts: Sequence[Sequence[int]], slots: int) -> tuple[jax.Array, KVCache]:
        """Reads whole prompts into a new cache of at least `slots` slots.

        Returns (logits after each prompt's last token, cache).
        """
        longest = max(map(len, prompts))
        chunks = _chunks(longest, self._chunk)
        cache = self.empty_cache(len(prompts), max(slots, sum(chunks)))
        logits = self.place(np.zeros((len(prompts), self.config.vocab_size), np.float32), "batch", None)
        tokens = np.zeros((len(prompts), sum(chunks)), np.int32)
        for row, prompt in enumerate(prompts):
            tokens[row, : len(prompt)] = prompt
        last = self.place(np.array([len(p) - 1 for p in prompts], np.int32), "batch")
        start = 0
        for width in chunks:
            part = self.place(tokens[:, start : start + width], "batch", None)
            logits, cache = self._read(self.parameters, part, np.int32(start), last, logits, cache)
            start += width
        return logits, cache

    def empty_cache(self, rows: int, slots: int) -> KVCache:
        """A cache with at least this many slots, sharded over the mesh."""
        make = functools.partial(KVCache.create, self.config, rows, _slots(slots))
        if self.partitioner is None:
            return make()
        sharding = self.partitioner.sharding(
            ("layers", "batch", "kv_length", "kv_heads", "head"), "the key-value cache"
        )
        return jax.jit(make, out_shardings=KVCache(sharding, sharding))()

    def place(self, array: np.ndarray, *axes: str | None) -> jax.Array:
        """A host array on the mesh. With several processes, every process holds the whole array."""
        if self.partitioner is None:
            return jax.device_put(array)
        sharding = self.partitioner.sharding(axes)
        return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

    def _place_all(self, tree):
        return jax.tree.map(lambda array: self.place(array, "batch"), tree)


class Session:
    """One stream of ids whose cache persists between reads and writes: `read` a prompt, `write` an answer, read on.

    `ids` is the stream so far. An eos ends an answer and is not kept, so that the stream can continue.
    """

    def __init__(self, generator: Generator):
        self._generator, self._cache = generator, generator.empty_cache(1, 1)
        self.ids: list[int] = []
        self._logits = None

    @property
    def room(self) -> int:
        """Number of tokens by which the stream may still grow."""
        return self._generator.max_length - len(self.ids)

    def read(self, ids: Sequence[int]) -> None:
        """Adds ids to the stream.

        Raises ConfigurationError, without changing anything, if they leave no room for an answer.
        """
        g = self._generator
        g.room([*self.ids, *ids])
        tokens = list(ids) if self._logits is not None else [START, *ids]
        if not tokens:
            return
        start = len(self.ids) + (self._logits is not None)
        chunks = _chunks(len(tokens), g._chunk)
        self._grow(start + sum(chunks))
        logits = self._logits if self._logits is not None else np.zeros((1, g.config.vocab_size), np.float32)
        padded = np.zeros((1, sum(chunks)), np.int32)
        padded[0, : len(tokens)] = tokens
        at = 0
        last = np.array([start + len(tokens) - 1], np.int32)
        for width in chunks:
            logits, self._cache = g._read(
                g.parameters, padded[:, at : at + width], np.int32(start + at), last, logits, self._cache
            )
            at += width
        self._logits = logits
        self.ids.extend(ids)

    def write(
        self, grammar: Grammar, sampling: Sampling, max_tokens: int | None = None, at_once: int = _STREAMED
    ) -> Iterator[list[int]]:
        """Yields the following ids, a few at a time, until the grammar, `max_tokens` or the room ends.

        All yielded ids are in the stream if the caller stops early.

        grammar, sampling: what the answer may contain, and how tokens are sampled.
        max_tokens: largest number of tokens; None: as many as fit.
        at_once: tokens per step of the device.
        """
        g = self._generator
        if self._logits is None:
            self.read([])
        left = self.room if max_tokens is None else min(self.room, max_tokens)
        state, settings = grammars.GrammarState.of([grammar]), samplings.SamplingArrays.of([sampling])
        while left > 0:
            self._grow(len(self.ids) + 1 + at_once)
            rows = DecodeState(
                self._logits,
                np.array([len(self.ids) + 1], np.int32),
                np.array([min(left, at_once)], np.int32),
                state,
                self._cache,
            )
            rows, ids, counts = g._write(g.parameters, rows, settings, at_once)
            self._logits, self._cache, state = rows.logits_BxV, rows.cache, rows.grammar
            ids_written = np.asarray(ids)[0, : int(counts[0])].tolist()
            ended = int(state.next_B[0]) == grammars.END
            left -= len(ids_written)
            if ended and ids_written[-1] == g.table.eos:
                self.ids.extend(ids_written[:-1])
            else:
                self.ids.extend(ids_written)
            yield ids_written
            if ended:
                return

    def _grow(self, slots: int) -> None:
        more = _slots(slots) - self._cache.k_NxBxMxGxK.shape[2]
        if more > 0:
            self._cache = jax.tree.map(
                lambda array: jnp.pad(array, ((0, 0), (0, 0), (0, more), (0, 0), (0, 0))), self._cache
            )


def for_decoding(partitioner: Partitioner | None) -> Partitioner | None:
    """The same mesh with rules that never split the length: single tokens cannot be split."""
    if partitioner is None:
        return None
    rules = {**dict(partitioner.rules), "length": (), "residual_length": (), "kv_length": ()}
    return dataclasses.replace(partitioner, rules=tuple(rules.items()))


def compute_parameters(config: DecoderConfig, parameters):
    """Parameters in the model's compute dtype, as its layers would cast them at every token.

    Scales of norms stay float32.
    """

    def cast(path, leaf):
        return leaf if path[-1].key == "scale" else leaf.astype(DTYPES[config.dtype])

    return jax.jit(functools.partial(jax.tree_util.tree_map_with_path, cast))(parameters)


@functools.cache
def programs(config: DecoderConfig, partitioner: Partitioner | None, table: grammars.GrammarTokens):
    """(`_read`, `_write`) of a model, compiled once per shape in a process."""
    decoder = Decoder(config, partitioner)
    read = jax.jit(functools.partial(_read, decoder), donate_argnums=(4, 5))
    return read, jax.jit(functools.partial(_write, decoder, table), static_argnums=3, donate_argnums=1)


def rounded(n: int, least: int, factor: int = 2) -> int:
    """The smallest of `least`, least * factor, least * factor^2 ... that is at least n."""
    while least < n:
        least *= factor
    return least


def _slots(n: int) -> int:
    """Cache slots for n tokens: a power of two, or three quarters of one."""
    power = rounded(n, _LEAST_SLOTS)
    return power * 3 // 4 if n <= power * 3 // 4 and power > _LEAST_SLOTS else power


def _chunks(length: int, chunk: int) -> list[int]:
    """Widths of the chunks in which a prompt is read: full chunks, and the rest rounded up."""
    whole, rest = divmod(length, chunk)
    return [chunk] * whole + ([min(rounded(rest, _LEAST_CHUNK, 4), chunk)] if rest else [])


def _read(decoder: Decoder, parameters, tokens_BxC, start, last_B, logits_BxV, cache: KVCache):
    """Reads tokens [B, C] at positions from `start` on. Returns (logits, cache).

    last: int32 [B], the last position of each row's prompt, in this chunk or another.
    """
    C = tokens_BxC.shape[1]
    positions_BxC = jnp.broadcast_to(start + jnp.arange(C, dtype=jnp.int32), tokens_BxC.shape)
    lengths_B = jnp.clip(last_B - start + 1, 1, C)
    read_BxV, cache = decoder.apply(
        {"params": parameters}, tokens_BxC, positions_BxC, lengths_B, cache, method="decode"
    )
    here_B = (last_B >= start) & (last_B < start + C)
    return _replicated_over_vocabulary(decoder, jnp.where(here_B[:, None], read_BxV, logits_BxV)), cache


def _write(
    decoder: Decoder,
    table: grammars.GrammarTokens,
    parameters,
    rows: DecodeState,
    settings: samplings.SamplingArrays,
    steps: int,
):
    """Writes up to `steps` tokens of every row.

    Returns (rows, ids int32 [B, steps], number written per row int32 [B]).
    """
    B, V = rows.logits_BxV.shape

    def going(carry):
        step, rows, _, _ = carry
        return (step < steps) & jnp.any((rows.left_B > 0) & (rows.grammar.next_B != grammars.END))

    def write_one(carry):
        step, rows, ids_BxS, counts_B = carry
        live_B = (rows.left_B > 0) & (rows.grammar.next_B != grammars.END)
        chosen_B = samplings.choose(rows.logits_BxV, table.allowed(rows.grammar, V), rows.positions_B, settings)
        chosen_B = jnp.where(live_B, chosen_B, table.pad)
        advanced = table.advance(rows.grammar, chosen_B)
        state = jax.tree.map(lambda new, old: jnp.where(live_B, new, old), advanced, rows.grammar)
        token = chosen_B[:, None], rows.positions_B[:, None], jnp.ones_like(chosen_B)
        logits_BxV, cache = decoder.apply({"params": parameters}, *token, rows.cache, method="decode")
        # The logits after an ended answer are those after its last token, not after eos, so that a session can continue
        # from there.
        ended_B = ~live_B | (chosen_B == table.eos)
        logits_BxV = _replicated_over_vocabulary(decoder, jnp.where(ended_B[:, None], rows.logits_BxV, logits_BxV))
        rows = DecodeState(logits_BxV, rows.positions_B + live_B, rows.left_B - live_B, state, cache)
        return step + 1, rows, ids_BxS.at[:, step].set(chosen_B), counts_B + live_B

    carry = (jnp.int32(0), rows, jnp.full((B, steps), table.pad, jnp.int32), jnp.zeros(B, jnp.int32))
    _, rows, ids_BxS, counts_B = jax.lax.while_loop(going, write_one, carry)
    if decoder.partitioner:  # replicated, so that every process can read them
        ids_BxS, counts_B = (
            decoder.partitioner.constrain(ids_BxS, None, None),
            decoder.partitioner.constrain(counts_B, None),
        )
    return rows, ids_BxS, counts_B


def _replicated_over_vocabulary(decoder: Decoder, logits_BxV):
    """A row's logits on one device: sampling reads all of them many times."""
    return decoder.partitioner.constrain(logits_BxV, "batch", None) if decoder.partitioner else logits_BxV
