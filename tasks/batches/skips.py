"""Deliberate omissions from a mixture: skipped documents and skipped steps.

A skipped document stays in the packing, but its tokens become padding, so every other token keeps its row and step. A
skipped step is jumped over: training step s gets the batch of data step `data_step(s)`, and the order is otherwise
unchanged.

Example. skip_steps = ((3, 5),): training steps 0, 1, 2, 3, 4 get data steps 0, 1, 2, 5, 6.

Skips are part of the mixture and of its fingerprint. A run that resumes from an earlier checkpoint must allow the
change (Checkpoints.allow_other_data).
"""

import functools
import os
import re
from collections.abc import Iterable, Sequence
from typing import Any

from castor.tasks import hashing
from castor.tasks.cache.reader import CacheReader
from castor.tasks.checks import is_integer
from castor.tasks.errors import ConfigurationError
from castor.tasks.storage import storage

_ID = re.compile(r"[0-9a-f]{32}\Z")
_MAX_LOOKED_UP = 1000
"""Up to this number of documents, opening a mixture looks up every id and rejects unknown ones."""


def documents(given: str | os.PathLike | Iterable[str]) -> tuple[str, ...]:
    """Document ids to skip, sorted.

    given: ids, one id, or the name of a file with one id per line, where # starts a comment.

    Raises ConfigurationError for an unreadable file or an invalid id.
    """
    where = "skip_documents"
    if isinstance(given, (str, os.PathLike)) and not _ID.match(os.fspath(given)):
        where = os.fspath(given)
        try:
            lines = storage.read_bytes(where).decode("utf-8").splitlines()
        except (OSError, ValueError) as error:
            raise ConfigurationError(
                f"the list of documents to skip, {where}, cannot be read: {error}.",
                "Name a text file with one id per line.",
            ) from error
        given = [line.split("#")[0].strip() for line in lines]
        given = [line for line in given if line]
    elif isinstance(given, (str, os.PathLike)):
        given = [os.fspath(given)]
    ids = sorted(set(given or ()))
    for identifier in ids:
        if not isinstance(identifier, str) or not _ID.match(identifier):
            raise ConfigurationError(
                f"{where} names {identifier!r}, which is not a document id.",
                "An id is 32 hexadecimal digits; castor tasks lineage prints them.",
            )
    return tuple(ids)


def step_ranges(given: Sequence[Any]) -> tuple[tuple[int, int], ...]:
    """Ranges of data steps, sorted and merged where they touch: ((5, 7), (2, 5)) becomes ((2, 7),).

    given: pairs (from, to) of data steps; `to` is not skipped.

    Raises ConfigurationError for anything but pairs with 0 <= from < to.
    """
    ranges: list[tuple[int, int]] = []
    pairs = [tuple(pair) if isinstance(pair, (tuple, list)) else (pair,) for pair in given or ()]
    for pair in pairs:
        if len(pair) != 2 or not all(map(is_integer, pair)) or not 0 <= pair[0] < pair[1]:
            raise ConfigurationError(
                f"skip_steps has {pair!r}, which is not a range of steps.",
                "Give pairs (from, to) with 0 <= from < to: ((5000, 5100),).",
            )
    for begin, end in sorted(pairs):
        if ranges and begin <= ranges[-1][1]:
            ranges[-1] = (ranges[-1][0], max(end, ranges[-1][1]))
        else:
            ranges.append((begin, end))
    return tuple(ranges)


def data_step(step: int, ranges: Sequence[tuple[int, int]]) -> int:
    """The data step whose batch a training step gets.

    step: training step.

    ranges: as returned by `step_ranges`.
    """
    for begin, end in ranges:
        if step < begin:
            break
        step += end - begin
    return step


def training_step(step: int, ranges: Sequence[tuple[int, int]]) -> int | None:
    """The training step that gets the batch of a data step; None for a skipped data step.

    step: data step.

    ranges: as returned by `step_ranges`.
    """
    skipped = 0
    for begin, end in ranges:
        if begin <= step < end:
            return None
        skipped += end - begin if end <= step else 0
    return step - skipped


class SkippedRecords:
    """The skipped records of one open cache, looked up per shard when the shard is read.

    reader: reader of the cache's split.

    ids: ids of the skipped documents.
    """

    def __init__(self, reader: CacheReader, ids: Sequence[str]):
        self._reader = reader
        self._by_shard: dict[int, list[str]] = {}
        seed, shards = reader.manifest.seed, reader.num_shards
        for identifier in ids:
            shard = hashing.shard_of(hashing.record_hash(seed, identifier), shards)
            self._by_shard.setdefault(shard, []).append(identifier)
        self._found = functools.lru_cache(maxsize=256)(self._find)

    def of_shard(self, shard: int) -> frozenset[int]:
        """The skipped records in a shard, counted over all shards of the split."""
        return self._found(shard) if shard in self._by_shard else frozenset()

    def _find(self, shard: int) -> frozenset[int]:
        found = (self._reader.find(identifier) for identifier in self._by_shard[shard])
        return frozenset(record for record in found if record is not None)


def check_known(ids: Sequence[str], readers: Iterable[CacheReader]) -> None:
    """Raises ConfigurationError for the first document that is in no split of any cache.

    ids: document ids. Lists of more than 1000 ids are not looked up.

    readers: readers of the mixture's caches.
    """
    if not ids or len(ids) > _MAX_LOOKED_UP:
        return
    missing = set(ids)
    for reader in readers:
        for split in reader.manifest.splits:
            other = reader if split == reader.split else CacheReader(reader.directory, split)
            missing = {identifier for identifier in missing if other.find(identifier) is None}
            if not missing:
                return
    raise ConfigurationError(
        f"skip_documents names {min(missing)}, which is in no cache of the mixture.",
        "Remove or correct the id; castor tasks lineage prints ids.",
    )
