"""Google Cloud Storage: implements the functions of tasks/storage/storage.py for paths that start with gs://.

A bucket has no folders (a folder exists while an object's name starts with it), no rename (an object is copied on the
server, then removed) and no memory map. An object appears complete or not at all, and every write gives it a new
generation.

Writes use preconditions on the previous generation. The client may therefore repeat a request whose response was
lost, and two attempts at one shard end as one of them. A commit is a sequence of requests: the manifest is removed
first, files follow, and the new manifest is written last. Readers trust only the manifest, by size and checksum, so a
process killed at any point leaves a complete cache or none.

Random reads use a local copy. `map_bytes` fetches an object, once per generation, into $CASTOR_CACHE (or
$XDG_CACHE_HOME/castor/objects, or ~/.cache/castor/objects) and maps the copy. Castor never changes or removes copies;
removing them is always safe.

The library is google-cloud-storage, with application default credentials and its emulator variable
STORAGE_EMULATOR_HOST.
"""

import concurrent.futures
import contextlib
import errno
import functools
import hashlib
import io
import os
import pathlib
import random
import stat
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO

import numpy as np

from castor.tasks.errors import ConfigurationError
from castor.tasks.storage import local

_PIECE_BYTES = 8 << 20
_THREADS = 16
_TRIES = 8
_FRESH_SECONDS = 5.0
_CACHED_SECONDS = 60.0
"""How long cached metadata of an object counts: before opening the object, and while the object is in use."""

_metadata: dict[str, tuple[float, tuple[int, int, int]]] = {}
"""Cached metadata: path -> (monotonic time in s, identity (generation, bytes, mtime in ns))."""


def open_read(path: str) -> BinaryIO:
    return io.BufferedReader(_Reader(_blob(path), path), _PIECE_BYTES)


def map_bytes(path: str) -> np.ndarray:
    return local.map_bytes(_copy(path))


def identity(path: str) -> tuple[int, int, int]:
    cached = _metadata.get(path)
    return cached[1] if cached and time.monotonic() - cached[0] < _FRESH_SECONDS else _fetch_metadata(path)


def is_unchanged(path: str, known: tuple[int, int, int]) -> bool:
    cached = _metadata.get(path)
    try:
        is_valid = cached and time.monotonic() - cached[0] < _CACHED_SECONDS
        return (cached[1] if is_valid else _fetch_metadata(path)) == tuple(known)
    except FileNotFoundError:
        return False


def prefetch_metadata(directory: str) -> None:
    """One listing instead of one request per object."""
    for _ in walk(directory):
        pass


def state(path: str) -> list[int]:
    generation, size, _ = identity(path)
    return [size, generation]


def mode(path: str) -> int:
    if path.rstrip("/") == path and _find(path) is not None:
        return stat.S_IFREG | 0o644
    if is_directory(path):
        return stat.S_IFDIR | 0o755
    raise _missing(path)


def write_bytes_atomic(path: str, data: bytes, sync: bool) -> None:
    _upload(path, lambda blob, **options: blob.upload_from_string(data, "application/octet-stream", **options))


def read_generation(path: str) -> tuple[bytes, int] | None:
    """(content, generation) of an object; None if it does not exist.

    path: URI of the object.
    """
    from google.api_core.exceptions import PreconditionFailed

    while (found := _find(path)) is not None:
        with contextlib.suppress(FileNotFoundError, PreconditionFailed), _as_oserror(path):  # replaced meanwhile
            return found.download_as_bytes(raw_download=True, if_generation_match=found.generation), found.generation
    return None


def write_generation(path: str, data: bytes, replaces: int) -> int | None:
    """Writes an object if its generation is `replaces` (0: if it does not exist). Returns the new generation, or None.

    path: URI of the object.

    data: content.

    replaces: expected generation.
    """
    from google.api_core.exceptions import PreconditionFailed

    bucket, name = _split(path)
    with _as_oserror(path), contextlib.suppress(PreconditionFailed):
        blob = _client().bucket(bucket).blob(name)
        blob.upload_from_string(data, "application/json", if_generation_match=replaces, checksum="auto")
        return blob.generation
    return None


def remove_generation(path: str, generation: int) -> None:
    """Removes an object if its generation is `generation`; otherwise does nothing."""
    from google.api_core.exceptions import NotFound, PreconditionFailed

    bucket, name = _split(path)
    with _as_oserror(path), contextlib.suppress(NotFound, PreconditionFailed):
        _client().bucket(bucket).blob(name).delete(if_generation_match=generation, retry=_retry())


def exists(path: str) -> bool:
    return (path.rstrip("/") == path and _find(path) is not None) or is_directory(path)


