"""Objects of Google Cloud Storage: what tasks/storage/storage.py does with a path that begins with gs://.

What a bucket is not: it has no folders (a folder is there while an object's name begins with it), no rename (an object is copied, on the
server, and then removed) and no mapping. What it is: an object appears whole or not at all, and each write gives it a new generation.

Writing goes by preconditions on the generation that was there before, so that the client may repeat a request whose answer was lost, and
two tries at the same shard end as one of them. A commit is a sequence, not an instant: the manifest goes first, files follow, the manifest
comes back last; readers trust only the manifest, by size and checksum, so killed at any point there is a whole cache or none.

Reading at random is reading a copy: `map_bytes` fetches an object once a generation into $CASTOR_CACHE (else $XDG_CACHE_HOME/castor/objects,
else ~/.cache/castor/objects) and maps that. Copies never change and are never removed by Castor; removing them is always safe.

The library is google-cloud-storage, with its own credentials (application default ones) and its own emulator variable (STORAGE_EMULATOR_HOST).
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
_LOOK_SECONDS = 60.0
"""How long a look at an object counts: for one that is about to be opened, and for one that is in use."""

_looks: dict[str, tuple[float, tuple[int, int, int]]] = {}
"""Of each path looked at: when (monotonic, seconds) and its identity (generation, bytes, time of change in ns)."""


def open_read(path: str) -> BinaryIO:
    return io.BufferedReader(_Reader(_blob(path), path), _PIECE_BYTES)


def map_bytes(path: str) -> np.ndarray:
    return local.map_bytes(_copy(path))


def identity(path: str) -> tuple[int, int, int]:
    seen = _looks.get(path)
    return seen[1] if seen and time.monotonic() - seen[0] < _FRESH_SECONDS else _look(path)


def is_unchanged(path: str, known: tuple[int, int, int]) -> bool:
    seen = _looks.get(path)
    try:
        return (seen[1] if seen and time.monotonic() - seen[0] < _LOOK_SECONDS else _look(path)) == tuple(known)
    except FileNotFoundError:
        return False


def prefetch_metadata(directory: str) -> None:
    """One listing instead of a question for each object."""
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
    """(content, generation) of an object; None where there is none."""
    from google.api_core.exceptions import PreconditionFailed

    while (found := _find(path)) is not None:
        with contextlib.suppress(FileNotFoundError, PreconditionFailed), _as_oserror(path):  # replaced since
            return found.download_as_bytes(raw_download=True, if_generation_match=found.generation), found.generation
    return None


def write_generation(path: str, data: bytes, replaces: int) -> int | None:
    """Writes an object over its generation `replaces` (0: where there is none). Returns the new one; None if it differs."""
    from google.api_core.exceptions import PreconditionFailed

    bucket, name = _split(path)
    with _as_oserror(path), contextlib.suppress(PreconditionFailed):
        blob = _client().bucket(bucket).blob(name)
        blob.upload_from_string(data, "application/json", if_generation_match=replaces, checksum="auto")
        return blob.generation
    return None


def remove_generation(path: str, generation: int) -> None:
    """Removes an object if this is its generation; fine if it is gone or another is there."""
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
        names = {blob.name[prefix:] for blob in found}  # the prefixes are known when the listing has been read
        return sorted((names | {folder[prefix:].rstrip("/") for folder in found.prefixes}) - {""})


def walk(root: str) -> Iterator[str]:
    prefix, top = len(_prefix(root)), root.rstrip("/")
    with _as_oserror(root):
        for blob in _list(root):
            name = blob.name[prefix:]
            if name and not name.endswith("/"):  # some tools mark a folder with an empty object
                _remember(f"{top}/{name}", blob)
                yield name


def makedirs(directory: str) -> None:
    """A folder of a bucket is there when something is in it. The bucket itself must be."""
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

    _looks.pop(path, None)
    with _as_oserror(path), contextlib.suppress(NotFound):
        bucket, name = _split(path)
        _client().bucket(bucket).blob(name).delete(retry=_retry())


def remove_tree(directory: str) -> None:
    with contextlib.suppress(OSError):
        _each(remove, [f"{directory.rstrip('/')}/{name}" for name in walk(directory)])


class Unfinished:
    """An object being written: to a file without a name first, so that an object is begun only when its bytes are all known."""

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
    """A generation of an object as a file that can be read anywhere, a request for each read: to be buffered."""

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
            raise OSError(errno.EINVAL, "before the beginning of the file", self._path)
        self._position = start + offset
        return self._position

    def readinto(self, buffer) -> int:
        end = min(self._position + len(buffer), self._blob.size)
        if end <= self._position:
            return 0
        with _as_oserror(self._path):
            # No checksum: the library has them for whole objects only. What is read of caches and corpora is checked by their manifests.
            data = self._blob.download_as_bytes(start=self._position, end=end - 1, raw_download=True, checksum=None)
        if len(data) != end - self._position:
            raise OSError(errno.EIO, f"{len(data)} bytes came where {end - self._position} were asked for", self._path)
        buffer[: len(data)] = data
        self._position = end
        return len(data)


def _copy(path: str) -> str:
    """The path of this machine's copy of an object as it stands now."""
    blob = _blob(path)
    cache = os.environ.get("CASTOR_CACHE") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "castor", "objects"
    )
    place = pathlib.Path(cache, hashlib.sha256(path.encode()).hexdigest()[:32], str(blob.generation))
    if not (place.is_file() and place.stat().st_size == blob.size):
        place.parent.mkdir(parents=True, exist_ok=True)
        unfinished = place.with_name(f".{place.name}.{uuid.uuid4().hex}.tmp")
        try:
            with _as_oserror(path):
                blob.download_to_filename(str(unfinished), raw_download=True, checksum="auto")
            os.replace(unfinished, place)
        finally:
            unfinished.unlink(missing_ok=True)
    return str(place)


