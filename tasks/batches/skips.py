"""What is left out of a mixture on purpose: documents, and steps.

A skipped document keeps its place in the packing, but its tokens become padding: every other token stays in its row and step. A skipped
step is jumped over: training step s gets the batch of data step `data_step(s)`, and everything else keeps its order. Both are part of the
mixture, hence of its fingerprint; a run that goes on from an earlier checkpoint must allow it (Checkpoints.allow_other_data).
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
"""Documents up to this number are looked up when a mixture is opened, so that one that is nowhere is told at once."""


def documents(given: str | os.PathLike | Iterable[str]) -> tuple[str, ...]:
    """Document ids, sorted, from a sequence or from a file with one a line (# begins a comment). Raises ConfigurationError for a bad id."""
    where = "skip_documents"
    if isinstance(given, (str, os.PathLike)) and not _ID.match(os.fspath(given)):
        where = os.fspath(given)
        try:
            lines = storage.read_bytes(where).decode("utf-8").splitlines()
        except (OSError, ValueError) as error:
            raise ConfigurationError(
                f"the list of documents to skip, {where}, cannot be read: {error}.",
                "Name a text file with one id a line.",
            ) from error
        given = [line.split("#")[0].strip() for line in lines]
        given = [line for line in given if line]
    elif isinstance(given, (str, os.PathLike)):
        given = [os.fspath(given)]
    ids = sorted(set(given or ()))
    for identifier in ids:
        if not isinstance(identifier, str) or not _ID.match(identifier):
            raise ConfigurationError(
                f"{where} names {identifier!r}, which is no document id.",
                "An id is 32 hexadecimal digits; castor tasks lineage prints them.",
            )
    return tuple(ids)


def step_ranges(given: Sequence[Any]) -> tuple[tuple[int, int], ...]:
    """Ranges (from, to) of data steps, sorted and joined where they touch. Raises ConfigurationError for what is no range."""
    ranges: list[tuple[int, int]] = []
    pairs = [tuple(pair) if isinstance(pair, (tuple, list)) else (pair,) for pair in given or ()]
    for pair in pairs:
        if len(pair) != 2 or not all(map(is_integer, pair)) or not 0 <= pair[0] < pair[1]:
            raise ConfigurationError(
                f"skip_steps holds {pair!r}, which is no range of steps.",
                "Give pairs (from, to) with 0 <= from < to: ((5000, 5100),).",
            )
    for begin, end in sorted(pairs):
        if ranges and begin <= ranges[-1][1]:
            ranges[-1] = (ranges[-1][0], max(end, ranges[-1][1]))
        else:
            ranges.append((begin, end))
    return tuple(ranges)


def data_step(step: int, ranges: Sequence[tuple[int, int]]) -> int:
    """The data step whose batch a training step gets."""
    for begin, end in ranges:
        if step < begin:
            break
        step += end - begin
    return step


def training_step(step: int, ranges: Sequence[tuple[int, int]]) -> int | None:
    """The training step that gets the batch of a data step; None if it is skipped."""
    skipped = 0
    for begin, end in ranges:
        if begin <= step < end:
            return None
        skipped += end - begin if end <= step else 0
    return step - skipped


class SkippedRecords:
    """The records of one opened cache that are left out, found shard by shard when a shard is read."""

    def __init__(self, reader: CacheReader, ids: Sequence[str]):
        self._reader = reader
        self._by_shard: dict[int, list[str]] = {}
        seed, shards = reader.manifest.seed, reader.num_shards
        for identifier in ids:
            shard = hashing.shard_of(hashing.record_hash(seed, identifier), shards)
            self._by_shard.setdefault(shard, []).append(identifier)
        self._found = functools.lru_cache(maxsize=256)(self._find)

    def of_shard(self, shard: int) -> frozenset[int]:
        """Records of the split, counted through all shards, that lie in a shard and are left out."""
        return self._found(shard) if shard in self._by_shard else frozenset()

    def _find(self, shard: int) -> frozenset[int]:
        found = (self._reader.find(identifier) for identifier in self._by_shard[shard])
        return frozenset(record for record in found if record is not None)


def check_known(ids: Sequence[str], readers: Iterable[CacheReader]) -> None:
    """Raises ConfigurationError naming the first document that is in no split of any of the caches; long lists are not looked up."""
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
        "Take it out, or correct it; castor tasks lineage prints ids.",
    )