def is_directory(path: str) -> bool:
    with _as_oserror(path):
        return next(iter(_list(path, max_results=1)), None) is not None


def size(path: str) -> int:
    return _blob(path).size


def list_files(directory: str) -> list[str]:
    with _as_oserror(directory):
        found = _list(directory, delimiter="/")
        prefix = len(_prefix(directory))
        names = {blob.name[prefix:] for blob in found}  # `prefixes` is complete only after iterating over the listing
        return sorted((names | {folder[prefix:].rstrip("/") for folder in found.prefixes}) - {""})


def walk(root: str) -> Iterator[str]:
    prefix, top = len(_prefix(root)), root.rstrip("/")
    with _as_oserror(root):
        for blob in _list(root):
            name = blob.name[prefix:]
            if name and not name.endswith("/"):  # some tools mark folders with empty objects
                _remember(f"{top}/{name}", blob)
                yield name


def makedirs(directory: str) -> None:
    """Checks that the bucket exists. A folder of a bucket exists as soon as it has an object."""
    with _as_oserror(directory):
        next(iter(_list(directory, max_results=1)), None)


def rename(source: str, target: str) -> None:
    if _find(source) is not None:
        _move((source, target))
        return
    names = list(walk(source))
    if not names:
        raise _missing(source)
    _each(_move, [(f"{source.rstrip('/')}/{name}", f"{target.rstrip('/')}/{name}") for name in names])


def move(source: str, target: str, names: list[str]) -> None:
    """Each name is an object or a folder of objects."""
    pairs, wanted = [], set(names)
    for name in walk(source):
        if name in wanted or not wanted.isdisjoint(_folders(name)):
            pairs.append((f"{source.rstrip('/')}/{name}", f"{target.rstrip('/')}/{name}"))
    _each(_move, pairs)


def copy(source: str, target: str, names: Iterable[str]) -> None:
    _each(_copy_object, [(f"{source.rstrip('/')}/{name}", f"{target.rstrip('/')}/{name}") for name in names])


def remove(path: str) -> None:
    from google.api_core.exceptions import NotFound

    _metadata.pop(path, None)
    with _as_oserror(path), contextlib.suppress(NotFound):
        bucket, name = _split(path)
        _client().bucket(bucket).blob(name).delete(retry=_retry())


def remove_tree(directory: str) -> None:
    with contextlib.suppress(OSError):
        _each(remove, [f"{directory.rstrip('/')}/{name}" for name in walk(directory)])


class Unfinished:
    """An object being written: first to an anonymous local file, so that the upload starts when all bytes are known."""

    def __init__(self, path: str):
        self._path = path
        self.file = tempfile.TemporaryFile()

    def finish(self) -> None:
        with self.file:
            _upload(
                self._path,
                lambda blob, **options: blob.upload_from_file(
                    self.file, rewind=True, content_type="application/octet-stream", **options
                ),
            )

    def abandon(self) -> None:
        self.file.close()


class _Reader(io.RawIOBase):
    """A generation of an object as a seekable file. Every read is one request, so it should be buffered."""

    def __init__(self, blob, path: str):
        self._blob = blob
        self._path = path
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._blob.size}[whence]
        if start + offset < 0:
            raise OSError(errno.EINVAL, "seek before the start of the file", self._path)
        self._position = start + offset
        return self._position

    def readinto(self, buffer) -> int:
        end = min(self._position + len(buffer), self._blob.size)
        if end <= self._position:
            return 0
        with _as_oserror(self._path):
            # No checksum: the library checks only whole objects. Manifests have checksums for caches and corpora.
            data = self._blob.download_as_bytes(start=self._position, end=end - 1, raw_download=True, checksum=None)
        if len(data) != end - self._position:
            raise OSError(errno.EIO, f"received {len(data)} of {end - self._position} requested bytes", self._path)
        buffer[: len(data)] = data
        self._position = end
        return len(data)


def _copy(path: str) -> str:
    """The path of the local copy of an object's present generation."""
    blob = _blob(path)
    cache = os.environ.get("CASTOR_CACHE") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "castor", "objects"
    )
    copy = pathlib.Path(cache, hashlib.sha256(path.encode()).hexdigest()[:32], str(blob.generation))
    if not (copy.is_file() and copy.stat().st_size == blob.size):
        copy.parent.mkdir(parents=True, exist_ok=True)
        unfinished = copy.with_name(f".{copy.name}.{uuid.uuid4().hex}.tmp")
        try:
            with _as_oserror(path):
                blob.download_to_filename(str(unfinished), raw_download=True, checksum="auto")
            os.replace(unfinished, copy)
        finally:
            unfinished.unlink(missing_ok=True)
    return str(copy)


