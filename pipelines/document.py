"""The Document, the unit of every refining job, and the two other kinds of elements: Rejection and DeadLetter.

An element of a job is a `Document` (still in the pipeline), a `Rejection` (a rule rejected the document, with a
reason) or a `DeadLetter` (the record could not be read or processed). Every record of a source ends as exactly one of
them, or as a duplicate, so the funnel adds up. No Beam, no file format.
"""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import msgpack

MODALITIES = ("text", "code", "image", "audio", "video")


def document_id(corpus: str, record_key: str) -> str:
    """Id by location: 128 bits as 32 hex digits.

    corpus: the corpus name.
    record_key: the record's path under the input root, with its offset or member name in the file.
    """
    digest = hashlib.blake2b(digest_size=16, person=b"castor.id.v1")
    for part in (corpus, record_key):
        data = part.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


def content_id(
    corpus: str, modality: str, text: str | None, data: bytes | None, metadata: Mapping[str, Any], kind: str = ""
) -> str:
    """Id by content: 128 bits as 32 hex digits.

    corpus: the corpus name.
    modality, text, data, metadata: everything that the source read of the record.
    kind: distinguishes ids of rejected records and of documents made of several records; empty for a record as read.

    Two records get the same id if and only if all later steps get the same input; their outputs then differ only in
    `source`.
    """
    digest = hashlib.blake2b(digest_size=16, person=b"castor.id.c1")
    described = msgpack.packb(
        [corpus, modality, kind, _sorted(metadata)], use_bin_type=True, unicode_errors="surrogatepass"
    )
    encoded = None if text is None else text.encode("utf-8", "surrogatepass")
    for part in (described, encoded, data):
        # None differs from the empty text: its length is a value that no content has.
        digest.update(((1 << 64) - 1 if part is None else len(part)).to_bytes(8, "little"))
        digest.update(part or b"")
    return digest.hexdigest()


@dataclasses.dataclass(frozen=True)
class Document:
    """One document.

    id: 32 hex digits, see `document_id` and `content_id`; stable across runs and machines.
    source: path under the input root, then `#offset=N` or `#member=NAME` for a record inside a file.
    modality: one of MODALITIES.
    text: the text, or the caption or transcript of an image, audio or video document.
    bytes: the encoded file of an image, audio or video document.
    metadata: JSON values (url, language, licence, width, ...) by name.
    """

    id: str
    source: str
    modality: str
    text: str | None = None
    bytes: "bytes | None" = None  # quoted, because `bytes` would resolve to the field
    metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def members(self) -> Sequence[Mapping[str, Any]]:
        """The files and pieces of files in a repository document (sourcecode/repository_layout.py); otherwise empty."""
        return self.metadata.get("members", ()) if self.modality == "code" else ()

    @property
    def records(self) -> int:
        """Number of source records: for a repository document, the files that begin in it; otherwise 1."""
        return sum(not member.get("piece") for member in self.members) if self.members else 1

    def replace(self, **changes) -> "Document":
        return dataclasses.replace(self, **changes)

    def with_metadata(self, **changes) -> "Document":
        return dataclasses.replace(self, metadata={**self.metadata, **changes})


@dataclasses.dataclass(frozen=True)
class Rejection:
    """A document that a rule rejected.

    document: the document at the time of the rejection. The corpus keeps an excerpt of it, or with keep_rejects all
      of it.
    reason: the reason code, also the name of the Beam counter, the funnel row and the folder of rejects.
    measure: the offending value as text; empty if the rule has none.
    """

    document: Document
    reason: str
    measure: str = ""


@dataclasses.dataclass(frozen=True)
class DeadLetter:
    """A record that could not be processed.

    id, source: of the record; `source` refers to its payload.
    stage: the stage that failed.
    error: short kind of the error.
    message: details.
    """

    id: str
    source: str
    stage: str
    error: str
    message: str = ""


Element = Document | Rejection | DeadLetter


class BadInput(Exception):
    """Raised by pure functions for input that cannot be processed; the stage turns it into a DeadLetter.

    error: short, stable kind of the error.
    message: details.
    """

    def __init__(self, error: str, message: str = ""):
        super().__init__(f"{error}: {message}" if message else error)
        self.error = error
        self.message = message

    def __reduce__(self):
        return type(self), (self.error, self.message)


def pack(element: Element) -> bytes:
    """Element -> msgpack bytes: deterministic (sorted metadata keys), safe to read from an untrusted process."""
    if isinstance(element, Document):
        return msgpack.packb(["D", *_document_fields(element)], use_bin_type=True, unicode_errors="surrogatepass")
    if isinstance(element, Rejection):
        return msgpack.packb(
            ["R", *_document_fields(element.document), element.reason, element.measure], unicode_errors="surrogatepass"
        )
    if isinstance(element, DeadLetter):
        return msgpack.packb(
            ["L", element.id, element.source, element.stage, element.error, element.message],
            unicode_errors="surrogatepass",
        )
    raise TypeError(f"not an element: {type(element).__name__}")


def unpack(data: bytes) -> Element:
    """The inverse of `pack`. Raises ValueError for other bytes."""
    kind, *fields = msgpack.unpackb(data, unicode_errors="surrogatepass", strict_map_key=True)
    if kind == "D":
        return Document(*fields)
    if kind == "R":
        *document, reason, measure = fields
        return Rejection(Document(*document), reason, measure)
    if kind == "L":
        return DeadLetter(*fields)
    raise ValueError(f"unknown element kind {kind!r}")


def _document_fields(document: Document) -> list:
    return [document.id, document.source, document.modality, document.text, document.bytes, _sorted(document.metadata)]


def _sorted(value):
    if isinstance(value, Mapping):
        return {key: _sorted(value[key]) for key in sorted(value)}
    if isinstance(value, (list, tuple)):
        return [_sorted(item) for item in value]
    return value
