"""Training batches as a function: `Batches(...).batch(step)` depends on the mixture, the seed and the step, and on nothing that went
before.

    position p = step * batch_size + row        rows of all steps, in one line
      mixing.py       p -> component, index     closed form; each (component, index) comes exactly once
      here            index -> epoch, place     an epoch of a component is all of its packed rows
      permutation.py  place -> packed row       a fresh keyed bijection each epoch
      packing.py      packed row -> segments    pieces of records, a plan from the sidecars' lengths
      cache.py        segment -> tokens         read at random, CRC checked

There is no iterator and no state, so any host can ask for any step at any time: to resume, to replay, to skip. Shard h of n gets rows
[h * B / n, (h + 1) * B / n) of the same global batch. Integers are our own hash's (hashing.py), never a library's generator.
"""

import bisect
import dataclasses
import functools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from tasks import fingerprint, hashing, mixing, packing, permutation
from tasks.cache import CacheReader, Manifest
from tasks.catalog import Mixture, resolve_mixture
from tasks.errors import CacheError, ConfigurationError, VocabularyError
from tasks.lineage import Span

VERSION = 1
FEATURE = "targets"


@dataclasses.dataclass(frozen=True)
class Component:
    """One domain of a mixture, opened and packed. row_starts: first packed row of each shard, then their number."""

    name: str
    share: float
    reader: CacheReader
    plans: tuple[packing.Plan, ...]
    row_starts: tuple[int, ...]

    @property
    def rows(self) -> int:
        """Packed rows of one epoch."""
        return self.row_starts[-1]

    @property
    def tokens(self) -> int:
        """Tokens of one epoch."""
        return sum(plan.tokens for plan in self.plans)

    def segments(self, row: int) -> Iterator[tuple[int, int, int]]:
        """(record, start, stop) of each segment of a packed row, in the order they lie in it."""
        shard = bisect.bisect_right(self.row_starts, row) - 1
        plan, first = self.plans[shard], self.reader.starts[shard]
        begin, end = plan.row_starts[row - self.row_starts[shard] : row - self.row_starts[shard] + 2].tolist()
        for segment in range(begin, end):
            start = int(plan.start[segment])
            yield int(first + plan.record[segment]), start, start + int(plan.size[segment])


