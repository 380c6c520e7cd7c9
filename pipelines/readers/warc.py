"""Reads WARC and ARC records from real-world files: every sound record, and a fault with its position for every other
one.

fastwarc and warcio read sound archives well. On a corrupt gzip member both lose the rest of the file, one of them
silently. Both return a record truncated by the end of the file as if it were complete. Both swallow the records after
one with a wrong length.

Every record of a crawl must be accounted for, so this reader is stricter. A record counts only if its whole body is
present, the end of a record follows, and the checksum of its gzip member matches. After a fault the reader continues at
the next record. In the same member that is the next `WARC/` after an empty line or before a field of a record header.
In a gzip file it is also the next member that starts with a record.

Formats: WARC 0.17 to 1.1 (iipc.github.io/warc-specifications), ARC 1 (archive.org/web/researcher/ArcFileFormat.php).
"""

import dataclasses
import re
from collections.abc import Iterator

from castor.pipelines.document import BadInput
from castor.pipelines.readers.compressed import Damaged, Members, Plain

MAX_HEADER_BYTES = 1 << 16
_NEWLINES = b"\r\n"
_BEGINNING = b"WARC/"
_MARKER = re.compile(rb"\n\r?\n(WARC/[01]\.[0-9])")
# After a fault a header may start inside a line, where the previous record was cut off.
_RESYNC = re.compile(
    rb"((?<=\n\n)WARC/[01]\.[0-9]|(?<=\n\r\n)WARC/[01]\.[0-9]|WARC/[01]\.[0-9]+\r?\n(?=(?i:warc-"
    rb"|content-)[A-Za-z-]{1,60}:))"
)
_RESYNC_BYTES = 128
_ARC_MARKER = re.compile(rb"\n((?:https?|ftp|dns):[^\s]{1,2000} \S{1,64} \d{8,14} \S{1,200} \d{1,15}\r?\n)")
_ARC_MARKER_BYTES = 4096
_VERSION = re.compile(rb"WARC/[01]\.[0-9]+\r?\n")  # 0.17 and 0.18 are the drafts that Heritrix wrote in 2008
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_ARC_LINE = re.compile(rb"([^\r\n]{1,4000}?) (\S{1,64}) (\d{8,14}) (\S{1,200}) (\d{1,15})\r?\n")


@dataclasses.dataclass(frozen=True)
class Record:
    """One record.

    key: `offset=N` of its gzip member or of the record in a plain file; `+M` adds its offset inside the member.

    headers: names in lower case -> values.

    body: bytes after the header.
    """

    key: str
    headers: dict[str, str]
    body: bytes


@dataclasses.dataclass(frozen=True)
class Fault:
    """A position at which no record could be read.

    key: as in Record.

    error: short kind.

    message: details.
    """

    key: str
    error: str
    message: str


def read_warc(members: Plain | Members, max_record_bytes: int) -> Iterator[Record | Fault]:
    """Yields the records and faults of a WARC file, in order."""
    return _read(_Cursor(members), _warc_head, _BEGINNING, max_record_bytes)


def read_arc(members: Plain | Members, max_record_bytes: int) -> Iterator[Record | Fault]:
    """Yields the records and faults of an ARC file; after a fault, continues at the next ARC header line."""
    return _read(_Cursor(members), _arc_head, b"", max_record_bytes)


