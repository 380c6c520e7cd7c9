"""Training batches as a function: `Batches(...).batch(step)` depends on the mixture, the seed and the step, and on nothing that went
before.

    skips.py        step -> data step           skipped steps are jumped over
    schedule.py     data step, row -> position  rows of all steps in one line, whatever the batch size was
    mixing.py       position -> component, index     closed form; each (component, index) comes exactly once
    component.py    index -> packed row -> pieces of records -> tokens
    here            rows -> arrays

There is no iterator and no state, so any host can ask for any step at any time: to resume, to replay, to skip. Shard h of n gets rows
[h * B / n, (h + 1) * B / n) of the same global batch. Integers are our own hash's (hashing.py), never a library's generator.
docs/determinism.md works the arithmetic by hand on a small example.
"""

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from castor.tasks import fingerprint, hashing
from castor.tasks.batches import skips
from castor.tasks.batches.catalog import Mixture, resolve_mixture
from castor.tasks.batches.component import FEATURE, Component, Place, Segments, check_tokens, open_component
from castor.tasks.batches.lineage import Occurrence, Span
from castor.tasks.cache.layout import REMAKE
from castor.tasks.cache.manifest import Manifest
from castor.tasks.checks import check_integer, is_integer
from castor.tasks.errors import CacheError, ConfigurationError, VocabularyError
from castor.tasks.mixing import epochs, mixing, schedule
from castor.tasks.mixing import packing as packing_lib

VERSION = 2


