"""Lineage: from a token of a training batch back to its document, and from a document to the batches that hold it.

A `Span` locates one segment of a batch row in the cached tokens of its document. An `Occurrence` adds the training
step at which the row comes. `Batches.lineage` and `Batches.occurrences` make them. Nothing is stored or searched: a
batch is a function of (mixture, seed, step), and each part of that function has an inverse.
"""

import dataclasses

import numpy as np

from castor.tasks.cache.reader import CacheReader


@dataclasses.dataclass(frozen=True)
class Span:
    """Tokens [start, stop) of a record's targets, at [row_start, row_stop) of a batch row.

    row: row of the global batch, regardless of the shard.

    segment: segment of the row, from 1, as in decoder_segment_ids.

    row_start: first position of the span in the row.

    row_stop: last position plus 1.

    domain: component of the mixture.

    epoch: number of complete epochs of the component before this one.

    document: document id, 32 hexadecimal digits.

    source: source URI of the raw document.

    cache: cache directory.

    split: split of the cache.

    record: record of the split, counted over all shards.

    start: first token of the span in the record.

    stop: last token plus 1.
    """

    row: int
    segment: int
    row_start: int
    row_stop: int
    domain: str
    epoch: int
    document: str
    source: str
    cache: str
    split: str
    record: int
    start: int
    stop: int

    def targets(self) -> np.ndarray:
        """The tokens of the span, int64 [stop - start], read from the cache."""
        return CacheReader(self.cache, self.split).tokens(self.record, self.start, self.stop)


@dataclasses.dataclass(frozen=True)
class Occurrence:
    """One span of a document in training.

    step: training step.

    span: the span in that step's global batch.
    """

    step: int
    span: Span
