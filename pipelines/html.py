"""A page to its main text. Runs in the sandbox, since what a parser does with a hostile page is not ours to promise; imports no Beam.

Main text is what resiliparse's rules leave of the page when navigation, advertisements and the like are taken out: the fastest extractor
there is by an order of magnitude, at about 4 points of F1 behind trafilatura on news pages, all of it precision.
"""

import dataclasses
import re

from pipelines import charset
from pipelines.document import Document, Element, Rejection

_NOT_HTML = (
    b"%PDF-",
    b"\x89PNG",
    b"GIF8",
    b"\xff\xd8\xff",
    b"PK\x03\x04",
    b"\x1f\x8b",
    b"Rar!",
    b"\x7fELF",
    b"CWS",
    b"FWS",
    b"\0\0\0\x18ftyp",
    b"OggS",
)
_SPACES = re.compile(r"[ \t\xa0]+\n")
_NEWLINES = re.compile(r"\n{3,}")


@dataclasses.dataclass(frozen=True)
class Extract:
    """Document of page bytes -> Document of text. metadata in: `charset` as HTTP declares it; out: `encoding` as found, `title`.

    main_content: leave boilerplate out; False keeps every visible text of the page.
    A document that has text already (WET, JSON lines) passes. Raises BadInput("charset"); rejects `extract.not_html` and `extract.empty`.
    """

    main_content: bool = True
    links: bool = False
    alt_texts: bool = False
    comments: bool = False

    def prepare(self) -> None:
        from resiliparse.extract import html2text
        from resiliparse.parse import html

        del html2text, html

    def __call__(self, document: Document) -> Element:
        if document.bytes is None:
            return document
        from resiliparse.extract.html2text import extract_plain_text
        from resiliparse.parse.html import HTMLTree

        if document.bytes.startswith(_NOT_HTML):
            return Rejection(document, "extract.not_html", document.bytes[:8].hex())
        metadata = dict(document.metadata)
        page, metadata["encoding"] = charset.decode_html(document.bytes, str(metadata.pop("charset", "")))
        tree = HTMLTree.parse(page)
        text = extract_plain_text(
            tree, main_content=self.main_content, links=self.links, alt_texts=self.alt_texts, comments=self.comments, list_bullets=True
        )
        text = _NEWLINES.sub("\n\n", _SPACES.sub("\n", text.replace("\0", ""))).strip()
        title = " ".join((tree.title or "").split())[:1000]
        if title:
            metadata["title"] = title
        result = document.replace(text=text, bytes=None, metadata=metadata)
        return result if text else Rejection(result, "extract.empty")
