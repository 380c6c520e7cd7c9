"""Every file of a cache, a corpus or a manifest is touched here and nowhere else.

A path names a file of this machine (tasks/storage/local.py) or, beginning with gs://, an object of Google Cloud Storage (tasks/storage/gcs.py).
Everything above speaks only these functions; that is why they are few, take whole files where they can, and promise only what a bucket can
promise too: a file appears whole or not at all. What is missing is FileNotFoundError, and whatever else goes wrong another OSError. This file
knows no format.
"""

import gc
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from castor.tasks.storage import local
from castor.tasks.storage.local import will_need

__all__ = ["will_need"]

Path = str | os.PathLike

_CHUNK_BYTES = 1 << 20


class Identity(NamedTuple):
    """What tells a file from any other that ever stood under its name, as far as a look from outside can. Of an object, `inode` is its
    generation.
    """

    inode: int
    size: int
    mtime_ns: int


def is_remote(path: Path) -> bool:
    """True for an object or folder of a bucket."""
    return os.fspath(path).startswith("gs://")


def _of(path: Path):
    """The module that knows how to deal with a path."""
    if not is_remote(path):
        return local
    from castor.tasks.storage import gcs

    return gcs


def join(*parts: Path) -> str:
    """Joins path parts with a slash."""
    return os.path.join(*(os.fspath(part) for part in parts))


def normal(path: Path) -> str:
    """A path without `.`, `..` and repeated slashes."""
    path = os.fspath(path)
    return "gs://" + os.path.normpath(path.removeprefix("gs://")) if is_remote(path) else os.path.normpath(path)


def open_read(path: Path) -> BinaryIO:
    """Opens a file for reading bytes. Of an object, reads the generation that is there now, whatever becomes of its name."""
    return _of(path).open_read(os.fspath(path))


def open_write(path: Path) -> BinaryIO:
    """Opens a new or emptied file of this machine for writing bytes. Use it under a staging directory only: it is not atomic."""
    return local.open_write(os.fspath(path))


def read_bytes(path: Path) -> bytes:
    """The whole content of a file."""
    with open_read(path) as file:
        return file.read()


def map_bytes(path: Path) -> np.ndarray:
    """A read-only view of a whole file, uint8 [bytes], mapped, not read: what is never looked at costs no memory, and it holds no file
    descriptor. A file that is cut while it is mapped kills the process that reads beyond its end: see `is_unchanged`. An object is copied to
    this machine first, once a generation (see tasks/storage/gcs.py).
    """
    return _of(path).map_bytes(os.fspath(path))


def identity(path: Path) -> Identity:
    """Of a file as it stands now. Raises OSError where there is none."""
    return Identity(*_of(path).identity(os.fspath(path)))


def is_unchanged(path: Path, known: Identity) -> bool:
    """False if a file was replaced, cut, written to or removed since `known` was taken.

    For an object in a bucket the answer may be a minute old; bytes of it that are mapped never change.
    """
    return _of(path).is_unchanged(os.fspath(path), known)


def prefetch_metadata(directory: Path) -> None:
    """Fetches the metadata of all files of a directory in one request if the directory is in a bucket; does nothing elsewhere."""
    if is_remote(directory):
        _of(directory).prefetch_metadata(os.fspath(directory))


def state(path: Path) -> list[int]:
    """What a fingerprint says of an input file: [bytes, time of change in ns], of an object [bytes, generation]."""
    return _of(path).state(os.fspath(path))


def mode(path: Path) -> int:
    """Type and permissions of a file, as stat has them."""
    return _of(path).mode(os.fspath(path))


def write_bytes_atomic(path: Path, data: bytes, sync: bool = True) -> None:
    """Writes a file that other processes see either as it was or complete, even if this one is killed; on a full disk, as it was.

    sync: wait until it is on the disk, so that it also outlives a crash of the machine.
    """
    _of(path).write_bytes_atomic(os.fspath(path), data, sync)


