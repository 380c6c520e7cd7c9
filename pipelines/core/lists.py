"""Lists that rules look up entries in: words, domains, hashes of pictures.

A list is a UTF-8 file with one entry per line, optionally `.gz`. Empty lines and lines that begin with `#` are
ignored. A name that begins with `castor/` is one of Castor's own small lists in pipelines/core/wordlists/; any other
name is a path. A rule that reads files returns them from a method `reads()`, so that the job's fingerprint covers
their content (see pipelines/execution/job.py).

Long lists (millions of domains) are kept as sorted 64-bit hashes: 8 bytes per entry, 32 MB for four million, a lookup
takes microseconds. With four million entries, one lookup in 4e12 is a false positive. No Beam.
"""

import dataclasses
import functools
import gzip
import hashlib
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from castor.tasks.errors import ConfigurationError
from castor.tasks.storage import storage

OWN = "castor/"
_FOLDER = pathlib.Path(__file__).parent / "wordlists"


_KEPT: list = []


def kept(function):
    """Caches what `function` reads from files, until `forget`.

    The cache is bounded because a process may run many jobs.
    """
    cache = functools.lru_cache(maxsize=32)(function)
    _KEPT.append(cache)
    return cache


def forget() -> None:
    """Empties the caches of all `kept` functions: a job must read the files as its fingerprint covers them."""
    for cache in _KEPT:
        cache.cache_clear()


def find(name: str) -> str:
    """The path of a list. Raises ConfigurationError if it does not exist."""
    path = str(_FOLDER / name.removeprefix(OWN)) if name.startswith(OWN) else name
    if not storage.exists(path):
        own = ", ".join(sorted(OWN + file.name for file in _FOLDER.glob("*.txt")))
        raise ConfigurationError(
            f"the list {name} does not exist.",
            f"Name a file with one entry per line, or one of Castor's own lists: {own}.",
        )
    return path


def reads(names: Iterable[str]) -> dict[str, str]:
    """{name: path} of the named lists, as a rule's `reads()` returns them."""
    return {name: find(name) for name in names}


def of_parts(part: Any) -> dict[str, str]:
    """{name: path} of every file that a configuration reads, collected from the `reads()` of the dataclasses in it."""
    if isinstance(part, Mapping):
        return {name: path for item in part.values() for name, path in of_parts(item).items()}
    if isinstance(part, (list, tuple)):
        return {name: path for item in part for name, path in of_parts(item).items()}
    if not dataclasses.is_dataclass(part) or isinstance(part, type):
        return {}
    own = part.reads() if hasattr(part, "reads") else {}
    return {**own, **of_parts([getattr(part, field.name) for field in dataclasses.fields(part)])}


def lines(name: str) -> Iterator[str]:
    """The entries of a list in order, stripped and in lower case. Raises ConfigurationError if a line is not UTF-8."""
    path = find(name)
    with storage.open_read(path) as file:
        stream = gzip.open(file) if path.endswith(".gz") else file
        for number, line in enumerate(stream, 1):
            try:
                entry = line.decode("utf-8").strip()
            except UnicodeDecodeError as error:
                raise ConfigurationError(
                    f"line {number} of the list {name} is not UTF-8: {error}.", "Convert the file."
                ) from error
            if entry and not entry.startswith("#"):
                yield entry.lower()


@kept
def words(names: tuple[str, ...]) -> frozenset[str]:
    """The entries of several lists as a set; for lists of up to some thousand entries."""
    return frozenset(entry for name in names for entry in lines(name))


class HashedSet:
    """A set of strings of which only the 64-bit hashes are stored."""

    def __init__(self, entries: Iterable[str]):
        packed = bytearray()
        for entry in entries:
            packed += _digest(entry)
        self._hashes = np.frombuffer(packed, "<u8")
        self._hashes.sort()  # in place: no second copy of a list of millions

    def __len__(self) -> int:
        return len(self._hashes)

    def first(self, candidates: Sequence[str]) -> str | None:
        """The first of `candidates` that is in the set, or None."""
        if not len(self._hashes) or not candidates:
            return None
        wanted = np.frombuffer(b"".join(map(_digest, candidates)), "<u8")
        indices = np.minimum(np.searchsorted(self._hashes, wanted), len(self._hashes) - 1)
        found = np.flatnonzero(self._hashes[indices] == wanted)
        return candidates[found[0]] if len(found) else None


@kept
def hashed(names: tuple[str, ...]) -> HashedSet:
    """The entries of several lists as hashes, each without a leading `www.`."""
    return HashedSet(entry.removeprefix("www.") for name in names for entry in lines(name))


class Substrings:
    """Finds which of many strings occur in a text. Lookup by prefix: the cost grows with the text, not the list."""

    def __init__(self, entries: Iterable[str]):
        entries = sorted(entries)
        self._begin = min(map(len, entries), default=1)
        self._by_begin: dict[str, list[str]] = {}
        for entry in entries:
            self._by_begin.setdefault(entry[: self._begin], []).append(entry)

    def first(self, text: str) -> str | None:
        """The entry that begins first in the text (of several, the smallest), or None."""
        by_begin, length = self._by_begin, self._begin
        for start in range(len(text) - length + 1):
            if text[start : start + length] in by_begin:
                for entry in by_begin[text[start : start + length]]:
                    if text.startswith(entry, start):
                        return entry
        return None


@kept
def substrings(names: tuple[str, ...]) -> Substrings:
    """The entries of several lists, for search inside texts."""
    return Substrings(words(names))


def _digest(entry: str) -> bytes:
    return hashlib.blake2b(entry.encode("utf-8", "surrogatepass"), digest_size=8, person=b"castor.lists.v1").digest()
