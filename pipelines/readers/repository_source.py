"""Source files from repositories: each file of a folder or tar snapshot as a Document of bytes, with its licences.

A repository is a .tar, .tar.gz, .tgz or .tar.zst file, or a folder directly under the root. Files directly under the
root form one more repository. Archives are streamed twice and never extracted to disk: first for their size and
licences, then for their files. Links, devices and names that point outside are rejected by reason. This file knows no
Beam.

The name of a repository (`repository` in the metadata) is the path of its archive or the name of its folder. Under
identity by content the name is the one folder that holds all of its files, so that renaming the archive changes
nothing. A repository without such a folder then has an empty name.
"""

import dataclasses
import io
import os
import posixpath
import re
import stat
from collections.abc import Iterator
from typing import ClassVar

from castor.pipelines.core.sources import CONTENT, FileSource, match, open_regular
from castor.pipelines.core.surrogates import escape_surrogates
from castor.pipelines.document import BadInput, Element
from castor.pipelines.readers import compressed, tars
from castor.pipelines.sourcecode import licence_files, licences
from castor.tasks.storage import storage

_ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.zst")
_UNSAFE = re.compile(r"^/|^[A-Za-z]:[\\/]|(?:^|/)\.\.(?:/|$)|[\x00-\x1f\x7f]")
_VERSION_CONTROL = re.compile(r"(?:^|/)(?:\.git|\.hg|\.svn|node_modules|__pycache__)/")
_FAULTS_REJECTED = ("not_a_file", "too_large")


@dataclasses.dataclass(frozen=True)
class RepositorySource(FileSource):
    """Source files of repositories.

    max_file_bytes: larger files are rejected unread.

    max_notebook_bytes: the same for .ipynb, which embedded images inflate.

    max_archive_bytes: maximum size of one archive after decompression.
    """

    max_file_bytes: int = 1 << 20
    max_notebook_bytes: int = 8 << 20
    max_archive_bytes: int = 4 << 30

    modality: ClassVar[str] = "code"

    def files(self) -> list[str]:
        """Archives, and folders directly under the root with at least one matching file (URIs that end in a slash)."""
        units = set()
        for path in match(self.root, self.patterns):
            if path.lower().endswith(_ARCHIVES):
                units.add(storage.join(self.root, path))
            else:
                units.add(storage.join(self.root, path.split("/")[0] + "/" if "/" in path else "./"))
        return sorted(units) or super().files()

    def input_files(self) -> list[str]:
        """Every file that counts as input, including those inside folders."""
        return super().files()

    def records(self, uri: str) -> Iterator[Element]:
        if uri.endswith("/"):
            yield from self._folder(uri)
        else:
            yield from self._archive(uri)

    def _folder(self, uri: str) -> Iterator[Element]:
        top = os.path.relpath(uri, self.root)
        paths = [
            p for p in match(self.root, self.patterns) if (p.startswith(top + "/") if top != "." else "/" not in p)
        ]
        paths = [p for p in paths if not p.lower().endswith(_ARCHIVES)]
        repository = os.path.basename(os.path.abspath(uri))
        if self.identity == CONTENT and top == ".":
            repository = ""
        governing = licence_files.Governing()
        for path in _licence_files_above(self.root, top) + [
            p for p in _walk(self.root, top) if licence_files.speaks(p)
        ]:
            try:
                governing.add(path, self._content(path))
            except (BadInput, OSError):
                governing.add(path, None)
        for path in paths:
            file = storage.join(self.root, path)
            try:
                data = self._content(path)
            except BadInput as error:
                reason = "code.not_a_file" if error.error == "not_a_file" else "code.too_large"
                yield self.reject(file, "", reason, error.message, path=escape_surrogates(path))
            except OSError as error:
                yield self.dead(file, "", type(error).__name__, error.strerror or "")
            else:
                yield self._file(file, "", repository, path, data, governing)

    def _limit(self, path: str) -> int:
        return self.max_notebook_bytes if path.lower().endswith(".ipynb") else self.max_file_bytes

    def _content(self, path: str) -> bytes:
        file = storage.join(self.root, path)
        status = os.lstat(file)
        if not stat.S_ISREG(status.st_mode):
            raise BadInput("not_a_file", stat.filemode(status.st_mode))
        if status.st_size > self._limit(path):
            raise BadInput("too_large", str(status.st_size))
        return storage.read_bytes(file)

    def _archive(self, uri: str) -> Iterator[Element]:
        total, damage = self._measure(uri)
        if not total and damage:
            raise damage
        governing, tops = licence_files.Governing(), set()
        with open_regular(uri) as raw:
            for item in tars.read_members(_Forward(raw, uri, total), licences.MAX_BYTES):
                if item.name and not _UNSAFE.search(item.name):
                    folder, slash, _ = _inside(item.name).partition("/")
                    tops.add(folder if slash else "")
                if isinstance(item, tars.Member) and licence_files.speaks(item.name):
                    governing.add(_inside(item.name), item.data)
                elif (
                    item.name
                    and isinstance(item, tars.Fault)
                    and item.error == "too_large"
                    and licences.is_licence_file(item.name)
                ):
                    governing.add(_inside(item.name), None)
        if self.identity == CONTENT:
            repository = next(iter(tops)) if len(tops) == 1 else ""
        else:
            repository = re.sub(r"\.(?:tar|tgz)(?:\.\w+)?$", "", self.relative(uri), flags=re.IGNORECASE)
        occurrences: dict[str, int] = {}
        with open_regular(uri) as raw:
            for item in tars.read_members(_Forward(raw, uri, total), max(self.max_file_bytes, self.max_notebook_bytes)):
                occurrences[item.name] = occurrences.get(item.name, 0) + 1
                times = f";{occurrences[item.name]}" if occurrences[item.name] > 1 else ""
                key = f"member={item.name}{times}" if item.name else f"offset={item.offset}"
                yield self._member(uri, key, repository, item, governing)
        if damage:
            raise damage

    def _member(self, uri: str, key: str, repository: str, item, governing: licence_files.Governing) -> Element:
        if item.name and _UNSAFE.search(item.name):
            return self.reject(uri, key, "code.unsafe_path", escape_surrogates(repr(item.name))[:200])
        if isinstance(item, tars.Fault):
            if item.error in _FAULTS_REJECTED:
                return self.reject(uri, key, f"code.{item.error}", item.message, path=escape_surrogates(item.name))
            return self.dead(uri, key, item.error, item.message)
        if len(item.data) > self._limit(item.name):
            return self.reject(uri, key, "code.too_large", str(len(item.data)), path=escape_surrogates(item.name))
        return self._file(uri, key, repository, _inside(item.name), item.data, governing)

    def _file(
        self, uri: str, key: str, repository: str, path: str, data: bytes, governing: licence_files.Governing
    ) -> Element:
        facts = {"path": escape_surrogates(path), "repository": escape_surrogates(repository)}
        aside = _VERSION_CONTROL.search(path)
        if aside:
            return self.reject(uri, key, "code.not_source", aside.group().strip("/"), **facts)
        if not data.strip():
            return self.reject(uri, key, "code.empty", f"{len(data)} bytes", **facts)
        decision = governing.of(path)
        return self.document(
            uri,
            key,
            data=data,
            licence=decision.expression,
            licences=list(decision.ids),
            licence_from=[escape_surrogates(p) for p in decision.files],
            **facts,
        )

    def _measure(self, uri: str) -> tuple[int, BadInput | None]:
        """(bytes after decompression up to any damage, the damage or None).

        Raises BadInput("too_large").
        """
        total = 0
        with open_regular(uri) as raw:
            members = _open(raw, uri)
            try:
                while members.advance():
                    while piece := members.piece():
                        total += len(piece)
                        if total > self.max_archive_bytes:
                            raise BadInput("too_large", f"over {self.max_archive_bytes} bytes unpacked")
            except compressed.Damaged as error:
                return total, error
        return total, None