class _Cursor:
    """The decompressed bytes of the current member, with a position in it."""

    def __init__(self, members: Plain | Members):
        self.members = members
        self.buffer = bytearray()
        self.within = 0
        self.member = 0
        self.ended = True

    @property
    def key(self) -> str:
        if isinstance(self.members, Plain):
            return f"offset={self.within}"
        return f"offset={self.member}+{self.within}" if self.within > 0 else f"offset={self.member}"

    def next_member(self) -> bool:
        self.buffer.clear()
        self.within = 0
        self.ended = True
        if not self.members.advance():
            return False
        self.member = self.members.offset
        self.ended = False
        return True

    def resync(self, beginning: bytes) -> bool:
        self.buffer.clear()
        self.within = 0
        self.ended = True
        return self.members.resync(beginning)

    def fill(self, count: int) -> bool:
        """Makes `count` bytes available; False if the member ends earlier."""
        while len(self.buffer) < count and not self.ended:
            piece = self.members.piece()
            if piece:
                self.buffer += piece
            else:
                self.ended = True
        return len(self.buffer) >= count

    def drop(self, count: int) -> None:
        del self.buffer[:count]
        self.within += count

    def skip_newlines(self) -> bool:
        """Goes to the next byte that is not a line end; False at the end of the member."""
        while self.fill(1):
            newlines = len(self.buffer) - len(self.buffer.lstrip(_NEWLINES))
            if newlines < len(self.buffer):
                self.drop(newlines)
                return True
            self.drop(newlines)
        return False

    def seek(self, marker: re.Pattern, longest: int) -> bool:
        """Goes to the first group of the next match in this member; False if there is none. Keeps at most one piece in
        memory.
        """
        while True:
            found = marker.search(self.buffer)
            if found:
                self.drop(found.start(1))
                return True
            self.drop(max(0, len(self.buffer) - longest))
            if not self.fill(len(self.buffer) + 1):
                return False


def _read(cursor: _Cursor, read_head, beginning: bytes, max_record_bytes: int) -> Iterator[Record | Fault]:
    some = False
    while True:
        key = cursor.key
        try:
            if not cursor.skip_newlines():
                if not cursor.next_member():
                    break
                some = True
                continue
            key = cursor.key
            fault = None
            try:
                headers, length = read_head(cursor)
                body = _body(cursor, length, beginning, max_record_bytes)
            except Damaged:
                raise
            except BadInput as error:
                fault = Fault(key, error.error, error.message)
            if fault is None:
                yield Record(key, headers, body)
                continue
            yield fault
            if cursor.key == key and cursor.buffer:
                cursor.drop(1)  # otherwise the same bad record would match again
            key = cursor.key
            if cursor.seek(*((_RESYNC, _RESYNC_BYTES) if beginning else (_ARC_MARKER, _ARC_MARKER_BYTES))):
                continue
            cursor.ended = True  # nothing left in this member
            cursor.buffer.clear()
        except Damaged as error:
            some = True
            if error.error.startswith("not_"):
                key = f"offset={cursor.members.offset}"
            yield Fault(key, error.error, error.message)
            if not cursor.resync(beginning):
                break
    if not some:
        yield Fault("", "empty", "zero bytes")


def _body(cursor: _Cursor, length: int, beginning: bytes, max_record_bytes: int) -> bytes:
    """The body of the record that starts here, after checking that the body is complete."""
    if length > max_record_bytes:
        raise BadInput("too_large", f"Content-Length {length} is over {max_record_bytes}")
    if not cursor.fill(length):
        if (beginning and _MARKER.search(cursor.buffer)) or not _goes_on(cursor, beginning, length):
            raise BadInput("short_record", f"Content-Length {length}, but the record ends earlier")
    if not _ends(cursor, length, beginning):
        raise BadInput("wrong_length", f"Content-Length {length}, but the record continues")
    body = bytes(cursor.buffer[:length])
    cursor.drop(length)
    return body


def _ends(cursor: _Cursor, length: int, beginning: bytes) -> bool:
    """Whether the record whose body starts here ends after `length` bytes, all of which are in the buffer.

    Reads past the end of the record, so that a member's checksum is verified before its record is accepted.
    """
    cursor.fill(length + 12)
    rest = bytes(cursor.buffer[length : length + 12])
    if not beginning:
        return not rest or rest[:1] in (b"\r", b"\n")
    follows = rest.lstrip(_NEWLINES)
    if not follows or beginning.startswith(follows[: len(beginning)]):
        return True
    return rest.startswith((b"\r\n\r\n", b"\n\n")) and not _MARKER.search(cursor.buffer, 0, length)


