"""Pages out of files: each record and each line is a Document, a Rejection or a DeadLetter, and ids are stable."""

import gzip
import json

import pytest
import zstandard

from castor.pipelines.document import DeadLetter, Document, Rejection, document_id
from castor.pipelines.readers.web_source import WebSource


def source(tmp_path, *patterns, **options):
    return WebSource("web", str(tmp_path), patterns or ("**",), **options)


def read(tmp_path, name, data, **options):
    (tmp_path / name).write_bytes(data)
    return list(source(tmp_path, **options).read(str(tmp_path / name)))


def outcomes(elements):
    return [e.text if isinstance(e, Document) else e.reason if isinstance(e, Rejection) else e.error for e in elements]


def warc(*records):
    out = b""
    for kind, uri, content_type, body in records:
        head = f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Target-URI: {uri}\r\nWARC-Date: 2020-01-02T03:04:05Z\r\n"
        out += gzip.compress(
            (head + f"Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n").encode()
            + body
            + b"\r\n\r\n"
        )
    return out


def http(body, status="200 OK", content_type="text/html; charset=latin-1"):
    return f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\n\r\n".encode() + body


def test_records_of_an_archive(tmp_path):
    response = "application/http; msgtype=response"
    elements = read(
        tmp_path,
        "a.warc.gz",
        warc(
            ("warcinfo", "", "application/warc-fields", b"x"),
            ("response", "http://e.org/", response, http(b"<p>page")),
            ("response", "<http://e.org/2>", response, http(b"<html>gone", "404 Not Found")),
            ("response", "http://e.org/3", response, http(b"\xff\xd8\xff", content_type="image/jpeg")),
            ("response", "dns:e.org", "text/dns", b"20200101"),
            ("response", "http://e.org/4", response, b"no http"),
            ("response", "http://e.org/5", response, http(b" \n")),
            ("conversion", "http://e.org/6", "text/plain", "d\u00e9j\u00e0 text".encode()),
            ("resource", "http://e.org/7", "text/html", b"<p>resource"),
            ("response", "http://e.org/8", response, b"HTTP/1.1 200 OK\r\n\r\n<!DOCTYPE html><p>no type"),
        ),
    )
    expected = [
        "page.record_type",
        None,
        "page.status",
        "page.content_type",
        "page.not_http",
        "no_http_response",
        "page.empty",
        "d\u00e9j\u00e0 text",
        None,
        None,
    ]
    assert outcomes(elements) == expected
    page = elements[1]
    offset = page.source.partition("#")[2]
    assert page.id == document_id("web", f"a.warc.gz#{offset}") and page.bytes == b"<p>page" and page.modality == "text"
    assert page.metadata == {"url": "http://e.org/", "date": "2020-01-02T03:04:05Z", "charset": "latin-1"}
    assert elements[2].measure == "404" and elements[2].document.metadata["url"] == "http://e.org/2"


LINES = [
    (b'{"text": "sound", "url": "http://a/", "id": 5, "other": [1]}', "sound"),
    (b'\xef\xbb\xbf{"text": "after a mark"}\r', "after a mark"),
    (b'{"text": "  "}', "page.empty"),
    (b"", "blank_line"),
    (b"null", "not_an_object"),
    (b'{"text": "cut', "bad_json"),
    (b'{"text": 5}', "wrong_type"),
    (b'{"no": "text"}', "no_text"),
    (b'{"text": "a", "text": "b"}', "bad_json"),
    (b'{"text": "x", "score": NaN}', "bad_json"),
    (b'{"text": "\\ud800"}', "lone_surrogate"),
    (b'{"text": "\\u0000"}', "nul"),
    (b'{"text": "\xff"}', "bad_utf8"),
    (b"[" * 100_000, "deep_nesting"),
    (b'{"text": "' + b"x" * 3000 + b'"}', "too_large"),
    (b'{"text": "the last, without a line end"}', "the last, without a line end"),
]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.ndjson", "a.json.gz"])
def test_lines(tmp_path, name):
    data = b"\n".join(line for line, _ in LINES if len(line) < 50_000)
    pack = {"gz": gzip.compress, "zst": zstandard.compress}.get(name.rpartition(".")[2], bytes)
    elements = read(tmp_path, name, pack(data), max_page_bytes=2000)
    assert outcomes(elements) == [outcome for line, outcome in LINES if len(line) < 50_000]
    assert elements[0].id == document_id("web", f"{name}#line=1") and elements[0].metadata == {
        "url": "http://a/",
        "id": 5,
    }
    assert elements[-1].source == f"{name}#line={len(elements)}"


