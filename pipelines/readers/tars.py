"""A tar reader for untrusted archives.

Python's `tarfile` gives up an archive at its first bad header, follows its sizes and trusts its names. Here an archive
is a stream of members and faults:

- After a bad header the reader searches for the next header with a valid checksum. Where bytes were lost or added, that
  header is not at a multiple of 512.
- A size that does not fit is a fault, not an allocation.
- Nothing is written anywhere. Links, devices and pipes are reported, not followed.

Reads GNU, POSIX (pax) and old tar, uncompressed, with one member in memory at a time.
"""

import dataclasses
from collections.abc import Iterator
from typing import BinaryIO

BLOCK = 512
_MAX_EXTENDED = 1 << 20  # a long name or a pax header
_REGULAR = (b"0", b"\0", b"7")
_DIRECTORY, _LONG_NAME, _LONG_LINK, _PAX, _PAX_GLOBAL, _SOLARIS = b"5", b"L", b"K", b"x", b"g", b"X"
_MAGIC, _MAGIC_AT = b"ustar", 257
_KEPT = 16 * BLOCK
_KINDS = {
    b"1": "hard link",
    b"2": "symbolic link",
    b"3": "character device",
    b"4": "block device",
    b"6": "FIFO",
    b"S": "sparse file",
}


@dataclasses.dataclass(frozen=True)
class Member:
    """A regular file of the archive.

    name: name as stored.

    data: content.

    offset: byte offset of its header.
    """

    name: str
    data: bytes
    offset: int


@dataclasses.dataclass(frozen=True)
class Fault:
    """A part of the archive that could not be read.

    error: short stable kind: empty, bad_header, truncated, too_large, not_a_file or no_end_of_archive.

    message: details.

    offset: byte offset of the fault.

    name: name of the member; empty if no member can be named.
    """

    error: str
    message: str
    offset: int
    name: str = ""


@dataclasses.dataclass(frozen=True)
class _Header:
    name: str
    size: int
    kind: bytes


