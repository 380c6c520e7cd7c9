"""Seeded damage to real inputs, for benchmarks/robustness/fuzz.py: the same seed makes the same bytes.

`Mutator` damages bytes as transfers, disks and hostile servers do: flipped bits, pieces removed, repeated or inserted
from elsewhere, and numbers replaced by values that break parsers. It also knows a few words of each format. `Case` is
one input file built of parts (records of an archive, members of a tar), exactly one of which is damaged, so that a
caller can check that the other parts survive.
"""

import dataclasses
import gzip
import io
import random
import tarfile
import zlib

NUMBERS = (
    b"0",
    b"-1",
    b"1",
    b"7",
    b"65536",
    b"2147483648",
    b"4294967296",
    b"9223372036854775807",
    b"99999999999999999999",
    b"1e9",
    b"0x10",
    b"",
)
WORDS = {
    "html": (
        b"<div>" * 2000, b"<table><tr><td>" * 300, b"<!--", b"<script>", b"</body>", b"<![CDATA[", b"&#0;",
        b"&#x110000;", b"\0", b"\xff\xfe", b"<svg><![CDATA[",
        b'<meta charset="utf-16">', b'<meta charset="iso-2022-jp">', b"<a " + b"x=1 " * 2000 + b">", b"<p",
        b"<b><i>" * 500, b"<title>", b"<template>", b"\x1b$B",
        b"<noscript><p title=\"</noscript>", b"<frameset>", b"<plaintext>", b"\xed\xa0\x80",
    ),
    "warc": (
        b"WARC/1.0\r\n", b"WARC/9.9\r\n", b"\r\n\r\n", b"Content-Length: 4294967296\r\n",
        b"Transfer-Encoding: chunked\r\n", b"Content-Encoding: gzip\r\n",
        b"Content-Encoding: br, gzip, br\r\n", b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 999 \r\n",
        b"WARC-Type: response\r\n", b"\n\n", b"ffffffff\r\n", b"WARC-Truncated: length\r\n",
    ),
    "jsonl": (
        b"[" * 3000, b'{"text": ', b"\\ud800", b"NaN", b"\n", b'"text":"x",', b"\0", b"1e999999", b"\\u0000", b"\xff",
    ),
    "tar": (
        b"\0" * 512, b"../../etc/passwd", b"/abs", b"ustar\0", b"77777777777", b"L", b"\x80" + b"\xff" * 11,
        b"\xff" * 512,
    ),
    "source": (
        b"\0", b"\xff\xfe", b"\r", b"#!/bin/sh\n", b"(" * 3000, b"\xe2\x80\xae", b"-*- coding: utf-7 -*-\n",
        b"x" * 3000, b"/*", b'"""', b"\x0c",
    ),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Case:
    """One input file.

    parts: the undamaged parts that the file was built of.
    damaged: index of the damaged part; -1 if the file as a whole was damaged.
    """

    name: str
    data: bytes
    parts: tuple[bytes, ...]
    damaged: int


class Mutator:
    """Damages bytes; `kind` selects the words to insert, `donors` are the sources of inserted pieces."""

    def __init__(self, seed: str, kind: str, donors: list[bytes]):
        self.random = random.Random(seed)
        self._words = WORDS[kind]
        self._donors = donors

    def damage(self, data: bytes) -> bytes:
        """Applies one to four mutations; the result always differs from the input."""
        result = data
        for _ in range(self.random.choice((1, 1, 1, 2, 4))):
            result = self.random.choice(self._INJURIES)(self, result)
        return result if result != data else data + b"\0"

    def _place(self, data: bytes) -> int:
        """A random position. Half of all positions are at the beginning, where formats have their headers."""
        return (
            self.random.randrange(min(len(data), 600) + 1)
            if self.random.random() < 0.5
            else self.random.randrange(len(data) + 1)
        )

    def _piece(self, data: bytes) -> tuple[int, int]:
        begin = self._place(data)
        return begin, min(len(data), begin + int(2 ** self.random.uniform(0, 12)))

    def _flip(self, data: bytes) -> bytes:
        result = bytearray(data or b"\0")
        for _ in range(int(2 ** self.random.uniform(0, 6))):
            result[min(self._place(data), len(result) - 1)] ^= 1 << self.random.randrange(8)
        return bytes(result)

    def _overwrite(self, data: bytes) -> bytes:
        begin, end = self._piece(data)
        return data[:begin] + self.random.randbytes(end - begin) + data[end:]

    def _delete(self, data: bytes) -> bytes:
        begin, end = self._piece(data)
        return data[:begin] + data[end:]

    def _double(self, data: bytes) -> bytes:
        begin, end = self._piece(data)
        return data[:end] + data[begin:end] * self.random.choice((1, 1, 2, 20)) + data[end:]

    def _cut(self, data: bytes) -> bytes:
        return data[: self._place(data)]

    def _splice(self, data: bytes) -> bytes:
        donor = self.random.choice(self._donors)
        begin, end = self._piece(donor)
        at = self._place(data)
        return data[:at] + donor[begin:end] + data[at:]

    def _word(self, data: bytes) -> bytes:
        at = self._place(data)
        return data[:at] + self.random.choice(self._words) + data[at:]

    def _number(self, data: bytes) -> bytes:
        digits = [i for i, byte in enumerate(data[:4000]) if 48 <= byte < 58]
        if not digits:
            return self._flip(data)
        begin = end = self.random.choice(digits)
        while end < len(data) and 48 <= data[end] < 58:
            end += 1
        return data[:begin] + self.random.choice(NUMBERS) + data[end:]

    _INJURIES = (_flip, _flip, _overwrite, _delete, _double, _cut, _splice, _word, _word, _number)


def archive(name: str, records: list[bytes], mutator: Mutator, compressed: bool) -> Case:
    """A WARC of plain `records`, one damaged: its bytes before compression, or, in a gzip file, its member after it."""
    damaged = mutator.random.randrange(len(records))
    members = []
    for i, record in enumerate(records):
        outside = compressed and i == damaged and mutator.random.random() < 0.4
        if i == damaged and not outside:
            record = mutator.damage(record)
        member = gzip.compress(record, 6, mtime=0) if compressed else record
        members.append(mutator.damage(member) if outside else member)
    return Case(name + (".warc.gz" if compressed else ".warc"), b"".join(members), tuple(records), damaged)


def whole(name: str, data: bytes, mutator: Mutator) -> Case:
    """A file that is damaged as a whole."""
    return Case(name, mutator.damage(data), (data,), -1)


def tarball(name: str, files: list[tuple[str, bytes]], mutator: Mutator, compressed: bool) -> Case:
    """A tar of `files`: one member's header or content damaged, or the archive after compression."""
    damaged = mutator.random.randrange(len(files))
    out = io.BytesIO()
    for i, (path, data) in enumerate(files):
        member = io.BytesIO()
        with tarfile.open(fileobj=member, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            header = tarfile.TarInfo(path)
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))
        raw = member.getvalue()[: 512 + (len(data) + 511) // 512 * 512]
        if i == damaged:
            hurt = mutator.damage(raw)
            raw = (
                hurt if mutator.random.random() < 0.5 else hurt[: len(raw)].ljust(len(raw), b"\0")
            )  # half of the time blocks stay aligned
        out.write(raw)
    data = out.getvalue() + b"\0" * 1024
    if not compressed:
        return Case(name + ".tar", data, tuple(content for _, content in files), damaged)
    data = gzip.compress(data, 6, mtime=0)
    if mutator.random.random() < 0.3:
        return Case(name + ".tar.gz", mutator.damage(data), tuple(content for _, content in files), -1)
    return Case(name + ".tar.gz", data, tuple(content for _, content in files), damaged)


def bombs() -> dict[str, bytes]:
    """Small files that need large resources: name -> bytes."""
    zeros = zlib.compressobj(9, zlib.DEFLATED, 31)
    hidden = b"".join(zeros.compress(b"<p>bomb</p>" * 100_000) for _ in range(180)) + zeros.flush()

    def response(headers: bytes, body: bytes) -> bytes:
        http = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n" + headers + b"\r\n" + body
        head = (
            b"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: http://bomb.invalid/\r\n"
            b"Content-Type: application/http;msgtype=response\r\n"
        )
        return gzip.compress(head + b"Content-Length: %d\r\n\r\n" % len(http) + http + b"\r\n\r\n", mtime=0)

    deep = b"<!doctype html><title>t</title><body>" + b"<div>" * 100_000 + b"the end"
    words = b" ".join([b"word"] * 50)
    return {
        "http_gzip_bomb.warc.gz": response(b"Content-Encoding: gzip\r\n", hidden),
        "http_nested_gzip.warc.gz": response(b"Content-Encoding: gzip, gzip\r\n", gzip.compress(hidden, mtime=0)),
        "bomb.html.gz": hidden,
        "bomb.jsonl.gz": gzip.compress(b'{"text": "' + b"a" * 120_000_000 + b'"}', mtime=0),
        "deep.html": deep,
        "deep.warc.gz": response(b"", deep),
        "deep_inline.html": b"<body>" + b"<b><i><a href=x>" * 40_000 + words,
        "deep_tables.html": b"<body>" + b"<table><tr><td>" * 30_000 + words,
        "unclosed.html": b"<body>" + b"<p>text <b>bold" * 60_000,
        "attributes.html": b"<body " + b" ".join(b"a%d=b" % i for i in range(300_000)) + b">" + words,
        "comments.html": b"<body>" + b"<!--" * 200_000 + words,
        "entities.html": b"<body>" + b"&amp;" * 500_000 + b"&" * 200_000,
        "one_word.html": b"<body>" + b"a" * 12_000_000,
        "newlines.html": b"<body><pre>" + b"x\n" * 4_000_000,
        "lines.jsonl": b'{"text": "' + b"\\n" * 2_000_000 + b'"}\n',
    }