def test_deep_nesting_is_a_dead_letter(tmp_path):
    assert outcomes(read(tmp_path, "a.jsonl", LINES[-3][0] + b"\n" + LINES[0][0])) == ["deep_nesting", "sound"]


def test_line_bombs_and_damage(tmp_path):
    good = b"".join(json.dumps({"text": f"line {i}"}).encode() + b"\n" for i in range(200))
    bomb = gzip.compress(LINES[0][0] + b"\n" + bytes(50 << 20) + b"\n" + LINES[0][0])
    assert outcomes(read(tmp_path, "bomb.jsonl.gz", bomb, max_page_bytes=1 << 20)) == ["sound", "too_large", "sound"]
    cut = read(tmp_path, "cut.jsonl.zst", zstandard.compress(good)[:-20])
    assert outcomes(cut)[-1] == "truncated_zstd"
    packed = gzip.compress(good)
    damaged = bytearray(packed)
    damaged[len(packed) // 2] ^= 0xFF
    elements = read(tmp_path, "multi.jsonl.gz", bytes(damaged) + gzip.compress(good))
    assert outcomes(elements)[-200:] == [f"line {i}" for i in range(200)] and "corrupt_gzip" in outcomes(elements)
    assert len({e.id for e in elements}) == len(elements)
    assert outcomes(read(tmp_path, "empty.jsonl", b"")) == ["empty"]


def test_what_publishers_ask_comes_along(tmp_path):
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nX-Robots-Tag: noindex\r\nTDM-Reservation: 1\r\nX-ROBOTS-TAG: bot: noai\r\n\r\n<p>x"
    [page] = read(tmp_path, "a.warc.gz", warc(("response", "http://e.org/", "application/http", head)))
    assert page.metadata["x_robots_tag"] == "noindex\nbot: noai" and page.metadata["tdm_reservation"] == "1"


def test_single_pages_and_unknown_files(tmp_path):
    [page] = read(tmp_path, "a.HTML", b"<p>x")
    assert (page.bytes, page.id, page.source) == (b"<p>x", document_id("web", "a.HTML"), "a.HTML")
    assert outcomes(read(tmp_path, "b.html.gz", gzip.compress(bytes(3000)), max_page_bytes=2000)) == ["too_large"]
    assert outcomes(read(tmp_path, "c.pdf", b"%PDF")) == ["unsupported_format"] and outcomes(
        read(tmp_path, "noextension", b"x")
    ) == ["unsupported_format"]
    assert outcomes(read(tmp_path, "d.html", b"")) == ["empty"]


def test_what_is_no_file_is_not_waited_for(tmp_path):
    import os

    os.mkfifo(tmp_path / "pipe.html")
    (tmp_path / "gone.html").symlink_to("nowhere")
    (tmp_path / "loop.html").symlink_to("loop.html")
    assert {
        name: outcomes(source(tmp_path).read(f"{tmp_path}/{name}.html"))[0] for name in ("pipe", "gone", "loop")
    } == {
        "pipe": "not_a_file",
        "gone": "FileNotFoundError",
        "loop": "OSError",
    }
    assert all(isinstance(e, DeadLetter) for e in source(tmp_path).read(f"{tmp_path}/pipe.html"))


@pytest.mark.parametrize(
    "patterns, expected",
    [
        (("*.html",), ["a.html"]),
        (("**/*.html",), ["a.html", "s/b.html", "s/t/c.html"]),
        (("s",), ["s/b.html", "s/t/c.html"]),
        (("s/",), ["s/b.html", "s/t/c.html"]),
        (("s/*",), ["s/b.html", "s/t/c.html"]),
        (("*/?.html", "a.*"), ["a.html", "s/b.html"]),
        (("**",), ["a.html", "s/b.html", "s/t/c.html", "x.txt"]),
        ((".",), ["a.html", "s/b.html", "s/t/c.html", "x.txt"]),
        (("[!a].txt", "s/t/[a-c].html", "s/t"), ["s/t/c.html", "x.txt"]),
        ((".hidden/*",), [".hidden/d.html"]),
    ],
)
def test_patterns(tmp_path, patterns, expected):
    for path in ("a.html", "s/b.html", "s/t/c.html", "x.txt", ".hidden/d.html", "s/.e.html"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(b"x")
    (tmp_path / "s" / "loop").symlink_to(tmp_path)
    files = [f for f in source(tmp_path, *patterns).files() if not f.endswith("/loop")]
    assert [f.removeprefix(f"{tmp_path}/") for f in files] == expected
