"""Web pages from archives and plain files, as Documents of page bytes, or of text if the file holds text.

    .warc .wet .wat .arc [.gz|.zst]      records; non-pages (requests, redirects, images) are rejected with a reason
    .html .htm .xhtml [.gz|.zst]         one page per file
    .jsonl .ndjson .json [.gz|.zst]      one document per line, an object with the text under `text`

Every record and every line of a file is accounted for, sound or not. This file knows no Beam.
"""

import dataclasses
import json
import re
from collections.abc import Iterator
from typing import ClassVar

from castor.pipelines.core.sources import FileSource, open_regular
from castor.pipelines.document import BadInput, Element
from castor.pipelines.readers import compressed, responses, warc

_PAGES = ("html", "htm", "xhtml")
_LINES = ("jsonl", "ndjson", "json")
_WARCS = ("warc", "wet", "wat")
_HTML_TYPES = ("text/html", "application/xhtml+xml")
_CHARSET = re.compile(r"charset\s*=\s*[\"']?\s*([A-Za-z0-9_.:-]{2,40})", re.IGNORECASE)
_SNIFF = re.compile(rb"(?i)<!doctype\s+html|<html[\s>]|<body[\s>]|<head[\s>]")
_DATE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z|\d{14}")
_FACTS = ("url", "id", "title")
_MAX_FACT = 2000
_RESERVATION_HEADERS = ("x-robots-tag", "tdm-reservation")  # see pipelines/filters/robots.py


@dataclasses.dataclass(frozen=True)
class WebSource(FileSource):
    """The pages of web archives, HTML files and JSON lines.

    max_page_bytes: maximum size of one page, one line or one HTTP body, after decompression; larger ones become dead
        letters.

    max_record_bytes: maximum size of one WARC record.

    text_field: field of a JSON line that holds the text.
    """

    max_page_bytes: int = 16 << 20
    max_record_bytes: int = 64 << 20
    text_field: str = "text"

    modality: ClassVar[str] = "text"

    def records(self, uri: str) -> Iterator[Element]:
        name = uri.rpartition("/")[2].lower()
        parts = name.removesuffix(".gz").removesuffix(".zst").rpartition(".")
        kind = parts[2] if parts[1] else ""
        with open_regular(uri) as file:
            members = compressed.open_members(file, name)
            if kind in _WARCS:
                yield from self._archive(uri, warc.read_warc(members, self.max_record_bytes))
            elif kind == "arc":
                yield from self._archive(uri, warc.read_arc(members, self.max_record_bytes))
            elif kind in _PAGES:
                yield self.document(uri, "", data=compressed.read_whole(members, self.max_page_bytes))
            elif kind in _LINES:
                yield from self._lines(uri, members)
            else:
                raise BadInput(
                    "unsupported_format", f"no pages are expected in a file named .{name.partition('.')[2]}"[:200]
                )

    def _archive(self, uri: str, items) -> Iterator[Element]:
        for item in items:
            if isinstance(item, warc.Fault):
                yield self.dead(uri, item.key, item.error, item.message)
                continue
            try:
                yield self._record(uri, item)
            except BadInput as error:
                yield self.dead(uri, item.key, error.error, error.message)

    def _record(self, uri: str, record: warc.Record) -> Element:
        headers, facts = record.headers, _record_facts(record.headers)
        kind, media = headers.get("warc-type", ""), _media_type(headers.get("content-type", ""))
        if "warc-truncated" in headers:
            raise BadInput("truncated_record", f"WARC-Truncated: {headers['warc-truncated'][:40]}")
        if kind == "conversion" and media == "text/plain":
            return self._text(uri, record, facts)
        if kind == "resource" and media in _HTML_TYPES:
            return self._page(uri, record.key, record.body, headers.get("content-type", ""), facts)
        if kind != "response":
            return self.reject(uri, record.key, "page.record_type", kind[:40], **facts)
        if not headers.get("warc-target-uri", "").strip("<>").lower().startswith(("http:", "https:")):
            return self.reject(uri, record.key, "page.not_http", headers.get("warc-target-uri", "")[:100], **facts)
        response = responses.parse(record.body)
        if response.status != 200:
            return self.reject(uri, record.key, "page.status", str(response.status), **facts)
        declared = response.headers.get("content-type", "")
        if _media_type(declared) not in _HTML_TYPES and (declared or not _SNIFF.search(record.body[:4096])):
            return self.reject(uri, record.key, "page.content_type", _media_type(declared)[:100], **facts)
        facts.update(
            (name.replace("-", "_"), response.headers[name][:_MAX_FACT])
            for name in _RESERVATION_HEADERS
            if name in response.headers
        )
        return self._page(uri, record.key, responses.content(response, self.max_page_bytes), declared, facts)

    def _page(self, uri: str, key: str, body: bytes, content_type: str, facts: dict) -> Element:
        if len(body) > self.max_page_bytes:
            raise BadInput("too_large", f"over {self.max_page_bytes} bytes")
        if not body.strip():
            return self.reject(uri, key, "page.empty", **facts)
        declared = _CHARSET.search(content_type)
        return self.document(uri, key, data=body, **facts, **({"charset": declared.group(1)} if declared else {}))

    def _text(self, uri: str, record: warc.Record, facts: dict) -> Element:
        if len(record.body) > self.max_page_bytes:
            raise BadInput("too_large", f"over {self.max_page_bytes} bytes")
        try:
            text = record.body.decode("utf-8").strip()
        except UnicodeDecodeError as error:
            raise BadInput("bad_utf8", str(error)) from error
        return (
            self.document(uri, record.key, text, **facts)
            if text
            else self.reject(uri, record.key, "page.empty", **facts)
        )

    def _lines(self, uri: str, members) -> Iterator[Element]:
        some = False
        for key, line in _split(members, self.max_page_bytes):
            some = True
            if isinstance(line, BadInput):
                yield self.dead(uri, key, line.error, line.message)
                continue
            try:
                row = parse_line(line, self.text_field)
            except BadInput as error:
                yield self.dead(uri, key, error.error, error.message)
                continue
            text = row[self.text_field]
            facts = {name: row[name] for name in _FACTS if _is_fact(row.get(name))}
            yield (
                self.document(uri, key, text, **facts) if text.strip() else self.reject(uri, key, "page.empty", **facts)
            )
        if not some:
            raise BadInput("empty", "zero bytes")


