"""Compressed files: bytes as they were, every fault told, nothing unbounded."""

import gzip
import random
import tempfile
import zlib

import brotli
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from castor.pipelines.document import BadInput
from castor.pipelines.readers import compressed


def members_of(data, name):
    file = tempfile.TemporaryFile()
    file.write(data)
    file.seek(0)
    return compressed.open_members(file, name)


def noise(count, seed=0):
    return random.Random(seed).randbytes(count)


PACK = {
    "x.gz": lambda b: gzip.compress(b, mtime=0),
    "x.zst": zstandard.ZstdCompressor(write_checksum=True).compress,
    "x": bytes,
}


@pytest.mark.parametrize("name", ["x.gz", "x.zst"])
@settings(derandomize=True, deadline=None, max_examples=30)
@given(parts=st.lists(st.tuples(st.integers(0, 300_000), st.booleans()), max_size=4))
def test_members_come_back_whole(name, parts):
    contents = [noise(n, n) if random_ else bytes(n) for n, random_ in parts]
    members, found = members_of(b"".join(PACK[name](c) for c in contents), name), []
    while members.advance():
        content = b""
        while piece := members.piece():
            assert len(piece) <= compressed.PIECE_BYTES
            content += piece
        assert members.piece() == b""
        found.append(content)
    assert found == contents


def test_plain_file_and_padding():
    assert compressed.read_whole(members_of(b"abc", "x.txt"), 10) == b"abc"
    assert compressed.read_whole(members_of(gzip.compress(b"abc") + bytes(5000), "x.gz"), 10) == b"abc"


@pytest.mark.parametrize("name, kind", [("x.gz", "gzip"), ("x.zst", "zstd")])
def test_every_truncation_is_told(name, kind):
    packed = PACK[name](noise(2000))
    for cut in [1, 5, 9, 20, len(packed) // 2, len(packed) - 5, len(packed) - 1]:
        with pytest.raises(compressed.Damaged) as caught:
            compressed.read_whole(members_of(packed[:cut], name), 10_000)
        assert caught.value.error in (f"truncated_{kind}", f"not_{kind}")
    with pytest.raises(BadInput, match="empty"):
        compressed.read_whole(members_of(b"", name), 10)


@pytest.mark.parametrize("name", ["x.gz", "x.zst"])
def test_flipped_bits_are_told_and_later_members_found(name):
    first, last = PACK[name](b"A" + noise(3000)), PACK[name](b"WARC/1.0 sound")
    for position in range(12, len(first) - 9, 211):
        damaged = bytearray(first)
        damaged[position] ^= 0x10
        members = members_of(bytes(damaged) + b"garbage" + last, name)
        with pytest.raises(compressed.Damaged):
            while members.advance():
                while members.piece():
                    pass
        assert members.resync(b"WARC/") and members.offset == len(first) + 7
        assert members.advance() and members.piece() == b"WARC/1.0 sound"
        assert members.piece() == b"" and not members.advance()


def test_bombs_stop_at_the_limit():
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name in ("x.gz", "x.zst"):
        with pytest.raises(BadInput, match="too_large"):
            compressed.read_whole(members_of(PACK[name](bytes(200 << 20)), name), 1 << 20)
    bomb = bytes(50 << 20)
    for encoding, pack in (
        ("gzip", gzip.compress),
        ("deflate", zlib.compress),
        ("br", lambda b: brotli.compress(b, quality=1)),
    ):
        with pytest.raises(BadInput, match="too_large"):
            compressed.inflate(pack(bomb), encoding, 1 << 20)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 700 << 10  # KiB; the 200 MB plaintext is ours


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "raw", "br"])
def test_content_encodings(encoding):
    content = noise(5000) + b"text " * 1000
    raw = zlib.compressobj(wbits=-15)
    packed = {
        "gzip": gzip.compress,
        "deflate": zlib.compress,
        "raw": lambda b: raw.compress(b) + raw.flush(),
        "br": brotli.compress,
    }[encoding](content)
    name = "deflate" if encoding == "raw" else encoding
    assert compressed.inflate(packed, name, 1 << 20) == content
    with pytest.raises(BadInput, match="truncated_body|corrupt_body"):
        compressed.inflate(packed[:-10], name, 1 << 20)
    with pytest.raises(BadInput, match="truncated_body|corrupt_body"):
        compressed.inflate(b"\x00\x01\x02nonsense" * 3, name, 1 << 20)
    with pytest.raises(BadInput, match="unknown_encoding"):
        compressed.inflate(content, "sdch", 1 << 20)


def test_plain_reader_has_no_second_member():
    members = compressed.Plain(tempfile.TemporaryFile())
    assert not members.advance() and not members.resync(b"")
