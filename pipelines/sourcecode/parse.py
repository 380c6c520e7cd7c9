"""Decodes a source file, whatever its encoding, and detects its language by name and content.

Runs in the sandbox; imports no Beam.
"""

import dataclasses
import io
import re

from castor.pipelines.document import BadInput, Document, Element, Rejection
from castor.pipelines.sourcecode.notebooks import Notebooks
from castor.pipelines.text import charset

_COOKIE = re.compile(rb"(?m)\A(?:[^\n]*\n)?[ \t\f]*(?:#|//|/\*|;|--)[^\n]{0,200}?coding[:=][ \t]*([-\w.]{2,40})")
_CONTROL = re.compile("[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")
_MAX_CONTROL = 0.001
_FEW = 0.05
_WESTERN = re.compile("[\xa0-\xff\u0152\u0153\u0160\u0161\u0178\u017d\u017e\u2013-\u2026\u20ac\u2122]")
# Tags of identify that do not name a language.
_GENERIC = frozenset(
    (
        "text",
        "binary",
        "file",
        "executable",
        "non-executable",
        "header",
        "plain-text",
        "image",
        "icon",
        "audio",
        "zip",
        "directory",
    )
)
_PLAIN = "text"
# Content decides between C and C++ if the name allows both.
_CPP = re.compile(
    r"(?m)^\s*(?:class\s+\w+|namespace\s+\w*|template\s*<|using\s+namespace|public:|private:)|\bstd::"
    r"|#include\s*<(?:iostream|string|vector"
    r"|map|memory)>"
)


@dataclasses.dataclass(frozen=True)
class Parse:
    """Document of bytes with metadata `path` -> Document of text with metadata `language` and `encoding`.

    Notebooks become scripts with metadata `notebook_language`; their language stays `jupyter`.

    plain_text: keep files that are not programs, such as LICENSE.

    notebooks: how notebooks become scripts.

    Rejects `code.binary`, `code.unknown_language`, and notebooks whose cells are all empty as `code.empty`. Raises
    BadInput: `charset` if no encoding gives valid text, `notebook` for an invalid notebook.
    """

    plain_text: bool = True
    notebooks: Notebooks = Notebooks()

    def __call__(self, document: Document) -> Element:
        data, path = document.bytes, document.metadata["path"]
        if _is_binary(data):
            return Rejection(document, "code.binary", _zero_bytes(data))
        try:
            text, encoding = decode(data)
        except BadInput:
            if b"\0" in data:
                return Rejection(document, "code.binary", _zero_bytes(data))
            raise
        controls = len(_CONTROL.findall(text))
        if controls > _MAX_CONTROL * len(text):
            return Rejection(document, "code.binary", f"{controls} control characters")
        language = language_of(path, text)
        if language is None or (language == _PLAIN and not self.plain_text):
            return Rejection(document, "code.unknown_language", path.rpartition("/")[2][:100])
        facts = {"language": language, "encoding": encoding}
        if language == "jupyter":
            text, facts["notebook_language"] = self.notebooks.script(text)
            if not text:
                return Rejection(document, "code.empty", "no cell holds anything")
        text = text.replace("\r\n", "\n").replace("\r", "\n")
        return document.replace(text=text, bytes=None).with_metadata(**facts)


def decode(data: bytes) -> tuple[str, str]:
    """(text, encoding) of a source file.

    The coding cookie in the first two lines counts as a declaration. A file with only a few non-ASCII letters, all
    Western, is read as windows-1252.

    Raises BadInput("charset").
    """
    cookie = _COOKIE.search(data[:500])
    try:
        return charset.decode(data, [cookie.group(1).decode("ascii", "ignore")] if cookie else [])
    except BadInput:
        beyond = sum(1 for byte in data if byte > 127)
        if b"\0" in data or beyond > _FEW * len(data) + 2:
            raise
        try:
            text = data.decode("cp1252")
        except UnicodeDecodeError:
            raise BadInput("charset", "neither UTF-8 nor windows-1252") from None
        if any(c > "\x7f" and not _WESTERN.match(c) for c in text):
            raise
        return text, "cp1252"


def language_of(path: str, text: str) -> str | None:
    """The language of a file: `python`, `c++`, `text` for plain text; None if neither name nor first line determines
    it.
    """
    from identify import identify, interpreters

    tags = identify.tags_from_filename(path)
    found = sorted(tags - _GENERIC)
    if "c++" in found and "c" in found:
        return "c++" if _CPP.search(text) else "c"
    if "jupyter" in found:
        return "jupyter"
    for tag in ("svg", "xsl"):
        if tag in found:
            return tag
    if found:
        return found[0]
    if "plain-text" in tags:
        return _PLAIN
    command = identify.parse_shebang(io.BytesIO(text[:500].encode("utf-8")))
    if command:
        named = sorted(interpreters.INTERPRETERS.get(command[0].rpartition("/")[2].rstrip("0123456789."), ()))
        if named:
            return named[0]
    return _by_pygments(path)


def _by_pygments(path: str) -> str | None:
    from pygments.lexers import get_lexer_for_filename
    from pygments.util import ClassNotFound

    try:
        return get_lexer_for_filename(path.rpartition("/")[2]).aliases[0]
    except (ClassNotFound, IndexError):
        return None


def _zero_bytes(data: bytes) -> str:
    return f"{data.count(0)} zero bytes"


def _is_binary(data: bytes) -> bool:
    """Whether the data has zero bytes without starting like UTF-16 or UTF-32."""
    head = data[:8192]
    if b"\0" not in head:
        return b"\0" in data
    return not data.startswith((b"\xff\xfe", b"\xfe\xff", b"\0\0\xfe\xff")) and not charset.looks_utf16(head)