class _Forward(io.RawIOBase):
    """The decompressed content of an archive as a forward-only file. `size` is known in advance."""

    def __init__(self, raw, uri: str, size: int):
        self._members = _open(raw, uri)
        self._size = size
        self._position = 0  # of the caller
        self._at = 0  # of the first byte of _buffer
        self._buffer = b""
        self._live = False

    def readable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        self._position = offset + (self._size if whence == 2 else self._position if whence == 1 else 0)
        return self._position

    def read(self, count: int = -1) -> bytes:
        end = self._size if count < 0 else min(self._size, self._position + count)
        if self._position < self._at:
            raise OSError("an archive is read forward only")
        parts = []
        while self._position < end:
            if self._position >= self._at + len(self._buffer):
                self._at += len(self._buffer)
                self._buffer = self._piece()
                if not self._buffer:
                    break
                continue
            part = self._buffer[self._position - self._at : end - self._at]
            parts.append(part)
            self._position += len(part)
        return b"".join(parts)

    def _piece(self) -> bytes:
        while True:
            if not self._live:
                if not self._members.advance():
                    return b""
                self._live = True
            piece = self._members.piece()
            if piece:
                return piece
            self._live = False


def _open(raw, uri: str):
    name = uri.lower()
    return compressed.open_members(raw, name + ".gz" if name.endswith(".tgz") else name)


def _inside(name: str) -> str:
    """The name of a member as a plain relative path."""
    return posixpath.normpath(name).removeprefix("./")


def _walk(root: str, top: str) -> list[str]:
    """Relative paths of all files in a repository's folder, without hidden files.

    For the repository of files directly under the root: only those files.
    """
    if top == ".":
        return sorted(name for name in os.listdir(root) if os.path.isfile(os.path.join(root, name)))
    return match(root, (top,))


def _licence_files_above(root: str, top: str) -> list[str]:
    """Licence files directly under the root. They govern every folder without a licence file of its own."""
    if top == ".":
        return []
    return sorted(
        name for name in os.listdir(root) if licences.is_licence_file(name) and os.path.isfile(os.path.join(root, name))
    )
