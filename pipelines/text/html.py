"""Extracts the main text of an HTML page.

Runs in the sandbox, since a hostile page can make a parser do anything; imports no Beam.
"""

import dataclasses
import re
from collections.abc import Iterator

from castor.pipelines.document import BadInput, Document, Element, Rejection
from castor.pipelines.text import charset
from castor.tasks.errors import ConfigurationError

EXTRACTORS = ("castor", "resiliparse", "trafilatura")

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
_TAG = re.compile("<[a-zA-Z]")
_RAW_TEXT = re.compile(r"<(script|style|textarea|title)\b.*?(?:</\1\s*>|\Z)", re.IGNORECASE | re.DOTALL)
_QUOTED = re.compile(r"""=\s*+(?:"[^"]*+"?|'[^']*+'?)""")  # a value may contain any number of spaces
# Characters of the shortest attribute: a name of one letter and a space.
_SHORTEST_ATTRIBUTE = 2


@dataclasses.dataclass(frozen=True)
class Extract:
    """Document of page bytes -> Document of text.

    Reads metadata `charset`, as HTTP declares it; writes `encoding`, as detected, and `title`. A document that already
    has text (WET, JSON lines) passes unchanged.

    extractor: `castor`, rules over lexbor's tree (pipelines/text/maintext, docs/extraction.md). `resiliparse`, its own
        rules over the same tree: twice as fast, but boilerplate stays in the text. `trafilatura`, slower by an order of
        magnitude and an extra (`pip install castor[trafilatura]`).

    main_content: remove boilerplate. False keeps all visible text; Trafilatura supports only True.

    links: append the URL of each link to its text.

    alt_texts: include the alternative texts of images.

    comments: include readers' comments.

    max_attributes: maximum number of attributes per tag. lexbor compares each attribute with all before it: 10,000 take
        0.2 s, 300,000 take minutes.

    Raises BadInput("charset") and BadInput("too_many_attributes"). Rejects `extract.not_html` and `extract.empty`.
    """

    extractor: str = "castor"
    main_content: bool = True
    links: bool = False
    alt_texts: bool = False
    comments: bool = False
    max_attributes: int = 10_000

    def __post_init__(self):
        if self.extractor not in EXTRACTORS:
            raise ConfigurationError(
                f"html.Extract.extractor = {self.extractor!r} is not one of {', '.join(EXTRACTORS)}."
            )
        if self.extractor == "trafilatura" and not self.main_content:
            raise ConfigurationError(
                "html.Extract: trafilatura extracts main content only.", "Set main_content = True or another extractor."
            )

    def prepare(self) -> None:
        """Loads the libraries. Raises ConfigurationError if trafilatura is configured but not installed."""
        from resiliparse.extract import html2text
        from resiliparse.parse import html

        from castor.pipelines.text.maintext import main_text as maintext

        del html2text, html, maintext
        if self.extractor == "trafilatura":
            _trafilatura()

    def __call__(self, document: Document) -> Element:
        if document.bytes is None:
            return document
        if document.bytes.startswith(_NOT_HTML):
            return Rejection(document, "extract.not_html", document.bytes[:8].hex())
        metadata = dict(document.metadata)
        page, metadata["encoding"] = charset.decode_html(document.bytes, str(metadata.pop("charset", "")))
        if has_tag_of_attributes(page, self.max_attributes):
            raise BadInput("too_many_attributes", f"over {self.max_attributes} attributes in one tag")
        title, text = self._title_and_text(page)
        title, text = " ".join(title.split())[:1000], _tidy(text)
        if title:
            metadata["title"] = title
        result = document.replace(text=text, bytes=None, metadata=metadata)
        return result if text else Rejection(result, "extract.empty")

    def _title_and_text(self, page: str) -> tuple[str, str]:
        if self.extractor == "trafilatura":
            return _by_trafilatura(page, self.comments, self.links)
        from resiliparse.parse.html import HTMLTree

        tree = HTMLTree.parse(page)
        return tree.title or "", self._text(tree)

    def _text(self, tree) -> str:
        if self.extractor == "resiliparse":
            from resiliparse.extract.html2text import extract_plain_text

            return extract_plain_text(
                tree,
                main_content=self.main_content,
                links=self.links,
                alt_texts=self.alt_texts,
                comments=self.comments,
                list_bullets=True,
            )
        from castor.pipelines.text.maintext import main_text as maintext

        return maintext.extract(tree, self.main_content, self.links, self.alt_texts, self.comments)


def _tidy(text: str) -> str:
    """Removes whitespace at line ends, and all but one of consecutive empty lines."""
    text = text.replace("\0", "")
    if " \n" in text or "\t\n" in text or "\xa0\n" in text:  # rare, and the expression tries every space of a text
        text = _SPACES.sub("\n", text)
    return (_NEWLINES.sub("\n\n", text) if "\n\n\n" in text else text).strip()


def has_tag_of_attributes(page: str, limit: int) -> bool:
    """Whether a tag may have more than `limit` attributes.

    Linear in the page, and nearly free if no tag is long enough.
    """
    # Scripts are not tags. They are removed only if needed, since finding them is slow.
    return _has_tag_of_attributes(page, limit) and _has_tag_of_attributes(_RAW_TEXT.sub(">", page), limit)


def _has_tag_of_attributes(page: str, limit: int) -> bool:
    for piece in _long_pieces(page, _SHORTEST_ATTRIBUTE * limit):
        if tag := _TAG.search(piece):
            attributes = piece[tag.start() :]
            if (
                len(attributes.split()) + attributes.count("=") > limit
                and len(_QUOTED.sub("= ", attributes).split()) > limit + 1
            ):
                return True
    return False


def _long_pieces(page: str, length: int) -> Iterator[str]:
    """Yields the pieces between two `>` that have more than `length` characters.

    Only positions half that length apart are probed; every such piece contains one of them.
    """
    step = length // 2
    place = step
    while place < len(page):
        begin, end = page.rfind(">", 0, place) + 1, page.find(">", place)
        end = len(page) if end < 0 else end
        if end - begin > length:
            yield page[begin:end]
        place = end + max(1, step)


def _by_trafilatura(page: str, comments: bool, links: bool) -> tuple[str, str]:
    """Title and main text, both from the tree that Trafilatura parses."""
    trafilatura = _trafilatura()
    tree = trafilatura.load_html(page)
    if tree is None:
        return "", ""
    titled = tree.find("head/title")  # read the title first: extraction modifies the tree
    if titled is None:
        titled = tree.find(".//title")
    title = "" if titled is None else titled.text_content()
    return title, trafilatura.extract(tree, include_comments=comments, include_links=links) or ""


def _trafilatura():
    try:
        import trafilatura
    except ImportError as error:
        raise ConfigurationError(
            f"html.Extract.extractor = 'trafilatura', but trafilatura cannot be imported ({error}).",
            "pip install 'castor[trafilatura]'",
        ) from error
    return trafilatura