class Batches:
    """The batches of a mixture.

    mixture: a Mixture, a task name or a cache directory (see catalog.resolve_mixture). batch_size: rows of the global batch, over all
    shards, or a table of them by the step from which they hold, {0: 64, 1000: 256}. lengths: {"targets": L}, tokens of a row, and the
    capacity of a row for any other feature that is to come along. split: of every cache. shard, num_shards: this reader's part of the
    rows; num_shards divides every batch size. vocabulary: if given (a Vocabulary or its fingerprint), the caches must have been made with
    it. method: of packing, one of
    packing.METHODS. progress: called with (blocks counted, in all) where rows must be counted at opening.

    Raises ConfigurationError for bad arguments, CacheError for a cache that is missing, empty in this split or not as its manifest says,
    and VocabularyError for caches of another vocabulary than asked, or of different ones.
    """

    def __init__(
        self,
        mixture: Mixture | str | Mapping[str, float],
        batch_size: int | Mapping[int, int],
        lengths: Mapping[str, int],
        seed: int = 0,
        split: str = "train",
        shard: int = 0,
        num_shards: int = 1,
        vocabulary: Any = None,
        packing: str = "best_fit",
        progress: Callable[[int, int], None] | None = None,
    ):
        self.batch_sizes = schedule.BatchSizes.of(batch_size)
        _check_arguments(self.batch_sizes, lengths, seed, shard, num_shards, packing)
        self.mixture = resolve_mixture(mixture).by_name()
        self.batch_size, self.seed, self.split, self.packing = self.batch_sizes.sizes[0], int(seed), split, packing
        self.lengths = {
            FEATURE: int(lengths[FEATURE]),
            **{name: int(lengths[name]) for name in sorted(lengths) if name != FEATURE},
        }
        self.length = self.lengths[FEATURE]
        self.shard, self.num_shards = int(shard), int(num_shards)
        manifests = self.mixture.manifests()
        self.vocabulary_fingerprint, self.vocab_size = _check_vocabularies(self.mixture, manifests, vocabulary)
        self._dense = _check_features(self.mixture, manifests, self.lengths)
        self.domains: tuple[str, ...] = tuple(manifests)
        self._mixing = self._scheduled(self.mixture.weights(manifests))
        self._domain_of = np.array([self.domains.index(name) for name in self._mixing.names], dtype=np.int64)
        self.components: tuple[Component, ...] = tuple(
            open_component(
                name, manifest, split, self.lengths, packing, self.seed, self.mixture.skip_documents, progress
            )
            for name, manifest in manifests.items()
        )
        skips.check_known(self.mixture.skip_documents, (component.reader for component in self.components))
        self._padding = np.zeros(self.length, dtype=np.uint16)
        # The blocks of the last batch, and those of them that the system was told to read ahead.
        self._blocks_read: set[tuple[int, int, int]] = set()
        self._blocks_prefetched: set[tuple[int, int, int]] = set()

    def _scheduled(self, stages) -> mixing.Mixing:
        (_, _, first), *later = stages
        at = self.batch_sizes.position
        moves = [(at(start), at(start + ramp) - at(start), weights) for start, ramp, weights in later]
        return mixing.Mixing.of(first, self.seed, moves)

    @functools.cached_property
    def fingerprint(self) -> str:
        """32 hex digits of all that batches depend on: code versions, caches' contents, weights, lengths, batch size, split, seed, skips."""
        stages = self.mixture.weights({component.name: component.reader.manifest for component in self.components})
        shares = [(start, ramp, dict(zip(sorted(w), schedule.shares(w, sorted(w))))) for start, ramp, w in stages]
        return fingerprint.of_json(
            {
                "versions": [VERSION, mixing.VERSION, epochs.VERSION, packing_lib.VERSION, hashing.VERSION],
                "components": [[c.name, c.reader.manifest.content_fingerprint] for c in self.components],
                "weights": [
                    [start, ramp, {name: str(share) for name, share in sorted(w.items())}] for start, ramp, w in shares
                ],
                "batch_size": [list(self.batch_sizes.starts), list(self.batch_sizes.sizes)],
                "lengths": self.lengths,
                "packing": self.packing,
                "split": self.split,
                "seed": self.seed,
                "skip_documents": list(self.mixture.skip_documents),
                "skip_steps": [list(pair) for pair in self.mixture.skip_steps],
            }
        )

    def batch(self, step: int) -> dict[str, np.ndarray]:
        """The rows of this shard at a step: arrays [rows of the batch / num_shards, L].

        decoder_target_tokens int32, 0 is padding. decoder_input_tokens int32: targets shifted right inside each segment, 0 first.
        decoder_loss_weights float32: 1 on targets, 0 on padding. decoder_segment_ids int32: from 1, 0 on padding. decoder_positions
        int32: from 0 in each segment. domain int32: index into `domains`, -1 on padding. For every other feature of `lengths` NAME [rows,
        capacity, ...] in its own dtype and NAME_segment_ids, NAME_positions int32 [rows, capacity]. Raises CacheError where a cache turns
        out damaged.
        """
        return self._arrays(self._places(step))

    def microbatch(self, step: int, index: int, count: int) -> dict[str, np.ndarray]:
        """Part `index` of `count` equal parts of `batch(step)`, in the order of its rows, for trainers that accumulate gradients."""
        rows = self.batch_size_at(step) // self.num_shards
        if count < 1 or rows % count or not 0 <= index < count:
            raise ConfigurationError(
                f"{rows} rows have no part {index} of {count}.", "Accumulate over a divisor of the rows of a shard."
            )
        part = rows // count
        return self._arrays(self._places(step)[index * part : (index + 1) * part])

    def batch_size_at(self, step: int) -> int:
        """Rows of the global batch at a step."""
        return self.batch_sizes.size(self.data_step(step))

    def data_step(self, step: int) -> int:
        """The data step whose batch a training step gets: the same, but for skipped steps."""
        return skips.data_step(check_integer("step", step, at_least=0), self.mixture.skip_steps)

    def lineage(self, step: int) -> list[list[Span]]:
        """For each row of this shard at a step, the spans of documents that lie in it, in order."""
        first = self.shard * (self.batch_size_at(step) // self.num_shards)
        return [list(self._spans(first + row, *where)) for row, where in enumerate(self._places(step))]

    def occurrences(self, document: str, steps: int | None = None) -> Iterator[Occurrence]:
        """Every span of a document in the first `steps` training steps (None: in the first epoch of its component), by step, on whatever
        shard. None if no cache has the document."""
        end = None if steps is None else self.batch_sizes.position(self.data_step(steps))
        found = [
            occurrence
            for component in range(len(self.components))
            for occurrence in self._occurrences(component, document, end)
        ]
        return iter(sorted(found, key=_by_step))

    def epochs(self, step: int) -> dict[str, float]:
        """How often each domain was seen whole before a step, but for what the block of the mixture at hand has put early or late."""
        counts = dict(zip(self._mixing.names, self._mixing.counts(self.batch_sizes.position(self.data_step(step)))))
        return {component.name: counts[component.name] / component.rows for component in self.components}

    # ------------------------------------------------------------------------------------------------------------ rows

    def _places(self, step: int) -> list[tuple[int, Place]]:
        """(component, place of its packed row) of each row of this shard at a step."""
        data_step = self.data_step(step)
        rows = self.batch_sizes.size(data_step) // self.num_shards
        leaves, indices = self._mixing.at(self.batch_sizes.position(data_step) + self.shard * rows, rows)
        return [
            (component, self.components[component].place(index))
            for component, index in zip(self._domain_of[leaves].tolist(), indices.tolist())
        ]

    def _arrays(self, places: list[tuple[int, Place]]) -> dict[str, np.ndarray]:
        segments = [self.components[component].segments(place) for component, place in places]
        shards = [self.components[component].shards(row) for (component, _), row in zip(places, segments)]
        self._check_unchanged(places, shards)
        self._prefetch(places, segments, shards)
        rows, length = len(places), self.length
        parts: list[np.ndarray] = []
        skipped: list[bool] = []
        row_lengths: list[int] = []
        numbers: list[int] = []
        for (component, place), row, row_shards in zip(places, segments, shards):
            row_sizes = row.size[0].tolist()
            self._read_row(component, place, row, row_sizes, row_shards, parts, skipped)
            free = length - sum(row_sizes)
            parts.append(self._padding[:free])
            skipped.append(False)
            row_lengths += [*row_sizes, free]
            numbers += [*range(1, len(row_sizes) + 1), 0]
        # Every row is now full of segments, its padding being one with number 0; so arrays are laid out flat, without a gap.
        targets = np.empty(rows * length, dtype=np.int32)
        np.concatenate(parts, out=targets, casting="unsafe")
        if not check_tokens(targets, self.vocab_size):
            self._find_fault(places, segments, shards)
        sizes = np.array(row_lengths)
        starts = np.cumsum(sizes) - sizes
        positions = np.arange(rows * length, dtype=np.int32)
        positions -= np.repeat(starts.astype(np.int32), sizes)
        segment_ids = np.repeat(np.array(numbers, dtype=np.int32), sizes)
        domain = np.repeat(np.array([component for component, _ in places], dtype=np.int32), length)
        inputs = np.empty_like(targets)
        inputs[1:] = targets[:-1]
        inputs[starts[sizes > 0]] = 0
        for segment in np.flatnonzero((np.array(numbers) == 0) | np.array(skipped)).tolist():
            here = slice(starts[segment], starts[segment] + sizes[segment])
            targets[here] = inputs[here] = positions[here] = segment_ids[here] = 0
            domain[here] = -1
        arrays = {
            "decoder_input_tokens": inputs,
            "decoder_target_tokens": targets,
            "decoder_loss_weights": (targets != 0).astype(np.float32),
            "decoder_segment_ids": segment_ids,
            "decoder_positions": positions,
            "domain": domain,
        }
        arrays = {name: array.reshape(rows, length) for name, array in arrays.items()}
        for name, spec in self._dense.items():
            arrays |= self._dense_arrays(name, spec, places, segments)
        return arrays

    def _read_row(
        self,
        component: int,
        place: Place,
        row: Segments,
        sizes: list[int],
        shards: np.ndarray,
        parts: list,
        skipped: list,
    ) -> None:
        """Adds the tokens of each segment of a row to `parts`, and to `skipped` whether its document is; such a one is not read."""
        opened = self.components[component]
        left_out = opened.skipped_in(place)
        for shard, record, start, size in zip(shards.tolist(), row.records.tolist(), row.start[0].tolist(), sizes):
            skipped.append(record in left_out)
            tokens = self._padding[:size] if skipped[-1] else opened.read(shard, record, start, size)
            if len(tokens) != size:
                raise CacheError(
                    f"{opened.reader.path(shard)} record {record} of {self.split} has fewer tokens than its sidecar says.",
                    REMAKE,
                )
            parts.append(tokens)

    def _dense_arrays(self, name: str, spec: Mapping[str, Any], places, segments) -> dict[str, np.ndarray]:
        """The arrays of a feature besides the tokens; components that lack it leave their rows empty."""
        shape = (len(places), self.lengths[name])
        values = np.zeros((*shape, *spec.get("shape", [None])[1:]), dtype=spec["dtype"])
        ids, positions = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
        for number, ((component, place), row) in enumerate(zip(places, segments)):
            opened = self.components[component]
            if name not in opened.plans.capacities:
                continue
            feature = list(opened.plans.capacities).index(name)
            left_out, offset = opened.skipped_in(place), 0
            for segment, (record, start, size) in enumerate(
                zip(row.records.tolist(), row.start[feature].tolist(), row.size[feature].tolist())
            ):
                here = slice(offset, offset + size)
                if size and record not in left_out:
                    values[number, here] = opened.reader.values(record, name, start, start + size)
                    ids[number, here], positions[number, here] = segment + 1, np.arange(size)
                offset += size
        return {name: values, f"{name}_segment_ids": ids, f"{name}_positions": positions}

    def _check_unchanged(self, places: list[tuple[int, Place]], shards: list[np.ndarray]) -> None:
        """Raises CacheError if a shard that is about to be read was changed since it was opened."""
        touched = {(component, shard) for (component, _), row in zip(places, shards) for shard in row.tolist()}
        for component, shard in sorted(touched):
            self.components[component].reader.check(shard)

    def _prefetch(self, places: list[tuple[int, Place]], segments: list[Segments], shards: list[np.ndarray]) -> None:
        """Tells the system what will be read; it changes no value.

        Of a block that no batch has just read, the batch's own records, so that they come side by side and not one after the other. Of one
        that the batch before has read too, all: the next batches read on in it. One batch alone, as in a replay, reads no whole block.
        """
        blocks = {(component, place.group, place.block): place for component, place in places}
        for (component, place), row, row_shards in zip(places, segments, shards):
            if (component, place.group, place.block) not in self._blocks_read:
                reader = self.components[component].reader
                for shard, record in zip(row_shards.tolist(), row.records.tolist()):
                    first = record - reader.first_record(shard)
                    reader.will_need(shard, first, first + 1)
        for key in blocks.keys() & self._blocks_read - self._blocks_prefetched:
            self.components[key[0]].prefetch_block(blocks[key])
        self._blocks_prefetched = blocks.keys() & self._blocks_read
        self._blocks_read = set(blocks)

    def _find_fault(self, places, segments, shards) -> None:
        """Raises the CacheError that names the record whose tokens are outside the vocabulary."""
        for (component, place), row, row_shards in zip(places, segments, shards):
            opened = self.components[component]
            for shard, record, start, size in zip(
                row_shards.tolist(), row.records.tolist(), row.start[0].tolist(), row.size[0].tolist()
            ):
                if record not in opened.skipped_in(place) and not check_tokens(
                    opened.read(shard, record, start, size), self.vocab_size
                ):
                    raise CacheError(
                        f"{opened.reader.path(shard)} record {record} of {self.split} holds tokens outside its vocabulary of {self.vocab_size}.",
                        REMAKE,
                    )
        raise CacheError(
            f"a batch holds tokens outside the vocabulary of {self.vocab_size}.",
            "Run castor tasks verify on the caches.",
        )

    # ------------------------------------------------------------------------------------------------------------ lineage

    def _spans(self, row: int, component: int, place: Place) -> Iterator[Span]:
        opened, offset = self.components[component], 0
        left_out = opened.skipped_in(place)
        pieces = opened.segments(place)
        for number, (record, start, size) in enumerate(
            zip(pieces.records.tolist(), pieces.start[0].tolist(), pieces.size[0].tolist()), start=1
        ):
            if record not in left_out:
                document, source = opened.reader.document(record)
                yield Span(
                    row=row,
                    segment=number,
                    row_start=offset,
                    row_stop=offset + size,
                    domain=opened.name,
                    epoch=place.epoch,
                    document=document,
                    source=source,
                    cache=opened.reader.directory,
                    split=self.split,
                    record=record,
                    start=start,
                    stop=start + size,
                )
            offset += size

    def _occurrences(self, component: int, document: str, end: int | None) -> Iterator[Occurrence]:
        """Those of one component at positions before `end`, or in its first epoch."""
        opened = self.components[component]
        record = opened.reader.find(document)
        if record is None or record in opened.skipped.of_shard(opened.reader.locate(record)[0]):
            return
        leaf = self._mixing.names.index(opened.name)
        for place, segment in opened.occurrences(record):
            for epoch in itertools.count() if end is not None else (0,):
                index = opened.order.index(epoch, place.group, place.block, place.row)
                position = self._mixing.position(leaf, index)
                if position is None or (end is not None and position >= end):
                    break
                data_step, row = self.batch_sizes.step(position)
                step = skips.training_step(data_step, self.mixture.skip_steps)
                if step is not None:
                    spans = self._spans(row, component, place._replace(epoch=epoch))
                    yield from (Occurrence(step, span) for span in spans if span.segment == segment + 1)


def _by_step(occurrence: Occurrence) -> tuple[int, int, int]:
    return occurrence.step, occurrence.span.row, occurrence.span.segment


def _check_arguments(batch_sizes: schedule.BatchSizes, lengths, seed, shard, num_shards, method) -> None:
    for size in batch_sizes.sizes:
        if not is_integer(num_shards, at_least=1) or size % num_shards:
            raise ConfigurationError(
                f"batch_size {size} does not divide into {num_shards!r} shards.",
                "Choose BATCH_SIZE as a multiple of the shards.",
            )
    if not is_integer(shard, at_least=0, at_most=num_shards - 1):
        raise ConfigurationError(f"shard {shard!r} is not one of the {num_shards} shards 0 to {num_shards - 1}.")
    if (
        not isinstance(lengths, Mapping)
        or FEATURE not in lengths
        or not all(is_integer(length, at_least=1) for length in lengths.values())
    ):
        raise ConfigurationError(
            f"lengths are {{'targets': L}}, and a capacity for every other feature, positive integers, not {lengths!r}.",
            "Bind TASK_FEATURE_LENGTHS.",
        )
    check_integer("seed", seed, remedy="Bind RANDOM_SEED to an integer.")
    if method not in packing_lib.METHODS:
        raise ConfigurationError(
            f"packing method {method!r} is unknown.", f"There are {', '.join(packing_lib.METHODS)}."
        )
    if method == "concat_and_split" and len(lengths) > 1:
        raise ConfigurationError(
            "concat_and_split packs one feature.", "Take another packing method, or targets alone."
        )


def _check_features(
    mixture: Mixture, manifests: Mapping[str, Manifest], lengths: Mapping[str, int]
) -> dict[str, Mapping[str, Any]]:
    """The declaration of every feature of `lengths` besides the tokens."""
    result = {}
    for name in lengths:
        if name == FEATURE:
            continue
        specs = {domain: manifest.features[name] for domain, manifest in manifests.items() if name in manifest.features}
        if not specs:
            raise ConfigurationError(
                f"no cache of mixture {mixture.name!r} has a feature {name!r}.", "Bind TASK_FEATURE_LENGTHS without it."
            )
        (first, spec), *others = specs.items()
        if None in spec.get("shape", [None])[1:]:
            raise ConfigurationError(
                f"feature {name!r} of {first!r} has a shape that is not fixed: {spec}.", "Leave it out of the lengths."
            )
        for domain, other in others:
            if other != spec:
                raise ConfigurationError(
                    f"feature {name!r} is {spec} in {first!r} and {other} in {domain!r}.",
                    "Tokenize both alike, or leave it out of the lengths.",
                )
        result[name] = spec
    return result


def _check_vocabularies(mixture: Mixture, manifests: Mapping[str, Manifest], vocabulary: Any) -> tuple[str, int]:
    """The one vocabulary fingerprint of all components and the size of that vocabulary (0 where the caches do not tell it)."""
    remedy = "Tokenize the corpora with one vocabulary, or train with the vocabulary of the caches."
    asked = getattr(vocabulary, "fingerprint", vocabulary)
    first, expected, size = "the run", asked, 0
    for manifest in manifests.values():
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
