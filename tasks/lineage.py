"""From a token of a training batch back to the document it came from.

A `Span` says where a piece of a row lies in its document's cached tokens. `Batches.lineage` makes them; nothing is stored, for a batch is
a function of (mixture, seed, step) and so is its lineage.
"""

import dataclasses

import numpy as np

from tasks.cache import CacheReader


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
