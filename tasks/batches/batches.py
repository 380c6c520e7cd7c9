"""Training batches as a pure function: `Batches(...).batch(step)` depends only on the mixture, the seed and the step.

    skips.py        step -> data step                     skipped steps are jumped over
    schedule.py     data step, row -> position            positions number the rows of all steps, for any batch size
    mixing.py       position -> component, index          closed form; each (component, index) appears exactly once
    component.py    index -> packed row -> pieces of records -> tokens
    this file       rows -> arrays

There is no iterator and no state: any host can request any step at any time, to resume, to replay or to skip. Shard h
of n gets rows [h * B / n, (h + 1) * B / n) of the same global batch. Pseudo-random integers come from hashing.py,
never from a library's generator. docs/determinism.md works through the arithmetic on a small example.
"""

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from castor.tasks import fingerprint, hashing
from castor.tasks.batches import skips
from castor.tasks.batches.argument_checks import check_arguments, check_features, check_vocabularies
from castor.tasks.batches.catalog import Mixture, resolve_mixture
from castor.tasks.batches.component import FEATURE, Component, RowAddress, Segments, check_tokens, open_component
from castor.tasks.batches.lineage import Occurrence, Span
from castor.tasks.cache.layout import REMAKE
from castor.tasks.checks import check_integer
from castor.tasks.errors import CacheError, ConfigurationError
from castor.tasks.mixing import epochs, mixing, schedule
from castor.tasks.mixing import packing as packing_lib

VERSION = 2