def _upload(path: str, send: Callable[..., None]) -> None:
    """Replaces an object unconditionally, with requests that may be repeated."""
    from google.api_core.exceptions import PreconditionFailed

    bucket, name = _split(path)
    for number in range(_TRIES):
        found = _find(path)
        with _as_oserror(path):
            try:
                blob = _client().bucket(bucket).blob(name)
                send(blob, if_generation_match=found.generation if found is not None else 0, checksum="auto")
            except PreconditionFailed:  # a concurrent write came first, or the response to this write was lost
                time.sleep(random.uniform(0, 0.05 * 2**number))
                continue
        _metadata.pop(path, None)
        return
    raise OSError(errno.EBUSY, f"{_TRIES} attempts failed because of concurrent writes", path)


def _move(pair: tuple[str, str]) -> None:
    _copy_object(pair)
    remove(pair[0])


def _copy_object(pair: tuple[str, str]) -> None:
    """Copies an object on the server."""
    source, target = pair
    blob = _blob(source)
    bucket, name = _split(target)
    with _as_oserror(source):
        destination = _client().bucket(bucket).blob(name)
        token = None
        while True:  # a large object, or one of another storage class, needs several calls
            token, _, _ = destination.rewrite(
                blob, token=token, if_source_generation_match=blob.generation, retry=_retry()
            )
            if token is None:
                break
    _metadata.pop(target, None)


def _folders(name: str) -> Iterable[str]:
    """The folders of a name: `a/b/c` -> `a`, `a/b`."""
    parts = name.split("/")
    return ("/".join(parts[:i]) for i in range(1, len(parts)))


def _each(function: Callable[[Any], None], arguments: list) -> None:
    """Calls `function` for each argument in threads; raises the first error."""
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(function, arguments))


def _fetch_metadata(path: str) -> tuple[int, int, int]:
    try:
        return _remember(path, _blob(path))
    except FileNotFoundError:
        _metadata.pop(path, None)
        raise


def _remember(path: str, blob) -> tuple[int, int, int]:
    found = int(blob.generation), int(blob.size), round(blob.updated.timestamp() * 1e6) * 1000
    _metadata[path] = time.monotonic(), found
    return found


def _blob(path: str):
    """An object in its present generation. Raises FileNotFoundError."""
    found = _find(path)
    if found is None:
        raise _missing(path)
    _remember(path, found)
    return found


def _find(path: str):
    bucket, name = _split(path)
    if not name:
        return None
    with _as_oserror(path):
        return _client().bucket(bucket).get_blob(name)


def _list(directory: str, **options):
    return _client().list_blobs(_split(directory)[0], prefix=_prefix(directory), **options)


def _prefix(directory: str) -> str:
    name = _split(directory)[1].rstrip("/")
    return f"{name}/" if name else ""


def _split(path: str) -> tuple[str, str]:
    bucket, _, name = path.removeprefix("gs://").partition("/")
    if ".." in name.split("/"):
        name = os.path.normpath(name)
    if not bucket:
        raise ConfigurationError(f"{path} names no bucket.", "Write gs://BUCKET/PATH.")
    return bucket, name


def _missing(path: str) -> FileNotFoundError:
    return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)


def _client():
    return _client_of(os.getpid())


@functools.cache
def _client_of(process: int):
    """A client per process: connections do not survive a fork."""
    import google.cloud.storage as storage
    from google.auth.exceptions import GoogleAuthError

    try:
        return storage.Client()
    except GoogleAuthError as error:
        raise ConfigurationError(
            f"gs:// paths need Google's credentials: {' '.join(str(error).split())[:200]}",
            "Run gcloud auth application-default login, or set GOOGLE_APPLICATION_CREDENTIALS.",
        ) from error


def _retry():
    from google.cloud.storage.retry import DEFAULT_RETRY

    return DEFAULT_RETRY


@contextlib.contextmanager
def _as_oserror(path: str) -> Iterator[None]:
    """Raises the library's errors as OSErrors. PreconditionFailed passes through to the caller."""
    import requests.exceptions
    from google.api_core import exceptions
    from google.auth.exceptions import GoogleAuthError

    try:
        yield
    except exceptions.PreconditionFailed:
        raise
    except exceptions.NotFound as error:
        raise FileNotFoundError(errno.ENOENT, f"object or bucket not found: {error.message}", path) from error
    except (exceptions.Forbidden, exceptions.Unauthorized, GoogleAuthError) as error:
        raise PermissionError(errno.EACCES, f"Google Cloud Storage denied access: {error}", path) from error
    except (exceptions.GoogleAPIError, requests.exceptions.RequestException) as error:
        raise OSError(errno.EIO, f"Google Cloud Storage: {error}", path) from error