def _goes_on(cursor: _Cursor, beginning: bytes, length: int) -> bool:
    """Whether the record continues in the next members, as in files compressed by blocks. If so they are then in the
    buffer.
    """
    while len(cursor.buffer) < length:
        if not cursor.members.advance():
            return False
        piece = cursor.members.piece()
        cursor.ended = False
        if not beginning or piece.startswith(beginning):
            cursor.buffer.clear()
            # Pretend that the previous record ended properly: its end is recognized by these line ends.
            cursor.buffer += b"\r\n\r\n" + piece
            cursor.within, cursor.member = -4, cursor.members.offset
            return False
        cursor.buffer += piece
        cursor.fill(length)
    return True


def _head(cursor: _Cursor) -> bytes:
    """Consumes the lines up to the first empty line and returns them with that line."""
    searched = 0
    while True:
        for mark in (b"\r\n\r\n", b"\n\n"):
            found = cursor.buffer.find(mark, max(0, searched - 3), MAX_HEADER_BYTES)
            if found >= 0:
                other = _RESYNC.search(cursor.buffer, 1, found)
                if other:
                    cursor.drop(other.start(1))
                    raise BadInput("short_header", "another record begins inside the record header")
                head = bytes(cursor.buffer[: found + len(mark)])
                cursor.drop(found + len(mark))
                return head
        searched = len(cursor.buffer)
        if searched >= MAX_HEADER_BYTES:
            raise BadInput("huge_header", f"no end of the header in {MAX_HEADER_BYTES} bytes")
        if not cursor.fill(searched + 1):
            raise BadInput("short_header", "the member ends inside a record header")


def _warc_head(cursor: _Cursor) -> tuple[dict[str, str], int]:
    cursor.fill(16)
    if not _VERSION.match(bytes(cursor.buffer[:16])):
        raise BadInput("not_warc", f"no WARC record begins here but {bytes(cursor.buffer[:16])!r}")
    head = _head(cursor)
    try:
        lines = head.decode("utf-8").splitlines()[1:]
    except UnicodeDecodeError as error:
        _skip_body(cursor, head)
        raise BadInput("bad_header", "the record header is not UTF-8") from error
    headers: dict[str, str] = {}
    last = None
    for line in lines:
        if line[:1] in (" ", "\t") and last is not None:
            headers[last] += " " + line.strip()
        elif ":" in line:
            name, _, value = line.partition(":")
            last = name.strip().lower()
            headers.setdefault(last, value.strip())
    length = headers.get("content-length", "")
    if not re.fullmatch(r"[0-9]{1,18}", length):
        raise BadInput("bad_length", f"Content-Length {length[:40]!r}")
    if _CONTROL.search(headers.get("warc-target-uri", "")):
        _skip_body(cursor, head)
        raise BadInput("bad_header", "control characters in WARC-Target-URI")
    return headers, int(length)


def _skip_body(cursor: _Cursor, head: bytes) -> None:
    """Skips the body of a record whose header is unusable, if the body ends where Content-Length says.

    A truncated body ends earlier. Skipping Content-Length bytes would then also skip the start of the next record.
    """
    match = re.search(rb"(?mi)^content-length:[ \t]*([0-9]{1,9})[ \t]*\r?$", head)
    length = int(match.group(1)) if match else MAX_HEADER_BYTES + 1
    if length <= MAX_HEADER_BYTES and cursor.fill(length) and _ends(cursor, length, _BEGINNING):
        cursor.drop(length)


def _arc_head(cursor: _Cursor) -> tuple[dict[str, str], int]:
    cursor.fill(8192)
    line = _ARC_LINE.match(bytes(cursor.buffer[:8192]))
    if line is None:
        raise BadInput("not_arc", f"no ARC record begins here but {bytes(cursor.buffer[:40])!r}")
    cursor.drop(line.end())
    uri, _, date, kind, length = (part.decode("utf-8", "backslashreplace") for part in line.groups())
    record_type = "warcinfo" if uri.startswith("filedesc:") else "response"
    return {
        "warc-type": record_type,
        "warc-target-uri": uri,
        "warc-date": date,
        "content-type": kind,
        "content-length": length,
    }, int(length)
