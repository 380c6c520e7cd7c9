"""Local files: implements the functions of tasks/storage/storage.py for paths outside buckets."""

import ctypes
import mmap
import os
import pathlib
import shutil
import uuid
import weakref
from collections.abc import Iterable, Iterator
from typing import BinaryIO

import numpy as np

_PROT_READ, _MAP_SHARED, _MAP_FAILED, _MADV_WILLNEED = 1, 1, ctypes.c_void_p(-1).value, 3


def open_read(path: str) -> BinaryIO:
    return open(path, "rb")


def open_write(path: str) -> BinaryIO:
    return open(path, "wb")


def map_bytes(path: str) -> np.ndarray:
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size == 0:
            return np.zeros(0, np.uint8)
        if _libc is None:
            return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
        return np.asarray(_Mapping(file.fileno(), size))


class _Mapping:
    """A memory map for numpy, unmapped with its last array. Python's mmap would keep a descriptor open for each."""

    def __init__(self, descriptor: int, size: int):
        address = _libc.mmap(None, size, _PROT_READ, _MAP_SHARED, descriptor, 0)
        if address == _MAP_FAILED:
            raise OSError(
                ctypes.get_errno(), f"a file of {size} bytes cannot be mapped: {os.strerror(ctypes.get_errno())}"
            )
        weakref.finalize(self, _libc.munmap, address, size).atexit = False
        self.__array_interface__ = {"shape": (size,), "typestr": "|u1", "data": (address, True), "version": 3}


def _load_libc():
    """The C library with the signatures of mmap, or None if there is none."""
    try:
        library = ctypes.CDLL(None, use_errno=True)
        library.mmap.argtypes = (
            ctypes.c_void_p,
            ctypes.c_size_t,
            ctypes.c_int,
            ctypes.c_int,
            ctypes.c_int,
            ctypes.c_long,
        )
        library.mmap.restype = ctypes.c_void_p
        library.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
        library.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    except (OSError, TypeError, AttributeError):
        return None
    return library


_libc = _load_libc()


def will_need(data: np.ndarray, begin: int, end: int) -> None:
    """Advises the operating system that bytes [begin, end) of a mapped file will be read soon; a no-op without libc.

    data: uint8 [bytes], from `map_bytes`.
    """
    begin, end = max(begin, 0), min(end, len(data))
    if _libc is not None and begin < end:
        start = (data.ctypes.data + begin) // mmap.PAGESIZE * mmap.PAGESIZE
        _libc.madvise(start, data.ctypes.data + end - start, _MADV_WILLNEED)


def identity(path: str) -> tuple[int, int, int]:
    found = os.stat(path)
    return found.st_ino, found.st_size, found.st_mtime_ns


def is_unchanged(path: str, known: tuple[int, int, int]) -> bool:
    try:
        return identity(path) == known
    except OSError:
        return False


def state(path: str) -> list[int]:
    """Size and mtime; of a dangling link its own."""
    found = os.stat(path) if os.path.exists(path) else os.lstat(path)
    return [found.st_size, found.st_mtime_ns]


def mode(path: str) -> int:
    return os.stat(path).st_mode


def copy(source: str, target: str, names: Iterable[str]) -> None:
    for name in names:
        path = os.path.join(target, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        try:
            os.link(os.path.join(source, name), path)
        except OSError:  # a file system without hard links
            shutil.copyfile(os.path.join(source, name), path)


def write_bytes_atomic(path: str, data: bytes, sync: bool) -> None:
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


def exists(path: str) -> bool:
    return os.path.exists(path)


def is_directory(path: str) -> bool:
    return os.path.isdir(path)


def size(path: str) -> int:
    return os.stat(path).st_size


def list_files(directory: str) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except (FileNotFoundError, NotADirectoryError):
        return []


def walk(root: str) -> Iterator[str]:
    """Does not follow links to folders, so a loop cannot trap it; links to files count as files."""
    for folder, folders, names in os.walk(root):
        folders.sort()
        relative = os.path.relpath(folder, root)
        yield from names if relative == "." else (f"{relative}/{name}" for name in names)


def makedirs(directory: str) -> None:
    os.makedirs(directory, exist_ok=True)


def rename(source: str, target: str) -> None:
    os.replace(source, target)


def remove(path: str) -> None:
    pathlib.Path(path).unlink(missing_ok=True)


def remove_tree(directory: str) -> None:
    shutil.rmtree(directory, ignore_errors=True)


class Unfinished:
    """A file being written under a hidden name in the same folder. `finish` renames it; `abandon` removes it."""

    def __init__(self, path: str):
        directory, name = os.path.split(path)
        self._path = path
        self._temporary = os.path.join(directory, f".{name}.{uuid.uuid4().hex}.tmp")
        self.file = open_write(self._temporary)

    def finish(self) -> None:
        try:
            self.file.close()  # writes the remaining buffer, so the disk may be full here
            rename(self._temporary, self._path)
        finally:
            remove(self._temporary)

    def abandon(self) -> None:
        try:
            self.file.close()
        finally:
            remove(self._temporary)
