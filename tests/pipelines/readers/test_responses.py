"""HTTP responses as archives hold them, sound and cut."""

import gzip

import pytest

from castor.pipelines.document import BadInput
from castor.pipelines.readers import responses


def content(head, body, limit=10_000):
    return responses.content(responses.parse(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n" + body), limit)


def test_status_headers_and_body():
    response = responses.parse(
        b"HTTP/1.0 404 Not Found\nContent-Type: text/html; charset=x\nX: 1\nX: 2\n\nbody\r\n\r\nmore"
    )
    assert (response.status, response.headers["x"], response.body) == (404, "1", b"body\r\n\r\nmore")
    assert responses.parse(b"HTTP/1.1 200\r\n\r\n").body == b"" and responses.parse(b"HTTP/2 204 \r\n").status == 204
    for block in (b"", b"<html>", b"HTTP/1.1 OK\r\n\r\n"):
        with pytest.raises(BadInput, match="no_http_response"):
            responses.parse(block)
    with pytest.raises(BadInput, match="huge_header"):
        responses.parse(b"HTTP/1.1 200 OK\r\nX: " + b"a" * 500_000 + b"\r\n\r\n")


def test_chunks():
    head = b"Transfer-Encoding: chunked\r\n"
    assert content(head, b"3\r\nabc\r\n4;x=y\r\ndefg\r\n0\r\n\r\n") == b"abcdefg"
    assert content(head, b"<html> already joined") == b"<html> already joined"
    for body, error in [
        (b"3\r\nabc\r\n9\r\ndef", "truncated_body"),
        (b"3\r\nabc\r\n", "truncated_body"),
        (b"3\r\nabcdef", "bad_chunks"),
    ]:
        with pytest.raises(BadInput, match=error):
            content(head, body)
    packed = gzip.compress(b"text")
    assert content(head + b"Content-Encoding: gzip\r\n", b"%x\r\n%s\r\n0\r\n\r\n" % (len(packed), packed)) == b"text"


def test_lengths_and_encodings():
    assert content(b"Content-Length: 4\r\n", b"abcd") == b"abcd"
    with pytest.raises(BadInput, match="truncated_body"):
        content(b"Content-Length: 5\r\n", b"abcd")
    assert content(b"Content-Length: 999\r\nContent-Encoding: gzip\r\n", gzip.compress(b"x")) == b"x"
    assert (
        content(b"Content-Encoding: gzip\r\n", b"<html> unpacked by the crawler") == b"<html> unpacked by the crawler"
    )
    assert content(b"Content-Encoding: br\r\n", b"  <html> the same") == b"  <html> the same"
    for body, error in [
        (gzip.compress(bytes(20_000)), "too_large"),
        (gzip.compress(b"abc" * 100)[:-9], "truncated_body"),
    ]:
        with pytest.raises(BadInput, match=error):
            content(b"Content-Encoding: gzip\r\n", body)
    with pytest.raises(BadInput, match="too_large"):
        content(b"", bytes(10_001))