def parse_line(line: bytes, text_field: str = "text") -> dict:
    """Parses a JSON line with a text.

    Raises BadInput for anything but an object with unique keys whose text is valid Unicode without NUL.
    """
    if not line.strip():
        raise BadInput("blank_line")
    try:
        row = json.loads(line.decode("utf-8-sig"), parse_constant=_refuse, object_pairs_hook=_once)
    except UnicodeDecodeError as error:
        raise BadInput("bad_utf8", str(error)) from error
    except RecursionError as error:
        raise BadInput("deep_nesting", "nested too deeply") from error
    except ValueError as error:
        raise BadInput("bad_json", str(error)) from error
    if not isinstance(row, dict):
        raise BadInput("not_an_object", type(row).__name__)
    text = row.get(text_field)
    if text is None:
        raise BadInput("no_text", f"no {text_field!r} among {', '.join(sorted(row))[:200]}")
    if not isinstance(text, str):
        raise BadInput("wrong_type", f"{text_field!r} is of type {type(text).__name__}")
    if "\0" in text:
        raise BadInput("nul", "a NUL character in the text")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadInput("lone_surrogate", str(error)) from error
    return row


def _refuse(constant: str):
    raise ValueError(f"{constant} is not JSON")


def _once(pairs: list) -> dict:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key occurs twice")
    return result


def _is_fact(value) -> bool:
    if isinstance(value, str) and len(value) <= _MAX_FACT:
        return not any("\ud800" <= c <= "\udfff" for c in value)
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 63


def _split(members, limit: int) -> Iterator[tuple[str, bytes | BadInput]]:
    """Yields (record key, line) for every line; a line over `limit` bytes or damaged by compression yields a BadInput.

    The line that damage cuts is lost with the damage. Keys of lines in later members then name their member.
    """
    prefix = ""
    buffer, number, skipping = bytearray(), 0, False
    while True:
        try:
            if not members.advance():
                break
            while piece := members.piece():
                position = 0
                while (end := piece.find(b"\n", position)) >= 0:
                    buffer += piece[position:end]
                    position = end + 1
                    number += 1
                    if skipping or len(buffer) > limit:
                        yield f"{prefix}line={number}", BadInput("too_large", f"a line of over {limit} bytes")
                    else:
                        yield f"{prefix}line={number}", bytes(buffer)
                    buffer.clear()
                    skipping = False
                buffer += piece[position:]
                if len(buffer) > limit:
                    buffer.clear()
                    skipping = True
        except compressed.Damaged as error:
            yield f"{prefix}line={number + 1}", error
            if not members.resync(b"{"):
                return
            prefix, number, skipping = f"offset={members.offset},", 0, False
            buffer.clear()
    if skipping:
        yield f"{prefix}line={number + 1}", BadInput("too_large", f"a line of over {limit} bytes")
    elif buffer:
        yield f"{prefix}line={number + 1}", bytes(buffer)


def _media_type(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def _record_facts(headers: dict[str, str]) -> dict[str, str]:
    facts = {}
    url = headers.get("warc-target-uri", "").strip("<>")
    if url:
        facts["url"] = url[:_MAX_FACT]
    if _DATE.fullmatch(headers.get("warc-date", "")):
        facts["date"] = headers["warc-date"]
    return facts