def _upload(path: str, send: Callable[..., None]) -> None:
    """Replaces an object, whatever is there, in a way that may be repeated."""
    from google.api_core.exceptions import PreconditionFailed

    bucket, name = _split(path)
    for number in range(_TRIES):
        found = _find(path)
        with _as_oserror(path):
            try:
                blob = _client().bucket(bucket).blob(name)
                send(blob, if_generation_match=found.generation if found is not None else 0, checksum="auto")
            except PreconditionFailed:  # another try at the same file came between, or this one's answer was lost
                time.sleep(random.uniform(0, 0.05 * 2**number))
                continue
        _looks.pop(path, None)
        return
    raise OSError(errno.EBUSY, "others keep writing to it", path)


def _move(pair: tuple[str, str]) -> None:
    _copy_object(pair)
    remove(pair[0])


def _copy_object(pair: tuple[str, str]) -> None:
    """Copies an object within Google's servers."""
    source, target = pair
    blob = _blob(source)
    bucket, name = _split(target)
    with _as_oserror(source):
        destination = _client().bucket(bucket).blob(name)
        token = None
        while True:  # a large object, or one of another storage class, takes several calls
            token, _, _ = destination.rewrite(
                blob, token=token, if_source_generation_match=blob.generation, retry=_retry()
            )
            if token is None:
                break
    _looks.pop(target, None)


def _folders(name: str) -> Iterable[str]:
    """`a/b/c` -> `a`, `a/b`."""
    parts = name.split("/")
    return ("/".join(parts[:i]) for i in range(1, len(parts)))


def _each(function: Callable[[Any], None], arguments: list) -> None:
    """Calls `function` for each argument, several at a time; raises the first error."""
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(function, arguments))


def _look(path: str) -> tuple[int, int, int]:
    try:
        return _remember(path, _blob(path))
    except FileNotFoundError:
        _looks.pop(path, None)
        raise


def _remember(path: str, blob) -> tuple[int, int, int]:
    found = int(blob.generation), int(blob.size), round(blob.updated.timestamp() * 1e6) * 1000
    _looks[path] = time.monotonic(), found
    return found


def _blob(path: str):
    """An object as it stands now, bound to its generation. Raises FileNotFoundError."""
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
    """A client for each process: its connections do not outlive a fork."""
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
    """The library's errors as those of a file system; PreconditionFailed is for the caller."""
    import requests.exceptions
    from google.api_core import exceptions
    from google.auth.exceptions import GoogleAuthError

    try:
        yield
    except exceptions.PreconditionFailed:
        raise
    except exceptions.NotFound as error:
        raise FileNotFoundError(errno.ENOENT, f"there is no such object or bucket: {error.message}", path) from error
    except (exceptions.Forbidden, exceptions.Unauthorized, GoogleAuthError) as error:
        raise PermissionError(errno.EACCES, f"Google Cloud Storage refuses: {error}", path) from error
    except (exceptions.GoogleAPIError, requests.exceptions.RequestException) as error:
        raise OSError(errno.EIO, f"Google Cloud Storage: {error}", path) from error
