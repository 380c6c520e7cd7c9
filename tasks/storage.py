"""Every file of a cache, a corpus or a manifest is touched here and nowhere else.

Paths are local today. Everything above speaks only these functions, so that a bucket can stand behind them later; that is why they are few,
take whole files where they can, and promise only what an object store can promise too: a file appears whole or not at all. This file
knows no format.
"""

import ctypes
import gc
import hashlib
import json
import mmap
import os
import pathlib
import shutil
import uuid
import weakref
from typing import Any, BinaryIO, NamedTuple

import numpy as np

Path = str | os.PathLike

_CHUNK_BYTES = 1 << 20
_PROT_READ, _MAP_SHARED, _MAP_FAILED, _MADV_WILLNEED = 1, 1, ctypes.c_void_p(-1).value, 3


class Identity(NamedTuple):
    """What tells a file from any other that ever stood under its name, as far as a look from outside can."""

    inode: int
    size: int
    mtime_ns: int


def join(*parts: Path) -> str:
    """Joins path parts with a slash."""
    return os.path.join(*(os.fspath(part) for part in parts))


def open_read(path: Path) -> BinaryIO:
    """Opens a file for reading bytes."""
    return open(path, "rb")


def open_write(path: Path) -> BinaryIO:
    """Opens a new or emptied file for writing bytes. Use it under a staging directory only: it is not atomic."""
    return open(path, "wb")


def read_bytes(path: Path) -> bytes:
    """The whole content of a file."""
    with open_read(path) as file:
        return file.read()


def map_bytes(path: Path) -> np.ndarray:
    """A read-only view of a whole file, uint8 [bytes], mapped, not read: what is never looked at costs no memory, and it holds no file
    descriptor. A file that is cut while it is mapped kills the process that reads beyond its end: see `is_still`.
    """
    with open_read(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size == 0:
            return np.zeros(0, np.uint8)
        if _libc is None:
            return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
        return np.asarray(_Mapping(file.fileno(), size))


class _Mapping:
    """A mapping as numpy takes it, undone with the last array on it. Python's own keeps a file descriptor open for each."""

    def __init__(self, descriptor: int, size: int):
        address = _libc.mmap(None, size, _PROT_READ, _MAP_SHARED, descriptor, 0)
        if address == _MAP_FAILED:
            raise OSError(ctypes.get_errno(), f"a file of {size} bytes cannot be mapped: {os.strerror(ctypes.get_errno())}")
        weakref.finalize(self, _libc.munmap, address, size).atexit = False
        self.__array_interface__ = {"shape": (size,), "typestr": "|u1", "data": (address, True), "version": 3}


def _load_libc():
    """The C library with mmap declared, or None where there is no such thing."""
    try:
        library = ctypes.CDLL(None, use_errno=True)
        library.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
        library.mmap.restype = ctypes.c_void_p
        library.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
        library.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    except (OSError, TypeError, AttributeError):
        return None
    return library


_libc = _load_libc()


def will_need(data: np.ndarray, begin: int, end: int) -> None:
    """Tells the system that bytes [begin, end) of a mapped file will be read soon. Changes no value; does nothing where it cannot."""
    begin, end = max(begin, 0), min(end, len(data))
    if _libc is not None and begin < end:
        start = (data.ctypes.data + begin) // mmap.PAGESIZE * mmap.PAGESIZE
        _libc.madvise(start, data.ctypes.data + end - start, _MADV_WILLNEED)


def identity(path: Path) -> Identity:
    """Of a file as it stands now. Raises OSError where there is none."""
    found = os.stat(path)
    return Identity(found.st_ino, found.st_size, found.st_mtime_ns)


def is_still(path: Path, known: Identity) -> bool:
    """False if a file was replaced, cut, written to or removed since `known` was taken."""
    try:
        return identity(path) == known
    except OSError:
        return False


def write_bytes_atomic(path: Path, data: bytes, sync: bool = True) -> None:
    """Writes a file that other processes see either as it was or complete, even if this one is killed; on a full disk, as it was.

    sync: wait until it is on the disk, so that it also outlives a crash of the machine.
    """
    path = os.fspath(path)
    temporary = f"{path}.{uuid.uuid4().hex}.tmp"
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        remove(temporary)
        raise


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
    return os.path.exists(path)


def is_directory(path: Path) -> bool:
    """True for a directory."""
    return os.path.isdir(path)


def size(path: Path) -> int:
    """Size of a file in bytes."""
    return os.stat(path).st_size


def list_files(directory: Path) -> list[str]:
    """Sorted names of the entries of a directory (files and folders); empty where there is no such directory."""
    try:
        return sorted(os.listdir(directory))
    except (FileNotFoundError, NotADirectoryError):
        return []


def makedirs(directory: Path) -> None:
    """Makes a directory and its parents; fine if it is there."""
    os.makedirs(directory, exist_ok=True)


def rename(source: Path, target: Path) -> None:
    """Moves a file onto `target` of the same file system, replacing it atomically."""
    os.replace(source, target)


def remove(path: Path) -> None:
    """Removes a file; fine if it is gone."""
    pathlib.Path(path).unlink(missing_ok=True)


def remove_tree(directory: Path) -> None:
    """Removes a directory and all in it; fine if it is gone."""
    shutil.rmtree(directory, ignore_errors=True)


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
        directory, name = os.path.split(os.fspath(path))
        self._path = os.fspath(path)
        self._temporary = os.path.join(directory, f".{name}.{uuid.uuid4().hex}.tmp")
        self._digest = hashlib.sha256()
        self.bytes_written = 0

    def __enter__(self) -> "HashingWriter":
        self._file = open_write(self._temporary)
        return self

    def write(self, data: bytes) -> None:
        self._file.write(data)
        self._digest.update(data)
        self.bytes_written += len(data)

    def hexdigest(self) -> str:
        return self._digest.hexdigest()

    def __exit__(self, kind, *_) -> None:
        try:
            self._file.close()  # which writes what is left, and so may find the disk full
            if kind is None:
                rename(self._temporary, self._path)
        finally:
            remove(self._temporary)