class Batches:
    """The batches of a mixture.

    mixture: a Mixture, a task name, a cache directory, or component -> weight (see catalog.resolve_mixture).

    batch_size: rows of the global batch, over all shards; or a table {0: 64, 1000: 256} of sizes by the step from
    which each holds.

    lengths: {"targets": L}, the tokens per row, and the capacity per row of every other feature to be loaded.

    seed: any integer; keys the order of the data.

    split: the split to read from every cache.

    shard: index of this reader, from 0 to num_shards - 1.

    num_shards: number of readers; divides every batch size.

    vocabulary: None, or a Vocabulary or its fingerprint that every cache must have been made with.

    packing: packing method, one of packing.METHODS.

    progress: None, or a function called with (blocks counted, blocks in total) if rows must be counted at opening.

    Raises ConfigurationError for invalid arguments. Raises CacheError for a cache that is missing, has no tokens in
    the split, or differs from its manifest. Raises VocabularyError if the caches have different vocabularies or
    another one than `vocabulary`.
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
        check_arguments(self.batch_sizes, lengths, seed, shard, num_shards, packing)
        self.mixture = resolve_mixture(mixture).by_name()
        self.batch_size, self.seed, self.split, self.packing = self.batch_sizes.sizes[0], int(seed), split, packing
        self.lengths = {
            FEATURE: int(lengths[FEATURE]),
            **{name: int(lengths[name]) for name in sorted(lengths) if name != FEATURE},
        }
        self.length = self.lengths[FEATURE]
        self.shard, self.num_shards = int(shard), int(num_shards)
        manifests = self.mixture.manifests()
        self.vocabulary_fingerprint, self.vocab_size = check_vocabularies(self.mixture, manifests, vocabulary)
        self._dense = check_features(self.mixture, manifests, self.lengths)
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
        # The blocks of the last batch, and those among them that were prefetched.
        self._blocks_read: set[tuple[int, int, int]] = set()
        self._blocks_prefetched: set[tuple[int, int, int]] = set()

    def _scheduled(self, stages) -> mixing.Mixing:
        (_, _, first), *later = stages
        at = self.batch_sizes.position
        moves = [(at(start), at(start + ramp) - at(start), weights) for start, ramp, weights in later]
        return mixing.Mixing.of(first, self.seed, moves)

    @functools.cached_property
    def fingerprint(self) -> str:
        """32 hex digits over all inputs of the batches.

        The inputs are code versions, cache contents, weights, batch size, lengths, packing, split, seed and skips.
        """
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
        """The rows of this shard at a step: a dict of arrays [rows, L], where rows = batch size / num_shards.

        decoder_target_tokens: int32; 0 is padding.

        decoder_input_tokens: int32; the targets shifted right within each segment, with 0 first.

        decoder_loss_weights: float32; 1 on targets, 0 on padding.

        decoder_segment_ids: int32; from 1, 0 on padding. A segment is one piece of one record.

        decoder_positions: int32; from 0 within each segment.

        domain: int32; index into `domains`, -1 on padding.

        Every other feature NAME of `lengths` adds NAME [rows, capacity, ...] in its own dtype, and NAME_segment_ids and
        NAME_positions, int32 [rows, capacity].

        step: training step, from 0.

        Raises CacheError if a cache is damaged.
        """
        return self._arrays(self._addresses(step))

    def microbatch(self, step: int, index: int, count: int) -> dict[str, np.ndarray]:
        """One of `count` equal parts of `batch(step)`, in row order, for gradient accumulation.

        step: training step, from 0.

        index: index of the microbatch, from 0 to count - 1.

        count: number of microbatches; divides the rows of this shard.

        Raises ConfigurationError for an index or a count outside its range, and CacheError if a cache is damaged.
        """
        rows = self.batch_size_at(step) // self.num_shards
        if count < 1 or rows % count or not 0 <= index < count:
            raise ConfigurationError(
                f"microbatch {index} of {count} does not exist for {rows} rows.",
                "Accumulate over a divisor of the rows per shard.",
            )
        part = rows // count
        return self._arrays(self._addresses(step)[index * part : (index + 1) * part])

    def batch_size_at(self, step: int) -> int:
        """Rows of the global batch at a training step."""
        return self.batch_sizes.size(self.data_step(step))

    def data_step(self, step: int) -> int:
        """The data step whose batch a training step gets: the training step plus the steps skipped up to there."""
        return skips.data_step(check_integer("step", step, at_least=0), self.mixture.skip_steps)

    def lineage(self, step: int) -> list[list[Span]]:
        """For each row of this shard at a training step, the spans of documents in the row, in order."""
        first = self.shard * (self.batch_size_at(step) // self.num_shards)
        return [list(self._spans(first + row, *where)) for row, where in enumerate(self._addresses(step))]

    def occurrences(self, document: str, steps: int | None = None) -> Iterator[Occurrence]:
        """Every span of a document in the first `steps` training steps, in all shards, sorted by step.

        document: document id, 32 hexadecimal digits. A document that is in no cache has no occurrences.

        steps: number of training steps; None for the first epoch of the document's component.
        """
        end = None if steps is None else self.batch_sizes.position(self.data_step(steps))
        found = [
            occurrence
            for component in range(len(self.components))
            for occurrence in self._occurrences(component, document, end)
        ]
        return iter(sorted(found, key=_by_step))

    def epochs(self, step: int) -> dict[str, float]:
        """Fractional epochs of each domain consumed before `step`.

        The number is exact at mixing-block boundaries. Inside a mixing block it uses the regular counts, which can
        differ slightly from what has been read.
        """
        counts = dict(zip(self._mixing.names, self._mixing.counts(self.batch_sizes.position(self.data_step(step)))))
        return {component.name: counts[component.name] / component.rows for component in self.components}

    # ------------------------------------------------------------------------------------------------------------ rows

    def _addresses(self, step: int) -> list[tuple[int, RowAddress]]:
        """(component, address of the packed row) for each row of this shard at a step."""
        data_step = self.data_step(step)
        rows = self.batch_sizes.size(data_step) // self.num_shards
        leaves, indices = self._mixing.at(self.batch_sizes.position(data_step) + self.shard * rows, rows)
        return [
            (component, self.components[component].address(index))
            for component, index in zip(self._domain_of[leaves].tolist(), indices.tolist())
        ]

    def _arrays(self, addresses: list[tuple[int, RowAddress]]) -> dict[str, np.ndarray]:
        segments = [self.components[component].segments(address) for component, address in addresses]
        shards = [self.components[component].shards(row) for (component, _), row in zip(addresses, segments)]
        self._check_unchanged(addresses, shards)
        self._prefetch(addresses, segments, shards)
        rows, length = len(addresses), self.length
        parts: list[np.ndarray] = []
        skipped: list[bool] = []
        row_lengths: list[int] = []
        numbers: list[int] = []
        for (component, address), row, row_shards in zip(addresses, segments, shards):
            row_sizes = row.size[0].tolist()
            self._read_row(component, address, row, row_sizes, row_shards, parts, skipped)
            free = length - sum(row_sizes)
            parts.append(self._padding[:free])
            skipped.append(False)
            row_lengths += [*row_sizes, free]
            numbers += [*range(1, len(row_sizes) + 1), 0]
        # Segments and padding (as a segment with number 0) fill every row, so arrays are filled flat, without gaps.
        targets = np.empty(rows * length, dtype=np.int32)
        np.concatenate(parts, out=targets, casting="unsafe")
        if not check_tokens(targets, self.vocab_size):
            self._find_fault(addresses, segments, shards)
        sizes = np.array(row_lengths)
        starts = np.cumsum(sizes) - sizes
        positions = np.arange(rows * length, dtype=np.int32)
        positions -= np.repeat(starts.astype(np.int32), sizes)
        segment_ids = np.repeat(np.array(numbers, dtype=np.int32), sizes)
        domain = np.repeat(np.array([component for component, _ in addresses], dtype=np.int32), length)
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
            arrays |= self._dense_arrays(name, spec, addresses, segments)
        return arrays

    def _read_row(
        self,
        component: int,
        address: RowAddress,
        row: Segments,
        sizes: list[int],
        shards: np.ndarray,
        parts: list,
        skipped: list,
    ) -> None:
        """Appends the tokens of each segment of a row to `parts`, and to `skipped` whether its document is skipped.

        Skipped documents are not read.
        """
        opened = self.components[component]
        skipped_records = opened.skipped_in(address)
        for shard, record, start, size in zip(shards.tolist(), row.records.tolist(), row.start[0].tolist(), sizes):
            skipped.append(record in skipped_records)
            tokens = self._padding[:size] if skipped[-1] else opened.read(shard, record, start, size)
            if len(tokens) != size:
                raise CacheError(
                    f"{opened.reader.path(shard)} record {record} of {self.split} has fewer tokens than in its .idx.",
                    REMAKE,
                )
            parts.append(tokens)

    def _dense_arrays(self, name: str, spec: Mapping[str, Any], addresses, segments) -> dict[str, np.ndarray]:
        """The arrays of a feature other than the tokens; rows of components without the feature stay empty."""
        shape = (len(addresses), self.lengths[name])
        values = np.zeros((*shape, *spec.get("shape", [None])[1:]), dtype=spec["dtype"])
        ids, positions = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
        for number, ((component, address), row) in enumerate(zip(addresses, segments)):
            opened = self.components[component]
            if name not in opened.plans.capacities:
                continue
            feature = list(opened.plans.capacities).index(name)
            skipped_records, offset = opened.skipped_in(address), 0
            for segment, (record, start, size) in enumerate(
                zip(row.records.tolist(), row.start[feature].tolist(), row.size[feature].tolist())
            ):
                here = slice(offset, offset + size)
                if size and record not in skipped_records:
                    values[number, here] = opened.reader.values(record, name, start, start + size)
                    ids[number, here], positions[number, here] = segment + 1, np.arange(size)
                offset += size
        return {name: values, f"{name}_segment_ids": ids, f"{name}_positions": positions}

    def _check_unchanged(self, addresses: list[tuple[int, RowAddress]], shards: list[np.ndarray]) -> None:
        """Raises CacheError if a shard that is about to be read has changed since it was opened."""
        touched = {(component, shard) for (component, _), row in zip(addresses, shards) for shard in row.tolist()}
        for component, shard in sorted(touched):
            self.components[component].reader.check(shard)

    def _prefetch(
        self, addresses: list[tuple[int, RowAddress]], segments: list[Segments], shards: list[np.ndarray]
    ) -> None:
        """Advises the operating system of coming reads; changes no value.

        For a block that the previous batch did not read, only this batch's records are advised, so that their reads
        overlap. For a block that the previous batch read too, the whole block is advised, since later batches
        continue in it. A single batch, as in a replay, therefore never reads a whole block.
        """
        blocks = {(component, address.group, address.block): address for component, address in addresses}
        for (component, address), row, row_shards in zip(addresses, segments, shards):
            if (component, address.group, address.block) not in self._blocks_read:
                reader = self.components[component].reader
                for shard, record in zip(row_shards.tolist(), row.records.tolist()):
                    first = record - reader.first_record(shard)
                    reader.will_need(shard, first, first + 1)
        for key in blocks.keys() & self._blocks_read - self._blocks_prefetched:
            self.components[key[0]].prefetch_block(blocks[key])
        self._blocks_prefetched = blocks.keys() & self._blocks_read
        self._blocks_read = set(blocks)

    def _find_fault(self, addresses, segments, shards) -> None:
        """Raises a CacheError that names the record with tokens outside the vocabulary."""
        for (component, address), row, row_shards in zip(addresses, segments, shards):
            opened = self.components[component]
            for shard, record, start, size in zip(
                row_shards.tolist(), row.records.tolist(), row.start[0].tolist(), row.size[0].tolist()
            ):
                if record not in opened.skipped_in(address) and not check_tokens(
                    opened.read(shard, record, start, size), self.vocab_size
                ):
                    raise CacheError(
                        f"{opened.reader.path(shard)} record {record} of {self.split} has tokens "
                        f"outside its vocabulary of {self.vocab_size}.",
                        REMAKE,
                    )
        raise CacheError(
            f"a batch has tokens outside the vocabulary of {self.vocab_size}.",
            "Run castor tasks verify on the caches.",
        )

    # ------------------------------------------------------------------------------------------------------------
    # lineage

    def _spans(self, row: int, component: int, address: RowAddress) -> Iterator[Span]:
        opened, offset = self.components[component], 0
        skipped_records = opened.skipped_in(address)
        pieces = opened.segments(address)
        for number, (record, start, size) in enumerate(
            zip(pieces.records.tolist(), pieces.start[0].tolist(), pieces.size[0].tolist()), start=1
        ):
            if record not in skipped_records:
                document, source = opened.reader.document(record)
                yield Span(
                    row=row,
                    segment=number,
                    row_start=offset,
                    row_stop=offset + size,
                    domain=opened.name,
                    epoch=address.epoch,
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
        """The occurrences in one component at positions before `end`, or in its first epoch."""
        opened = self.components[component]
        record = opened.reader.find(document)
        if record is None or record in opened.skipped.of_shard(opened.reader.locate(record)[0]):
            return
        leaf = self._mixing.names.index(opened.name)
        for address, segment in opened.occurrences(record):
            for epoch in itertools.count() if end is not None else (0,):
                index = opened.order.index(epoch, address.group, address.block, address.row)
                position = self._mixing.position(leaf, index)
                if position is None or (end is not None and position >= end):
                    break
                data_step, row = self.batch_sizes.step(position)
                step = skips.training_step(data_step, self.mixture.skip_steps)
                if step is not None:
                    spans = self._spans(row, component, address._replace(epoch=epoch))
                    yield from (Occurrence(step, span) for span in spans if span.segment == segment + 1)


def _by_step(occurrence: Occurrence) -> tuple[int, int, int]:
    return occurrence.step, occurrence.span.row, occurrence.span.segment
