"""From a token of a training batch back to its document, and from a document forward to the batches that hold it.

A `Span` says where a piece of a row lies in its document's cached tokens, an `Occurrence` at which step of the run that row comes.
`Batches.lineage` and `Batches.occurrences` make them; nothing is stored and nothing searched, for a batch is a function of
(mixture, seed, step), and its parts have inverses.
"""

import dataclasses

import numpy as np

from castor.tasks.cache.reader import CacheReader


@dataclasses.dataclass(frozen=True)
class Span:
    """Tokens [start, stop) of a record's targets, lying at [row_start, row_stop) of row `row` of a batch, as segment `segment` (from 1).

    row counts in the global batch, whatever shard of it was asked. document and source name the raw document; cache (a directory), split
    and record name its tokens; epoch says how often the component had been seen whole before.
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
        """The tokens of the span, int64 [stop - start], read back from the cache."""
        return CacheReader(self.cache, self.split).tokens(self.record, self.start, self.stop)


@dataclasses.dataclass(frozen=True)
class Occurrence:
    """A span of a document, and the training step at which it comes."""

    step: int
    span: Span
