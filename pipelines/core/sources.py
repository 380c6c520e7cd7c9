"""Files as work: which ones a job's patterns match, what a record of a file is called, and how to open what may not be a file at all.

`FileSource` is the base of every source that reads raw files: a subclass says how to read one (`records`). This file knows no Beam.
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

    name: corpus name, the first half of every document id.
    patterns: relative to `root`; `*` and `?` stay within a folder and skip hidden names, `**/` is any number of folders, a folder stands for all
      files under it that are not hidden.
    identity: what ids come from (docs/determinism.md). "location": a record's path under `root` and its key in the file. "content": all that is
      read of the record, wherever it is; only a record that cannot be read has an id from its location.

    A subclass implements `records(uri)`: it yields elements, and may raise BadInput where the rest of a file is beyond reading (it becomes
    one DeadLetter of the file; records already yielded stand). Ids and sources of records come from `document`, `dead` and `reject`.
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
        """The elements of one file; whatever makes the file unreadable becomes its last element, a DeadLetter."""
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
        """Path of a file under the root, however the root is spelled: the stable half of its records' ids by location."""
        return os.path.relpath(uri, self.root)

    def reference(self, uri: str, key: str = "") -> str:
        """`source` of the record `key` of a file or folder (a URI that ends in a slash): its path under the root, never the root itself."""
        return reference(self.relative(uri) + ("/" if uri.endswith("/") else ""), key)

    def units(self, config: Mapping[str, Any]) -> dict[str, str]:
        """`source` of each unit of work, as the corpus has it whose job was configured as `config` says -> URI.

        Before jobs had an `identity`, `source` began with INPUT_ROOT as it was spelled.
        """
        return {self.reference(uri) if "identity" in config else uri: uri for uri in self.files()}

    def record_id(self, uri: str, key: str) -> str:
        """Id by location of the record `key` (`offset=120`, `member=a/b.jpg`, or empty for the file itself) of a file."""
        return document_id(self.name, reference(self.relative(uri), key))

    def document(self, uri: str, key: str, text: str | None = None, data: bytes | None = None, **metadata) -> Document:
        """A Document for a record."""
        if self.identity == CONTENT:
            identifier = content_id(self.name, self.modality, text, data, metadata)
        else:
            identifier = self.record_id(uri, key)
        return Document(identifier, self.reference(uri, key), self.modality, text, data, metadata)

    def reject(self, uri: str, key: str, reason: str, measure: str = "", **metadata) -> Rejection:
        """A Rejection of a record that is sound but not wanted. By content its id comes from its facts and why it was rejected."""
        document = self.document(uri, key, **metadata)
        if self.identity == CONTENT:
            kind = f"rejected {reason} {measure}"
            document = document.replace(id=content_id(self.name, self.modality, None, None, metadata, kind))
        return Rejection(document, reason, measure)

    def dead(self, uri: str, key: str, error: str, message: str = "") -> DeadLetter:
        """A DeadLetter for a record, or with an empty key for (the rest of) the file. Its id comes from its location: nothing else is known."""
        return DeadLetter(self.record_id(uri, key), self.reference(uri, key), STAGE, error, message[:1000])


def reference(path: str, key: str) -> str:
    """Where a record is: `path#offset=120`."""
    return f"{path}#{key}" if key else path


def unit_of(source: str, units: Collection[str]) -> str | None:
    """The one of `units` (keys of `FileSource.units`) that holds a document or dead letter with this `source`: a file, or a folder (`a/`, `./`)."""
    candidates = [source, *(source[:i] for i, character in enumerate(source) if character == "#")]
    candidates += [source[: i + 1] for i, character in enumerate(source) if character == "/"]
    folder, slash, _ = source.rpartition("/")
    candidates.append(folder + slash + "./")
    return next((unit for unit in candidates if unit in units), None)


def open_regular(uri: str) -> BinaryIO:
    """Opens a regular file for reading. A folder, FIFO, socket or device raises BadInput, at once: reading a FIFO would wait for ever."""
    mode = storage.mode(uri)
    if not stat.S_ISREG(mode):
        raise BadInput("not_a_file", stat.filemode(mode))
    return storage.open_read(uri)


def match(root: str, patterns: tuple[str, ...] | list[str]) -> list[str]:
    """Sorted relative paths under `root` that match.

    Links to folders are not followed, so a loop cannot trap it; links to files are files.
    """
    if isinstance(patterns, str):
        raise CorpusError(f"INPUTS is the text {patterns!r}.", f"Write a list: INPUTS=[{patterns!r}].")
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
    """A glob pattern as a regular expression over slash-separated paths; it may end at a folder."""
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
