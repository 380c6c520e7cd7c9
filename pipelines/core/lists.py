"""Lists that rules look things up in: words, domains, hashes of pictures.

A list is a UTF-8 file, one entry a line, `.gz` or not; blank lines and lines that begin with `#` say nothing. A name that begins with
`castor/` is one of Castor's own small lists in pipelines/core/wordlists/, every other name is a path. A rule that reads files tells them by a method
`reads()`, so that a job's fingerprint follows their content (see pipelines/execution/job.py).

Long lists (domains by the million) are kept as sorted 64-bit hashes: 8 bytes an entry, 32 MB for four million, a look-up in microseconds. With
that many entries one look-up in 4e12 says yes by accident. This file knows no Beam.
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
    """A cache of what a function of names reads from files, until `forget`; with a bound, since a process may run many jobs."""
    cache = functools.lru_cache(maxsize=32)(function)
    _KEPT.append(cache)
    return cache


def forget() -> None:
    """Empties every such cache: a job begins with the files as they are now, as its fingerprint does."""
    for cache in _KEPT:
        cache.cache_clear()


def find(name: str) -> str:
    """The path of a list. Raises ConfigurationError for one that is not there."""
    path = str(_FOLDER / name.removeprefix(OWN)) if name.startswith(OWN) else name
    if not storage.exists(path):
        own = ", ".join(sorted(OWN + file.name for file in _FOLDER.glob("*.txt")))
        raise ConfigurationError(
            f"the list {name} does not exist.", f"Name a file with one entry a line, or one of Castor's own: {own}."
        )
    return path


def reads(names: Iterable[str]) -> dict[str, str]:
    """{name: path} of lists, as a rule's `reads()` returns it."""
    return {name: find(name) for name in names}


def of_parts(part: Any) -> dict[str, str]:
    """{name: path} of every file that a configuration reads: what the dataclasses in it say by their `reads()`."""
    if isinstance(part, Mapping):
        return {name: path for item in part.values() for name, path in of_parts(item).items()}
    if isinstance(part, (list, tuple)):
        return {name: path for item in part for name, path in of_parts(item).items()}
    if not dataclasses.is_dataclass(part) or isinstance(part, type):
        return {}
    own = part.reads() if hasattr(part, "reads") else {}
    return {**own, **of_parts([getattr(part, field.name) for field in dataclasses.fields(part)])}


def lines(name: str) -> Iterator[str]:
    """The entries of a list, stripped and in lower case, in order. Raises ConfigurationError for what is not UTF-8."""
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
    """The entries of several lists as a set: for lists of thousands."""
    return frozenset(entry for name in names for entry in lines(name))


class HashedSet:
    """Entries known by their 64-bit hashes alone."""

    def __init__(self, entries: Iterable[str]):
        packed = bytearray()
        for entry in entries:
            packed += _digest(entry)
        self._hashes = np.frombuffer(packed, "<u8")
        self._hashes.sort()  # in place: a list of millions should not stand in memory twice

    def __len__(self) -> int:
        return len(self._hashes)

    def first(self, candidates: Sequence[str]) -> str | None:
        """The first candidate that is an entry."""
        if not len(self._hashes) or not candidates:
            return None
        wanted = np.frombuffer(b"".join(map(_digest, candidates)), "<u8")
        places = np.minimum(np.searchsorted(self._hashes, wanted), len(self._hashes) - 1)
        found = np.flatnonzero(self._hashes[places] == wanted)
        return candidates[found[0]] if len(found) else None


@kept
def hashed(names: tuple[str, ...]) -> HashedSet:
    """The entries of several lists, hashed; `www.` in front of a domain does not count."""
    return HashedSet(entry.removeprefix("www.") for name in names for entry in lines(name))


class Substrings:
    """Which of many strings occur in a text: looked up by how they begin, so that the cost grows with the text and not with the list."""

    def __init__(self, entries: Iterable[str]):
        entries = sorted(entries)
        self._begin = min(map(len, entries), default=1)
        self._by_begin: dict[str, list[str]] = {}
        for entry in entries:
            self._by_begin.setdefault(entry[: self._begin], []).append(entry)

    def first(self, text: str) -> str | None:
        """The entry that begins first in the text, the smallest if several do."""
        by_begin, length = self._by_begin, self._begin
        for start in range(len(text) - length + 1):
            if text[start : start + length] in by_begin:
                for entry in by_begin[text[start : start + length]]:
                    if text.startswith(entry, start):
                        return entry
        return None


@kept
def substrings(names: tuple[str, ...]) -> Substrings:
    """The entries of several lists, to be looked for inside of texts."""
    return Substrings(words(names))


def _digest(entry: str) -> bytes:
    return hashlib.blake2b(entry.encode("utf-8", "surrogatepass"), digest_size=8, person=b"castor.lists.v1").digest()