def read_json(path: Path) -> Any:
    """Parses a JSON file. Raises ValueError (also for bad UTF-8 and for nesting beyond reason) or OSError."""
    collecting = gc.isenabled()
    gc.disable()  # it would walk the growing result again and again, for two thirds of the time
    try:
        return json.loads(read_bytes(path).decode("utf-8"))
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    finally:
        if collecting:
            gc.enable()


def write_json_atomic(path: Path, value: Any, indent: int = 1) -> None:
    """Writes JSON with sorted keys and a newline at the end: equal values give equal bytes."""
    text = json.dumps(value, sort_keys=True, indent=indent, allow_nan=False)
    write_bytes_atomic(path, (text + "\n").encode("utf-8"))


def exists(path: Path) -> bool:
    """True for a file or directory that is there."""
    return _of(path).exists(os.fspath(path))


def is_directory(path: Path) -> bool:
    """True for a directory."""
    return _of(path).is_directory(os.fspath(path))


def size(path: Path) -> int:
    """Size of a file in bytes."""
    return _of(path).size(os.fspath(path))


def size_of(file: BinaryIO) -> int:
    """Size in bytes of a file that is open for reading, wherever it is; its position stays."""
    position = file.tell()
    size = file.seek(0, os.SEEK_END)
    file.seek(position)
    return size


def list_files(directory: Path) -> list[str]:
    """Sorted names of the entries of a directory (files and folders); empty where there is no such directory."""
    return _of(directory).list_files(os.fspath(directory))


def walk(root: Path) -> Iterator[str]:
    """Relative paths of all files under a directory, in no particular order."""
    return _of(root).walk(os.fspath(root))


def makedirs(directory: Path) -> None:
    """Makes a directory and its parents; fine if it is there."""
    _of(directory).makedirs(os.fspath(directory))


def rename(source: Path, target: Path) -> None:
    """Moves a file or directory onto `target` of the same file system or bucket. A file replaces what was there, atomically; an object is copied
    and then removed, a folder of objects one by one.
    """
    _of(source).rename(os.fspath(source), os.fspath(target))


def move(source: Path, target: Path, names: Iterable[str]) -> None:
    """Renames each of `names` from one directory into another; in a bucket many at a time."""
    if is_remote(source):
        _of(source).move(os.fspath(source), os.fspath(target), list(names))
    else:
        for name in names:
            rename(join(source, name), join(target, name))


def copy(source: Path, target: Path, names: Iterable[str]) -> None:
    """Copies each of `names`, relative paths of files, from one directory into another of the same file system or bucket.

    On a file system the copies are hard links where these are supported: replace them, never change them in place.
    """
    _of(source).copy(os.fspath(source), os.fspath(target), names)


def remove(path: Path) -> None:
    """Removes a file; fine if it is gone."""
    _of(path).remove(os.fspath(path))


def remove_tree(directory: Path) -> None:
    """Removes a directory and all in it; fine if it is gone."""
    _of(directory).remove_tree(os.fspath(directory))


def sha256(path: Path) -> str:
    """SHA-256 of a file's content, 64 hex digits."""
    digest = hashlib.sha256()
    with open_read(path) as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


class HashingWriter:
    """A file being written that knows its SHA-256 and size, so that a shard need not be read again to be described.

    Used with `with`: the file appears under its name at the end of the block, whole; after an exception, or killed, it never does. Two
    tries at the same file do not mix.
    """

    def __init__(self, path: Path):
        self._path = os.fspath(path)
        self._digest = hashlib.sha256()
        self.bytes_written = 0

    def __enter__(self) -> "HashingWriter":
        self._unfinished = _of(self._path).Unfinished(self._path)
        return self

    def write(self, data: bytes) -> None:
        self._unfinished.file.write(data)
        self._digest.update(data)
        self.bytes_written += len(data)

    def hexdigest(self) -> str:
        return self._digest.hexdigest()

    def __exit__(self, kind, *_) -> None:
        if kind is None:
            self._unfinished.finish()
        else:
            self._unfinished.abandon()