def read_members(file: BinaryIO, max_member_bytes: int) -> Iterator[Member | Fault]:
    """Yields the members of a seekable archive in order, and its faults where they occur.

    max_member_bytes: a larger member is a fault.
    """
    total = file.seek(0, 2)
    if total == 0:
        yield Fault("empty", "zero bytes", 0)
        return
    start, position, zeros, lost = -1, 0, 0, False
    extended: dict[str, str] = {}
    reader = _Reader(file)
    while position < total:
        block = reader.read(position, BLOCK)
        if len(block) < BLOCK:
            if block.strip(b"\0") and not lost:
                yield Fault("truncated", f"{len(block)} bytes after the last whole block", position)
                return
            break
        if not block.strip(b"\0"):
            position, zeros = position + BLOCK, zeros + 1
            continue
        header = _parse(block)
        if header is None:
            if not lost:
                yield Fault("bad_header", "no tar header with a valid checksum; searched for the next one", position)
            position, zeros, lost, extended = _next_header(reader, position, position if lost else start), 0, True, {}
            continue
        start, zeros = position, 0
        name, size = extended.get("path", header.name), header.size
        if header.kind not in (_LONG_NAME, _LONG_LINK, _PAX, _PAX_GLOBAL, _SOLARIS):
            size = _decimal(extended.get("size"), size)
            extended = {}
        if header.kind not in _REGULAR and header.kind not in (
            _LONG_NAME,
            _LONG_LINK,
            _PAX,
            _PAX_GLOBAL,
            _SOLARIS,
            b"S",
        ):
            size = 0  # links and directories have no content, whatever size they declare
        end = position + BLOCK + size
        if end > total:
            yield Fault("truncated", f"claims {size} bytes, {total - position - BLOCK} are left", start, name)
            position, lost = position + BLOCK, True
            continue
        position, lost = position + BLOCK + -(-size // BLOCK) * BLOCK, False
        if header.kind in (_LONG_NAME, _PAX):
            if size > _MAX_EXTENDED:
                yield Fault("bad_header", f"an extended header of {size} bytes", start)
                continue
            content = reader.read(start + BLOCK, size)
            extended.update(_pax(content) if header.kind == _PAX else {"path": _text(content.rstrip(b"\0"))})
        elif header.kind in (_LONG_LINK, _PAX_GLOBAL, _SOLARIS, _DIRECTORY):
            continue
        elif header.kind not in _REGULAR:
            yield Fault("not_a_file", _KINDS.get(header.kind, f"member of type {header.kind!r}"), start, name)
        elif size > max_member_bytes:
            yield Fault("too_large", f"{size} bytes, more than {max_member_bytes}", start, name)
        else:
            yield Member(name, reader.read(start + BLOCK, size), start)
    if zeros == 0 and not lost:
        yield Fault(
            "no_end_of_archive", "the empty blocks that end an archive are missing: later members are lost", total
        )


class _Reader:
    """Reads a file forward and keeps a few blocks to go back to.

    Archives that are decompressed while being read cannot seek back.
    """

    def __init__(self, file: BinaryIO):
        self._file = file
        self._kept = b""
        self._end = 0

    def read(self, position: int, count: int) -> bytes:
        gap = position - self._end
        if 0 < gap <= _KEPT:  # also read padding, so that the kept blocks are contiguous
            self.read(self._end, gap)
        back = self._end - position
        head = self._kept[len(self._kept) - back :][:count] if 0 < back <= len(self._kept) else b""
        if len(head) == count:
            return head
        begin = position + len(head)
        self._file.seek(begin)
        data = self._file.read(count - len(head))
        before = self._kept if begin == self._end and len(data) < _KEPT else b""
        self._kept, self._end = (before + data)[-_KEPT:], begin + len(data)
        return head + data


def _next_header(reader: _Reader, position: int, last: int) -> int:
    """Offset at which to continue after the bad header at `position`.

    That is a valid header which begins within the next block. If bytes are missing, the previous member may have
    covered a valid header, so the search starts before `position`, but after the header at `last`. Otherwise the next
    block.
    """
    begin = max(min(last + 1, position), position - _KEPT + BLOCK, 0)
    window = reader.read(begin, position - begin + 2 * BLOCK)
    found = window.find(_MAGIC, _MAGIC_AT)
    while 0 <= found - _MAGIC_AT < position - begin + BLOCK:
        place = found - _MAGIC_AT
        if begin + place != position and _parse(window[place : place + BLOCK]) is not None:
            return begin + place
        found = window.find(_MAGIC, found + 1)
    return position + BLOCK


def _parse(block: bytes) -> _Header | None:
    """The fields of a header block, or None if its checksum (either of the two in use) or its numbers are invalid."""
    if len(block) < BLOCK:
        return None
    stored = _number(block[148:156])
    without_checksum = block[:148] + b" " * 8 + block[156:]
    if stored is None or stored not in (
        sum(without_checksum),
        sum(b - 256 if b > 127 else b for b in without_checksum),
    ):
        return None
    size = _number(block[124:136])
    if size is None or size < 0:
        return None
    name = _text(block[:100].split(b"\0", 1)[0])
    if block[257:263] == b"ustar\0" and block[345] != 0:
        name = _text(block[345:500].split(b"\0", 1)[0]) + "/" + name
    return _Header(name, size, block[156:157])


def _number(field: bytes) -> int | None:
    """Octal digits, or base 256 if the first byte is 0x80 or 0xFF (GNU).

    Example: b"0000644\\0" is 420.
    """
    if field[0] in (0x80, 0xFF):
        value = int.from_bytes(field[1:], "big")
        return value if field[0] == 0x80 else value - (1 << (8 * (len(field) - 1)))
    digits = field.split(b"\0", 1)[0].strip(b" ")
    try:
        return int(digits, 8) if digits else 0
    except ValueError:
        return None


def _pax(content: bytes) -> dict[str, str]:
    """Parses `LENGTH KEY=VALUE newline` records up to the first invalid one."""
    found, position = {}, 0
    while position < len(content):
        digits, _, rest = content[position : position + 24].partition(b" ")
        if not digits.isdigit() or not 0 < int(digits) <= len(content) - position:
            break
        key, equals, value = content[position + len(digits) + 1 : position + int(digits) - 1].partition(b"=")
        if equals and key in (b"path", b"size"):
            found[key.decode()] = _text(value)
        position += int(digits)
    return found


def _decimal(text: str | None, default: int) -> int:
    return int(text) if text is not None and text.isascii() and text.isdigit() and len(text) < 20 else default


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace")