class Batches:
    """The batches of a mixture.

    mixture: a Mixture, a task name or a cache directory (see catalog.resolve_mixture). batch_size: rows of the global batch, over all
    shards. lengths: {"targets": L}, tokens of a row. split: of every cache. shard, num_shards: this reader's part of the rows; num_shards
    divides batch_size. vocabulary: if given (a Vocabulary or its fingerprint), the caches must have been made with it.

    Raises ConfigurationError for bad arguments, CacheError for a cache that is missing, empty in this split or not as its manifest says,
    and VocabularyError for caches of another vocabulary than asked, or of different ones.
    """

    def __init__(
        self,
        mixture: Mixture | str | Mapping[str, float],
        batch_size: int,
        lengths: Mapping[str, int],
        seed: int = 0,
        split: str = "train",
        shard: int = 0,
        num_shards: int = 1,
        vocabulary: Any = None,
    ):
        _check_arguments(batch_size, lengths, seed, shard, num_shards)
        self.mixture = resolve_mixture(mixture)
        self.batch_size, self.length, self.seed, self.split = int(batch_size), int(lengths[FEATURE]), int(seed), split
        self.shard, self.num_shards = int(shard), int(num_shards)
        manifests = self.mixture.manifests()
        self.vocabulary_fingerprint, self.vocab_size = _check_vocabularies(self.mixture, manifests, vocabulary)
        self._mixing = mixing.Mixing.of(dict(zip(manifests, self.mixture.components.values())), self.seed)
        self.domains: tuple[str, ...] = tuple(manifests)
        self.components: tuple[Component, ...] = tuple(
            _open(name, float(share), manifest, split, self.length)
            for (name, manifest), share in zip(manifests.items(), self._mixing.shares)
        )
        self._rows = np.array([component.rows for component in self.components], dtype=np.int64)

    @functools.cached_property
    def fingerprint(self) -> str:
        """32 hex digits of all that batches depend on: code versions, caches' contents, weights, lengths, batch size, split and seed."""
        return fingerprint.of_json(
            {
                "versions": [VERSION, packing.VERSION, hashing.VERSION],
                "components": [
                    [c.name, str(w), c.reader.manifest.content_fingerprint] for c, w in zip(self.components, self._mixing.shares)
                ],
                "batch_size": self.batch_size,
                "lengths": {FEATURE: self.length},
                "split": self.split,
                "seed": self.seed,
            }
        )

    def batch(self, step: int) -> dict[str, np.ndarray]:
        """The rows of this shard at a step: arrays [batch_size / num_shards, L].

        decoder_target_tokens int32, 0 is padding. decoder_input_tokens int32: targets shifted right inside each segment, 0 first.
        decoder_loss_weights float32: 1 on targets, 0 on padding. decoder_segment_ids int32: from 1, 0 on padding. decoder_positions
        int32: from 0 in each segment. domain int32: index into `domains`, -1 on padding. Raises CacheError where a cache turns out
        damaged.
        """
        rows = self.batch_size // self.num_shards
        targets = np.zeros((rows, self.length), dtype=np.int32)
        segment_ids, positions = np.zeros_like(targets), np.zeros_like(targets)
        counting = np.arange(self.length, dtype=np.int32)
        domain = np.full_like(targets, -1)
        for row, component, _, packed_row in self._places(step):
            offset = 0
            reader = self.components[component].reader
            for number, (record, start, stop) in enumerate(self.components[component].segments(packed_row), start=1):
                end = offset + stop - start
                tokens = reader.tokens(record, start, stop)
                self._check_tokens(tokens, reader, record)
                targets[row, offset:end] = tokens
                segment_ids[row, offset:end] = number
                positions[row, offset:end] = counting[: stop - start]
                offset = end
            domain[row, :offset] = component
        inputs = np.zeros_like(targets)
        inputs[:, 1:] = np.where(positions[:, 1:] > 0, targets[:, :-1], 0)
        return {
            "decoder_input_tokens": inputs,
            "decoder_target_tokens": targets,
            "decoder_loss_weights": ((segment_ids > 0) & (targets != 0)).astype(np.float32),
            "decoder_segment_ids": segment_ids,
            "decoder_positions": positions,
            "domain": domain,
        }

    def lineage(self, step: int) -> list[list[Span]]:
        """For each row of this shard at a step, the spans of documents that lie in it, in order."""
        first = self.shard * (self.batch_size // self.num_shards)
        return [list(self._spans(first + row, *place)) for row, *place in self._places(step)]

    def epochs(self, step: int) -> dict[str, float]:
        """How often each domain was seen whole before a step."""
        counts = self._mixing.counts(step * self.batch_size)
        return {component.name: count / component.rows for component, count in zip(self.components, counts)}

    def _spans(self, row: int, component: int, epoch: int, packed_row: int) -> Iterator[Span]:
        opened, offset = self.components[component], 0
        for number, (record, start, stop) in enumerate(opened.segments(packed_row), start=1):
            document, source = opened.reader.document(record)
            yield Span(
                row=row,
                segment=number,
                row_start=offset,
                row_stop=offset + stop - start,
                domain=opened.name,
                epoch=epoch,
                document=document,
                source=source,
                cache=opened.reader.directory,
                split=self.split,
                record=record,
                start=start,
                stop=stop,
            )
            offset += stop - start

    def _places(self, step: int) -> list[tuple[int, int, int, int]]:
        """(row of this shard, component, epoch, packed row) of each row at a step."""
        if isinstance(step, bool) or int(step) != step or step < 0:
            raise ConfigurationError(f"a step is a whole number from 0, not {step!r}.")
        rows = self.batch_size // self.num_shards
        first = int(step) * self.batch_size + self.shard * rows
        components, indices = self._mixing.at(np.arange(first, first + rows))
        epochs, places = np.divmod(indices, self._rows[components])
        keys = [self._epoch_key(component, epoch) for component, epoch in zip(components.tolist(), epochs.tolist())]
        packed = permutation.permute(places, self._rows[components], np.array(keys, dtype=np.uint64))
        return list(zip(range(rows), components.tolist(), epochs.tolist(), packed.tolist()))

    def _epoch_key(self, component: int, epoch: int) -> int:
        return hashing.key64("epoch", self.seed, self.domains[component], epoch)

    def _check_tokens(self, tokens: np.ndarray, reader: CacheReader, record: int) -> None:
        if tokens.size and self.vocab_size and not 0 <= int(tokens.min()) <= int(tokens.max()) < self.vocab_size:
            raise CacheError(
                f"cache {reader.directory} record {record} of {self.split} holds tokens outside its vocabulary of {self.vocab_size}.",
                "Make the cache again with castor data tokenize.",
            )


def _open(name: str, share: float, manifest: Manifest, split: str, length: int) -> Component:
    spec = manifest.features.get(FEATURE)
    if spec is None or spec["rank"] != 1 or spec["dtype"] not in ("int32", "int64"):
        raise CacheError(f"cache {manifest.directory} has no integer feature {FEATURE!r} of rank 1.", "Make it with castor data tokenize.")
    reader = CacheReader(manifest.directory, split)
    for number, shard in enumerate(manifest.shards(split)):
        total = int(reader.lengths(FEATURE, number).sum(dtype=np.int64))
        if total != shard["tokens"][FEATURE]:
            raise CacheError(
                f"sidecar {manifest.directory}/{shard['file']}.idx counts {total} tokens; the manifest says {shard['tokens'][FEATURE]}.",
                f"Make the cache again with castor data tokenize; castor tasks verify {manifest.directory} says what else is wrong.",
            )
    plans = tuple(packing.plan(reader.lengths(FEATURE, shard), length) for shard in range(reader.num_shards))
    row_starts = tuple(np.cumsum([0, *(plan.num_rows for plan in plans)]).tolist())
    if not row_starts[-1]:
        raise CacheError(
            f"cache {manifest.directory} has no tokens in split {split!r}.",
            f"Take {name!r} out of the mixture, or give its corpus more documents.",
        )
    return Component(name, share, reader, plans, row_starts)


def _check_arguments(batch_size, lengths, seed, shard, num_shards) -> None:
    def whole(value) -> bool:
        return isinstance(value, (int, np.integer)) and not isinstance(value, bool)

    if not whole(batch_size) or batch_size < 1:
        raise ConfigurationError(f"batch_size is a positive whole number, not {batch_size!r}.", "Bind BATCH_SIZE.")
    if not whole(num_shards) or num_shards < 1 or batch_size % num_shards:
        raise ConfigurationError(
            f"batch_size {batch_size} does not divide into {num_shards!r} shards.", "Choose BATCH_SIZE as a multiple of the shards."
        )
    if not whole(shard) or not 0 <= shard < num_shards:
        raise ConfigurationError(f"shard {shard!r} is not one of the {num_shards} shards 0 to {num_shards - 1}.")
    if not isinstance(lengths, Mapping) or set(lengths) != {FEATURE} or not whole(lengths[FEATURE]) or lengths[FEATURE] < 1:
        raise ConfigurationError(
            f"lengths are {{'targets': L}} with a positive whole number L, not {lengths!r}.", "Bind TASK_FEATURE_LENGTHS."
        )
    if not whole(seed):
        raise ConfigurationError(f"seed is a whole number, not {seed!r}.", "Bind RANDOM_SEED.")


def _check_vocabularies(mixture: Mixture, manifests: Mapping[str, Manifest], vocabulary: Any) -> tuple[str, int]:
    """The one vocabulary fingerprint of all components and the size of that vocabulary (0 where the caches do not tell it)."""
    remedy = "Tokenize the corpora with one vocabulary, or train with the vocabulary of the caches."
    asked = getattr(vocabulary, "fingerprint", vocabulary)
    first, expected, size = "the run", asked, 0
    for name, manifest in manifests.items():
        found = manifest.vocabulary.get("fingerprint", "")
        if expected is None:
            first, expected = f"cache {manifest.directory}", found
        elif found != expected:
            raise VocabularyError(
                f"mixture {mixture.name!r}: cache {manifest.directory} was made with vocabulary {found[:12]}, "
                f"{first} has vocabulary {str(expected)[:12]}.",
                remedy,
            )
        size = int(manifest.vocabulary.get("size", 0) or 0)
    return str(expected), size
