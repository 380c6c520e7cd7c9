"""All I/O on the files of caches, corpora and manifests.

A path names a local file (tasks/storage/local.py) or, with the prefix gs://, an object of Google Cloud Storage
(tasks/storage/gcs.py). All other modules do I/O only through these functions. The API is small and whole-file because
it must offer the same guarantees on object stores: a file appears complete or not at all. A missing file raises
FileNotFoundError, any other failure another OSError. This file knows no file formats.
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
    """Identifies one version of a file, using only stat-level metadata.

    inode: inode of a local file; generation of an object.

    size: bytes.

    mtime_ns: time of the last modification in ns.
    """

    inode: int
    size: int
    mtime_ns: int


def is_remote(path: Path) -> bool:
    """Whether a path is in a bucket."""
    return os.fspath(path).startswith("gs://")


def _of(path: Path):
    """The module that implements I/O for a path."""
    if not is_remote(path):
        return local
    from castor.tasks.storage import gcs

    return gcs


def join(*parts: Path) -> str:
    """Joins path components with slashes."""
    return os.path.join(*(os.fspath(part) for part in parts))


def normal(path: Path) -> str:
    """The path without `.`, `..` and repeated slashes."""
    path = os.fspath(path)
    return "gs://" + os.path.normpath(path.removeprefix("gs://")) if is_remote(path) else os.path.normpath(path)


def open_read(path: Path) -> BinaryIO:
    """Opens a file for reading bytes. An object is read in its present generation, even if it is replaced meanwhile."""
    return _of(path).open_read(os.fspath(path))


def open_write(path: Path) -> BinaryIO:
    """Opens a local file for writing bytes and truncates it. Not atomic: for staging directories only."""
    return local.open_write(os.fspath(path))


def read_bytes(path: Path) -> bytes:
    """The content of a file."""
    with open_read(path) as file:
        return file.read()


def map_bytes(path: Path) -> np.ndarray:
    """A read-only view of a file, uint8 [bytes], memory-mapped without an open file descriptor.

    Bytes that are never read use no memory. If a file is truncated while it is mapped, reading beyond its end kills
    the process: check `is_unchanged` first. An object is copied to the local disk, once per generation
    (tasks/storage/gcs.py).
    """
    return _of(path).map_bytes(os.fspath(path))


def identity(path: Path) -> Identity:
    """The identity of a file in its present version. Raises OSError if the file does not exist."""
    return Identity(*_of(path).identity(os.fspath(path)))


def is_unchanged(path: Path, known: Identity) -> bool:
    """Whether a file is still the version with identity `known`: not replaced, truncated, modified or removed.

    For an object the answer may be up to a minute old. Mapped bytes of an object never change.
    """
    return _of(path).is_unchanged(os.fspath(path), known)


def prefetch_metadata(directory: Path) -> None:
    """Fetches the metadata of all files of a bucket directory in one request; does nothing for a local directory."""
    if is_remote(directory):
        _of(directory).prefetch_metadata(os.fspath(directory))


def state(path: Path) -> list[int]:
    """The state of an input file for a fingerprint: [bytes, mtime in ns], or [bytes, generation] of an object."""
    return _of(path).state(os.fspath(path))


def mode(path: Path) -> int:
    """Type and permissions of a file, as in st_mode of os.stat."""
    return _of(path).mode(os.fspath(path))


def write_bytes_atomic(path: Path, data: bytes, sync: bool = True) -> None:
    """Writes a file atomically: other processes see the old content or the new, even if this process is killed.

    If the disk is full, the old content stays.

    path: file to write.

    data: content.

    sync: whether to wait for the disk, so that the file also survives a crash of the machine.
    """
    _of(path).write_bytes_atomic(os.fspath(path), data, sync)


def read_json(path: Path) -> Any:
    """Parses a JSON file. Raises OSError, and ValueError for invalid UTF-8, invalid JSON and too deep nesting."""
    collecting = gc.isenabled()
    gc.disable()  # the collector would scan the growing result repeatedly, for two thirds of the time
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
    """Whether a file or directory exists."""
    return _of(path).exists(os.fspath(path))


def is_directory(path: Path) -> bool:
    """Whether a directory exists."""
    return _of(path).is_directory(os.fspath(path))


def size(path: Path) -> int:
    """Size of a file in bytes."""
    return _of(path).size(os.fspath(path))


def size_of(file: BinaryIO) -> int:
    """Size in bytes of a file that is open for reading; keeps its position."""
    position = file.tell()
    size = file.seek(0, os.SEEK_END)
    file.seek(position)
    return size


def list_files(directory: Path) -> list[str]:
    """Sorted names of the entries (files and folders) of a directory; empty if the directory does not exist."""
    return _of(directory).list_files(os.fspath(directory))


def walk(root: Path) -> Iterator[str]:
    """Relative paths of all files under a directory, in no particular order."""
    return _of(root).walk(os.fspath(root))


def makedirs(directory: Path) -> None:
    """Creates a directory and its parents, if they do not exist."""
    _of(directory).makedirs(os.fspath(directory))


def rename(source: Path, target: Path) -> None:
    """Moves a file or directory to `target` in the same file system or bucket.

    A file atomically replaces an existing target. An object is copied, then removed; a folder of objects one by one.
    """
    _of(source).rename(os.fspath(source), os.fspath(target))


def move(source: Path, target: Path, names: Iterable[str]) -> None:
    """Moves each of `names` from one directory into another; in a bucket several at a time."""
    if is_remote(source):
        _of(source).move(os.fspath(source), os.fspath(target), list(names))
    else:
        for name in names:
            rename(join(source, name), join(target, name))


def copy(source: Path, target: Path, names: Iterable[str]) -> None:
    """Copies files from one directory into another of the same file system or bucket.

    Local copies are hard links where the file system supports them: replace copies, never change them in place.

    source: directory of the files.

    target: directory of the copies.

    names: paths of the files relative to `source`.
    """
    _of(source).copy(os.fspath(source), os.fspath(target), names)


def remove(path: Path) -> None:
    """Removes a file, if it exists."""
    _of(path).remove(os.fspath(path))


def remove_tree(directory: Path) -> None:
    """Removes a directory with its content, if it exists."""
    _of(directory).remove_tree(os.fspath(directory))


def sha256(path: Path) -> str:
    """SHA-256 of a file's content, 64 hex digits."""
    digest = hashlib.sha256()
    with open_read(path) as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


class HashingWriter:
    """Writes a file and computes its SHA-256 and size on the way.

    Used as a context manager: the complete file appears under its name at the end of the block. After an exception or
    a kill it never appears. Concurrent writers of one file do not mix their bytes.

    path: file to write.
    """

    def __init__(self, path: Path):
        self._path = os.fspath(path)
        self._digest = hashlib.sha256()
        self.bytes_written = 0

    def __enter__(self) -> "HashingWriter":
        self._unfinished = _of(self._path).Unfinished(self._path)
        return self

    def write(self, data: bytes) -> None:
        """Appends bytes."""
        self._unfinished.file.write(data)
        self._digest.update(data)
        self.bytes_written += len(data)

    def hexdigest(self) -> str:
        """SHA-256 of the bytes so far, 64 hex digits."""
        return self._digest.hexdigest()

    def __exit__(self, kind, *_) -> None:
        if kind is None:
            self._unfinished.finish()
        else:
            self._unfinished.abandon()
