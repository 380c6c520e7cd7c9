"""HTTP responses as crawlers store them: status, headers, and the body with its transfer and content encodings decoded.

Archives hold raw responses, and also responses whose body is already decoded although the headers still declare chunks
and gzip. Both are read. Sizes are bounded throughout. This file knows no archive format.
"""

import dataclasses
import re

from castor.pipelines.document import BadInput
from castor.pipelines.readers.compressed import inflate

REPEATED = ("x-robots-tag",)
"""Headers whose every occurrence counts, joined by line ends: a comma would give one agent's directives to another."""

_MAX_HEADER_BYTES = 1 << 18
_STATUS = re.compile(rb"HTTP/\d(?:\.\d)? +(\d{3})(?: [^\r\n]*)?\r?\n")
_HEADER_END = re.compile(rb"\r?\n\r?\n")
_CHUNK = re.compile(rb"[ \t]*([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n]*)?\r?\n")


@dataclasses.dataclass(frozen=True)
class Response:
    """A parsed HTTP response.

    status: status code.

    headers: names in lower case -> the first value of each; all lines of those in REPEATED.

    body: bytes as stored.
    """

    status: int
    headers: dict[str, str]
    body: bytes


def parse(block: bytes) -> Response:
    """Splits a stored response.

    Raises BadInput("no_http_response") if the block does not start as one, BadInput("huge_header").
    """
    status = _STATUS.match(block)
    if status is None:
        raise BadInput("no_http_response", f"the block begins {block[:40]!r}")
    end = _HEADER_END.search(block, status.end() - 2, _MAX_HEADER_BYTES)
    if end is None and len(block) >= _MAX_HEADER_BYTES:
        raise BadInput("huge_header", f"no end of the HTTP header in {_MAX_HEADER_BYTES} bytes")
    head, body = (block[: end.start()], block[end.end() :]) if end else (block, b"")
    headers: dict[str, str] = {}
    for line in head[status.end() :].decode("latin-1").splitlines():
        name, colon, value = line.partition(":")
        if colon:
            name, value = name.strip().lower(), value.strip()
            if name in REPEATED and name in headers:
                headers[name] += f"\n{value}"
            else:
                headers.setdefault(name, value)
    return Response(int(status.group(1)), headers, body)


def content(response: Response, limit: int) -> bytes:
    """The decoded body, at most `limit` bytes.

    Raises BadInput: truncated_body (shorter than Content-Length, or cut inside a chunk or a compressed stream),
    bad_chunks, corrupt_body, too_large, unknown_encoding.
    """
    headers, body = response.headers, response.body
    encodings = [e.strip().lower() for e in headers.get("content-encoding", "").split(",") if e.strip()]
    transfer = headers.get("transfer-encoding", "").lower()
    if "chunked" in transfer:
        body = _dechunked(body, limit)
    elif not encodings:
        declared = headers.get("content-length", "")
        if re.fullmatch(r"\d{1,15}", declared) and len(body) < int(declared):
            raise BadInput("truncated_body", f"Content-Length {declared}, but {len(body)} bytes")
    for encoding in reversed(encodings):
        if encoding in ("gzip", "x-gzip") and body[:2] != b"\x1f\x8b":
            continue  # already decoded by the crawler
        if encoding in ("deflate", "br") and _looks_plain(body):
            continue
        body = inflate(body, encoding, limit)
    if len(body) > limit:
        raise BadInput("too_large", f"over {limit} bytes")
    return body


def _looks_plain(body: bytes) -> bool:
    return body[:4096].lstrip()[:1] == b"<"


def _dechunked(body: bytes, limit: int) -> bytes:
    if _CHUNK.match(body) is None:
        return body  # already decoded by the crawler
    out, position = bytearray(), 0
    while True:
        size = _CHUNK.match(body, position)
        if size is None:
            if position >= len(body):
                raise BadInput("truncated_body", "the last chunk is missing")
            raise BadInput("bad_chunks", f"no chunk size at byte {position} of the body")
        count, start = int(size.group(1), 16), size.end()
        if count == 0:
            return bytes(out)
        if start + count > len(body):
            raise BadInput("truncated_body", f"a chunk of {count} bytes is cut")
        out += body[start : start + count]
        if len(out) > limit:
            raise BadInput("too_large", f"over {limit} bytes")
        position = start + count
        position += (
            2 if body[position : position + 2] == b"\r\n" else 1 if body[position : position + 1] == b"\n" else 0
        )
