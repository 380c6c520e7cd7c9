"""The Document, the unit that every refining job reads, judges and keeps, and the two other ends a document can come to.

Inside a job an element is one of three things: a `Document` (still alive), a `Rejection` (a rule said no, with a reason) or a
`DeadLetter` (it could not be read or processed). Every record that a source yields ends as exactly one of them, or as a duplicate,
which is what makes the funnel add up. This file knows neither Beam nor any file format.
"""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import msgpack

MODALITIES = ("text", "code", "image", "audio", "video")


def document_id(corpus: str, record_key: str) -> str:
    """128 bits, as 32 hex digits, from the corpus name and the record's key in it (path under the corpus root, and offset or member name)."""
    digest = hashlib.blake2b(digest_size=16, person=b"castor.id.v1")
    for part in (corpus, record_key):
        data = part.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


def content_id(
    corpus: str, modality: str, text: str | None, data: bytes | None, metadata: Mapping[str, Any], kind: str = ""
) -> str:
    """128 bits, as 32 hex digits, from the corpus name and everything that a source read of a record, but not from where the record was.

    Two records get the same id if and only if all later steps get the same input, so the output for both is the same except for `source`.
    `kind` separates what is not a record as it was read: a rejected record, a document made of several records.
    """
    digest = hashlib.blake2b(digest_size=16, person=b"castor.id.c1")
    facts = msgpack.packb(
        [corpus, modality, kind, _sorted(metadata)], use_bin_type=True, unicode_errors="surrogatepass"
    )
    encoded = None if text is None else text.encode("utf-8", "surrogatepass")
    for part in (facts, encoded, data):
        # None is not the empty text: its length is one that no content has.
        digest.update(((1 << 64) - 1 if part is None else len(part)).to_bytes(8, "little"))
        digest.update(part or b"")
    return digest.hexdigest()


@dataclasses.dataclass(frozen=True)
class Document:
    """One document.

    id: 32 hex digits, see `document_id` and `content_id`; stable over runs and machines.
    source: where it came from: path under the input root, then `#offset=N` or `#member=NAME` inside a container.
    modality: one of MODALITIES.
    text, bytes: its content; a caption or transcript is the `text` of an image, audio or video document, whose encoded file is `bytes`.
    metadata: JSON-able facts (url, language, licence, width, ...), keys are str.
    """

    id: str
    source: str
    modality: str
    text: str | None = None
    bytes: "bytes | None" = None  # quoted: the name is the field itself by the time Python reads the annotation
    metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def members(self) -> Sequence[Mapping[str, Any]]:
        """Of a repository document (pipelines/sourcecode/repository_layout.py), the files in it and pieces of files; of any other, nothing."""
        return self.metadata.get("members", ()) if self.modality == "code" else ()

    @property
    def records(self) -> int:
        """How many records of the source it stands for: of a repository document the files that are, or begin, in it; else 1."""
        return sum(not member.get("piece") for member in self.members) if self.members else 1

    def replace(self, **changes) -> "Document":
        return dataclasses.replace(self, **changes)

    def with_metadata(self, **facts) -> "Document":
        return dataclasses.replace(self, metadata={**self.metadata, **facts})


@dataclasses.dataclass(frozen=True)
class Rejection:
    """A document that a rule turned away. `reason` is the rule's reason code (also its counter, funnel row and folder of kept rejects).

    `document` keeps the document as it was when it was rejected; only its first bytes survive unless rejects are kept on request.
    `measure` is the offending value as text, empty where the rule has none.
    """

    document: Document
    reason: str
    measure: str = ""


@dataclasses.dataclass(frozen=True)
class DeadLetter:
    """A record that could not be processed. `source` refers to its payload; `stage` failed on it with `error` (kind) and `message`."""

    id: str
    source: str
    stage: str
    error: str
    message: str = ""


Element = Document | Rejection | DeadLetter


class BadInput(Exception):
    """Raised by pure functions on input that cannot be processed; the stage turns it into a DeadLetter. `error` is a short stable kind."""

    def __init__(self, error: str, message: str = ""):
        super().__init__(f"{error}: {message}" if message else error)
        self.error = error
        self.message = message

    def __reduce__(self):
        return type(self), (self.error, self.message)


def pack(element: Element) -> bytes:
    """Element -> msgpack bytes: deterministic (metadata keys sorted), safe to read back from an untrusted process."""
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
    """The inverse of `pack`. Raises ValueError on anything else."""
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
