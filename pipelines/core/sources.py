"""Raw files as units of work: matching patterns, ids and references of records, and safe opening.

`FileSource` is the base class of every source that reads raw files. A subclass implements the reading of one file
(`records`). No Beam.
"""

import dataclasses
import os
import re
import stat
from collections.abc import Collection, Iterator, Mapping
from typing import Any, BinaryIO, ClassVar

from castor.pipelines.document import BadInput, DeadLetter, Document, Element, Rejection, content_id, document_id
from castor.tasks.errors import CorpusError
from castor.tasks.storage import storage

STAGE = "source"
LOCATION, CONTENT = "location", "content"
IDENTITIES = (LOCATION, CONTENT)


@dataclasses.dataclass(frozen=True)
class FileSource:
    """The regular files under `root` that match any of `patterns`.

    name: corpus name; part of every document id.
    root: input folder.
    patterns: glob patterns relative to `root`. `*` and `?` match within a folder and skip hidden names, `**/` matches
      any number of folders. A folder matches all files under it that are not hidden.
    identity: what ids are made of (docs/determinism.md). "location": a record's path under `root` and its key in the
      file. "content": everything read of the record, wherever it is. A record that cannot be read always gets an id
      from its location.

    A subclass implements `records(uri)`, which yields elements. If the rest of a file cannot be read, it raises
    BadInput: the error becomes one DeadLetter of the file, and the records already yielded stay valid. Ids and
    sources of records come from `document`, `dead` and `reject`.
    """

    name: str
    root: str
    patterns: tuple[str, ...]
    identity: str = dataclasses.field(default=LOCATION, kw_only=True)

    modality: ClassVar[str] = "text"

    def files(self) -> list[str]:
        """Sorted URIs, without repeats. Raises CorpusError if nothing matches."""
        found = [storage.join(self.root, path) for path in match(self.root, self.patterns)]
        if not found:
            raise CorpusError(
                f"no file under {self.root} matches {', '.join(self.patterns)}.", "Correct INPUT_ROOT or INPUTS."
            )
        return found

    def read(self, uri: str) -> Iterator[Element]:
        """The elements of one file. An error that makes the file unreadable becomes the last element, a DeadLetter."""
        try:
            yield from self.records(uri)
        except BadInput as error:
            yield self.dead(uri, "", error.error, error.message)
        except OSError as error:
            yield self.dead(uri, "", type(error).__name__, error.strerror or str(error))
        except (ValueError, EOFError, MemoryError, RecursionError) as error:
            yield self.dead(uri, "", f"exception:{type(error).__name__}", str(error))

    def records(self, uri: str) -> Iterator[Element]:
        raise NotImplementedError

    def relative(self, uri: str) -> str:
        """Path of a file under the root, independent of the spelling of the root. Ids by location contain it."""
        return os.path.relpath(uri, self.root)

    def reference(self, uri: str, key: str = "") -> str:
        """`source` of a record: the path under the root, then `#key`.

        uri: a file, or a folder with a slash at the end.
        key: the record's key in the file; empty for the file itself.
        """
        return reference(self.relative(uri) + ("/" if uri.endswith("/") else ""), key)

    def units(self, config: Mapping[str, Any]) -> dict[str, str]:
        """{`source` of a unit of work: URI}, with sources as in the corpus of a job with configuration `config`.

        In corpora made before jobs had an `identity`, sources begin with INPUT_ROOT as the user wrote it.
        """
        return {self.reference(uri) if "identity" in config else uri: uri for uri in self.files()}

    def record_id(self, uri: str, key: str) -> str:
        """Id by location of a record; `key` is `offset=120`, `member=a/b.jpg`, or empty for the file itself."""
        return document_id(self.name, reference(self.relative(uri), key))

    def document(self, uri: str, key: str, text: str | None = None, data: bytes | None = None, **metadata) -> Document:
        """A Document of a record. Arguments as for `reference`; `metadata` are its fields."""
        if self.identity == CONTENT:
            identifier = content_id(self.name, self.modality, text, data, metadata)
        else:
            identifier = self.record_id(uri, key)
        return Document(identifier, self.reference(uri, key), self.modality, text, data, metadata)

    def reject(self, uri: str, key: str, reason: str, measure: str = "", **metadata) -> Rejection:
        """A Rejection of a readable record. With ids by content, its id is made of its metadata and the reason."""
        document = self.document(uri, key, **metadata)
        if self.identity == CONTENT:
            kind = f"rejected {reason} {measure}"
            document = document.replace(id=content_id(self.name, self.modality, None, None, metadata, kind))
        return Rejection(document, reason, measure)

    def dead(self, uri: str, key: str, error: str, message: str = "") -> DeadLetter:
        """A DeadLetter of a record, or with an empty key of the (rest of the) file.

        The id is made of the location, because the content is unknown.
        """
        return DeadLetter(self.record_id(uri, key), self.reference(uri, key), STAGE, error, message[:1000])


