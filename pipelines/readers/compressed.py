"""Reads plain, gzip and zstd files in bounded pieces; reports every compression fault with its position.

The readers of Python and of the codecs assume sound files. One bad gzip member loses everything after it, a truncated
zstd frame ends like a complete one, and one call can turn a megabyte into a gigabyte.

Here a file is a sequence of members: gzip members or zstd frames; a plain file is one member. A caller reads pieces of
at most PIECE_BYTES, gets `Damaged` for damage, and can continue at the next sound member.
"""

import zlib
from typing import BinaryIO

from castor.pipelines.document import BadInput
from castor.tasks.storage import storage

PIECE_BYTES = 1 << 18
_READ_BYTES = 1 << 16
_ZSTD_READ_BYTES = 1 << 10  # a few bytes of zstd may declare a block of 128 KiB, and decompressobj has no limit
_ZSTD_MAX_WINDOW = 1 << 27
_GZIP_MAGIC = b"\x1f\x8b\x08"
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


class Damaged(BadInput):
    """The compressed data is invalid at this position.

    Kinds: corrupt_gzip, not_gzip, truncated_gzip, and the same for zstd.
    """


class Plain:
    """An uncompressed file: one member."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self._opened = False
        self.offset = 0

    def advance(self) -> bool:
        """Goes to the next member; False after the last. Raises Damaged if the data there is not a member."""
        first, self._opened = not self._opened, True
        return first and storage.size_of(self._file) > 0

    def piece(self) -> bytes:
        """The next bytes of this member, at most PIECE_BYTES; empty at its end. Raises Damaged."""
        return self._file.read(PIECE_BYTES)

    def resync(self, beginning: bytes) -> bool:
        """After damage, goes to just before the next member whose content starts with `beginning`; False if there is
        none.
        """
        return False


class Members:
    """A file of compressed members, one after another. `Plain` documents the methods.

    offset: file offset at which the current member starts.
    """

    kind: str
    magic: bytes
    read_bytes: int

    def __init__(self, file: BinaryIO):
        self._file = file
        self._size = storage.size_of(file)
        self._engine = None
        self._input = b""
        self._ready = b""  # decompressed, not yet returned
        self._next = 0  # file offset of the first byte after self._input
        self.offset = 0

    def advance(self) -> bool:
        start = self._next - len(self._input)
        if len(self._input) < 8:
            self._input += self._file.read(self.read_bytes)
            self._next = self._file.tell()
        while self._input and self._input[0] == 0:  # padding written by tapes and block devices
            stripped = self._input.lstrip(b"\0")
            start += len(self._input) - len(stripped)
            self._input = stripped or self._file.read(self.read_bytes)
            self._next = self._file.tell()
        self.offset = start
        if not self._input:
            return False
        if not self._input.startswith(self.magic):
            raise Damaged(f"not_{self.kind}", f"no {self.kind} member begins at byte {start}")
        self._engine = self.new_engine()
        return True

    def piece(self) -> bytes:
        while True:
            if self._ready:
                data, self._ready = self._ready[:PIECE_BYTES], self._ready[PIECE_BYTES:]
                return data
            if self._engine is None or self._engine.eof:
                if self._engine is not None:
                    self._input, self._engine = self._engine.unused_data, None
                return b""
            if not self._input and not self.pending():
                self._input = self._file.read(self.read_bytes)
                self._next = self._file.tell()
                if not self._input:
                    raise Damaged(
                        f"truncated_{self.kind}", f"the file ends inside the member that begins at byte {self.offset}"
                    )
            self._ready = self.inflate()

    def resync(self, beginning: bytes) -> bool:
        position = self.offset + 1
        while (position := self._find(position)) is not None:
            self._file.seek(position)
            self._input, self._ready, self._next = b"", b"", position
            try:
                if self.advance():
                    data = self.piece()
                    if data.startswith(beginning):
                        self._file.seek(position)
                        self._input, self._ready, self._next, self._engine, self.offset = (
                            b"",
                            b"",
                            position,
                            None,
                            position,
                        )
                        return True
            except Damaged:
                pass
            position += 1
        return False

    def _find(self, position: int) -> int | None:
        """File offset of the first magic number at or after `position`."""
        self._file.seek(position)
        tail, at = b"", position
        while data := self._file.read(1 << 20):
            window = tail + data
            found = window.find(self.magic)
            if found >= 0:
                return at - len(tail) + found
            at += len(data)
            tail = window[-(len(self.magic) - 1) :]
        return None


class Gzip(Members):
    """Gzip members. The checksum of each member is verified when its end is read."""

    kind, magic, read_bytes = "gzip", _GZIP_MAGIC, _READ_BYTES

    def new_engine(self):
        self._full = False
        return zlib.decompressobj(wbits=31)

    def inflate(self) -> bytes:
        try:
            data = self._engine.decompress(self._input, PIECE_BYTES)
        except zlib.error as error:
            raise Damaged("corrupt_gzip", f"member at byte {self.offset}: {error}") from error
        self._full = len(data) == PIECE_BYTES
        self._input = b"" if self._engine.eof else self._engine.unconsumed_tail
        return data

    def pending(self) -> bool:
        return self._full  # zlib may hold back output after consuming all input


class Zstd(Members):
    """Zstd frames, without dictionaries."""

    kind, magic, read_bytes = "zstd", _ZSTD_MAGIC, _ZSTD_READ_BYTES

    def new_engine(self):
        import zstandard

        return zstandard.ZstdDecompressor(max_window_size=_ZSTD_MAX_WINDOW).decompressobj()

    def inflate(self) -> bytes:
        import zstandard

        data, self._input = self._input, b""
        try:
            return self._engine.decompress(data)
        except zstandard.ZstdError as error:
            raise Damaged("corrupt_zstd", f"frame at byte {self.offset}: {error}") from error

    def pending(self) -> bool:
        return False


def open_members(file: BinaryIO, name: str) -> Plain | Gzip | Zstd:
    """The reader for a file, by the last extension of its name."""
    extension = name.rpartition(".")[2].lower()
    return {"gz": Gzip, "zst": Zstd}.get(extension, Plain)(file)


def read_whole(members: Plain | Members, limit: int) -> bytes:
    """The content of all members, at most `limit` bytes.

    Raises BadInput("too_large"), BadInput("empty") for a file of zero bytes, or Damaged.
    """
    content = bytearray()
    some = False
    while members.advance():
        some = True
        while piece := members.piece():
            content += piece
            if len(content) > limit:
                raise BadInput("too_large", f"over {limit} bytes")
    if not some:
        raise BadInput("empty", "zero bytes")
    return bytes(content)


def inflate(data: bytes, encoding: str, limit: int) -> bytes:
    """Decodes HTTP's Content-Encoding: gzip, deflate (with or without zlib's header) or br.

    limit: maximum number of decoded bytes.

    Raises BadInput: too_large, corrupt_body, truncated_body or unknown_encoding.
    """
    if encoding in ("", "identity"):
        return data
    if encoding in ("gzip", "x-gzip"):
        return _zlib(data, 31, limit)
    if encoding == "deflate":
        raw = len(data) < 2 or data[0] & 15 != 8 or (data[0] << 8 | data[1]) % 31
        return _zlib(data, -15 if raw else 15, limit)
    if encoding == "br":
        return _brotli(data, limit)
    raise BadInput("unknown_encoding", encoding[:40])


def _zlib(data: bytes, wbits: int, limit: int) -> bytes:
    engine = zlib.decompressobj(wbits)
    try:
        content = engine.decompress(data, limit + 1)
    except zlib.error as error:
        raise BadInput("corrupt_body", str(error)) from error
    if len(content) > limit:
        raise BadInput("too_large", f"the body inflates to over {limit} bytes")
    if not engine.eof:
        raise BadInput("truncated_body", "the compressed body is truncated")
    return content


def _brotli(data: bytes, limit: int) -> bytes:
    import brotli

    engine, content = brotli.Decompressor(), bytearray()
    try:
        content += engine.process(data, output_buffer_limit=PIECE_BYTES)
        while not engine.is_finished() and not engine.can_accept_more_data() and len(content) <= limit:
            content += engine.process(b"", output_buffer_limit=PIECE_BYTES)
    except brotli.error as error:
        raise BadInput("corrupt_body", str(error)) from error
    if len(content) > limit:
        raise BadInput("too_large", f"the body inflates to over {limit} bytes")
    if not engine.is_finished():
        raise BadInput("truncated_body", "the compressed body is truncated")
    return bytes(content)