def reference(path: str, key: str) -> str:
    """The `source` of a record: `path#offset=120`."""
    return f"{path}#{key}" if key else path


def unit_of(source: str, units: Collection[str]) -> str | None:
    """The unit of work that contains the record with this `source`: a file or a folder (`a/`, `./`), or None.

    units: keys of `FileSource.units`.
    """
    candidates = [source, *(source[:i] for i, character in enumerate(source) if character == "#")]
    candidates += [source[: i + 1] for i, character in enumerate(source) if character == "/"]
    folder, slash, _ = source.rpartition("/")
    candidates.append(folder + slash + "./")
    return next((unit for unit in candidates if unit in units), None)


def open_regular(uri: str) -> BinaryIO:
    """Opens a regular file for reading.

    Raises BadInput("not_a_file") for a folder, FIFO, socket or device, before opening: reading a FIFO could block for
    ever.
    """
    mode = storage.mode(uri)
    if not stat.S_ISREG(mode):
        raise BadInput("not_a_file", stat.filemode(mode))
    return storage.open_read(uri)


def match(root: str, patterns: tuple[str, ...] | list[str]) -> list[str]:
    """Sorted paths, relative to `root`, of the files that match any of `patterns` (see FileSource).

    Links to folders are not followed, so that a loop of links does no harm; links to files count as files. Raises
    CorpusError if `patterns` is a string or `root` is not a folder.
    """
    if isinstance(patterns, str):
        raise CorpusError(f"INPUTS is the string {patterns!r}.", f"Write a list: INPUTS=[{patterns!r}].")
    if not storage.is_directory(root):
        raise CorpusError(f"the input folder {root} does not exist.", "Correct INPUT_ROOT.")
    expressions = [_compile(pattern.removeprefix("./").rstrip("/")) for pattern in patterns]
    found = []
    for path in storage.walk(root):
        for expression in expressions:
            m = expression.match(path)
            if m and not any(part.startswith(".") for part in path[m.end() :].split("/")):
                found.append(path)
                break
    return sorted(found)


def _compile(pattern: str) -> re.Pattern:
    """A glob pattern as a regular expression for slash-separated paths. It may match a leading folder of a path."""
    if pattern in ("", "."):
        return re.compile("")
    out, i = [], 0
    while i < len(pattern):
        start = i == 0 or pattern[i - 1] == "/"
        hidden = r"(?!\.)" if start else ""
        if pattern.startswith("**/", i) and start:
            out.append(r"(?:(?!\.)[^/]+/)*")
            i += 3
        elif pattern.startswith("**", i) and start and i + 2 == len(pattern):
            out.append(r"(?!\.)[^/]+(?:/(?!\.)[^/]+)*")
            i += 2
        elif pattern[i] == "*":
            out.append(hidden + "[^/]*")
            i += 1
        elif pattern[i] == "?":
            out.append(hidden + "[^/]")
            i += 1
        elif pattern[i] == "[" and "]" in pattern[i + 2 :]:
            end = pattern.index("]", i + 2)
            body = pattern[i + 1 : end].replace("\\", "\\\\")
            out.append("[" + ("^" + body[1:] if body[0] in "!^" else body) + "]")
            i = end + 1
        else:
            out.append(re.escape(pattern[i]))
            i += 1
    return re.compile("".join(out) + "(?:/|$)")
