"""A parsed page as flat lists: its structural elements (nodes) and its runs of text (blocks), in document order.

lexbor parses like browsers and serializes the tree as canonical HTML. Tags are in lower case and in pairs, attributes
in double quotes; `& < >` and the no-break space are entities, also in attribute values. So every bracket belongs to a
tag. One pass over that string takes a tenth of the time of a walk over the tree through a binding, and is linear in its
length for any tree.
"""

import dataclasses
import re
from collections.abc import Iterator
from itertools import accumulate

# Elements that show no text, or only text of the interface.
_HIDDEN = (
    "noscript template svg object applet canvas audio video map textarea select datalist option button dialog progress "
    "meter"
).split()
_HIDDEN_SPAN = re.compile(
    r' class="(?:[^"]*\s)?(?:katex-html|sr-only|visually-hidden|screen-reader-text|mw-editsection)["\s]'
)
_HIDDEN_SUP = re.compile(r' class="(?:[^"]*\s)?reference["\s]')
# Elements that show no text and are serialized verbatim, brackets included; and formulas, which become TeX.
_VERBATIM = re.compile(r"<(?:!--|(script|style|xmp|iframe|noembed|noframes|plaintext|math)[ >])")
HEADINGS = frozenset(("h1", "h2", "h3", "h4", "h5", "h6"))
STRUCTURE = HEADINGS | frozenset(
    (
        "address article aside blockquote body caption center dd details div dl dt fieldset figcaption figure footer "
        "form header hgroup html legend "
        "li main menu nav ol p pre search section summary table tbody td tfoot th thead tr ul"
    ).split()
)

# A tag's name and attributes, and the text up to the next tag. Possessive quantifiers never backtrack.
_TOKEN = re.compile(r"<([^ >]*+)([^>]*+)>([^<]*+)")
_HREF = re.compile(r' href="([^"]*)"')
_ALT = re.compile(r' alt="([^"]+)"')
_DISPLAY_STYLE = re.compile(r"\{\\displaystyle (.*)\}")  # MediaWiki wraps every formula in it
_FORMULAS = "math, script[type^='math/tex']"
_BREAK = "\v"  # represents <br>; whitespace for str.split, and absent from pages
_OPENING, _CLOSING, _LINK, _LINK_END, _LINE_END, _RULE, _PICTURE, _HIDING, _SPAN, _SUP = range(10)
_KINDS = (
    dict.fromkeys(STRUCTURE, _OPENING)
    | dict.fromkeys((f"/{tag}" for tag in STRUCTURE), _CLOSING)
    | dict.fromkeys(_HIDDEN, _HIDING)
)
_KINDS |= {"a": _LINK, "/a": _LINK_END, "br": _LINE_END, "hr": _RULE, "img": _PICTURE, "span": _SPAN, "sup": _SUP}


@dataclasses.dataclass(slots=True)
class Page:
    """A page as parallel lists.

    The blocks of a node and its descendants are first <= block < last. Parents precede their children.

    tag, attributes, parent, first, last: per node. Node 0 represents the page.

    text: text of each block, with whitespace collapsed except for <br> and in <pre>.

    link: number of characters of each block that are in links.

    node: innermost node around each block.

    sizes, linked: total characters, and total characters in links, before each block and in all, [blocks + 1].
    """

    tag: list[str]
    attributes: list[str]
    parent: list[int]
    first: list[int]
    last: list[int]
    text: list[str]
    link: list[int]
    node: list[int]
    sizes: list[int]
    linked: list[int]


def canonical(tree) -> str:
    """The body of a resiliparse HTMLTree as canonical HTML, without comments, scripts and the like. Formulas are
    replaced by TeX.
    """
    html = _without_verbatim(tree.body.html, True)
    if html is None:
        for element in tree.body.query_selector_all(_FORMULAS).values():
            formula = _formula(element, element.tag)
            if formula and element.parent:
                element.replace_with(tree.create_text_node(formula))
        html = _without_verbatim(tree.body.html, False)
    return html


def _without_verbatim(html: str, heed_formulas: bool) -> str | None:
    """Canonical HTML without its verbatim elements.

    heed_formulas: return None if the page has formulas; False removes formulas too.
    """
    parts, end = [], 0
    while found := _VERBATIM.search(html, end):
        name = found[1]
        if heed_formulas and (
            name == "math"
            or name == "script"
            and html.find("math/tex", found.end(), html.find(">", found.end() - 1)) >= 0
        ):
            return None
        parts.append(html[end : found.start()])
        closing = f"</{name}>" if name else "-->"
        end = html.find(closing, found.end())
        end = len(html) if end < 0 else end + len(closing)
    return "".join([*parts, html[end:]])


def _formula(element, tag: str) -> str:
    """The TeX of a formula in dollar signs; empty if the formula does not contain its source.

    Sources are MathML with alttext or an annotation (MediaWiki, LaTeXML, KaTeX), and scripts of MathJax 2.
    """
    if tag == "script":
        kind = element.getattr("type") or ""
        tex, display = (element.text, "mode=display" in kind) if kind.startswith("math/tex") else ("", False)
    else:
        tex, display = element.getattr("alttext"), element.getattr("display") == "block"
        if not tex:
            annotation = element.query_selector('annotation[encoding="application/x-tex"]')
            tex = annotation.text if annotation else ""
    tex = " ".join((tex or "").split())
    styled = _DISPLAY_STYLE.fullmatch(tex)
    tex = styled[1].strip() if styled else tex
    return "" if not tex else f"$${tex}$$" if display else f"${tex}$"


def read(html: str, links: bool = False, alt_texts: bool = False) -> Page:
    """Canonical HTML -> Page.

    links: append addresses to the texts of links.

    alt_texts: include the alternative texts of images.
    """
    html = html.replace("\xad", "")  # soft hyphens are layout
    page = Page([""], [""], [-1], [0], [0], [], [], [], [], [])
    tags, attributes, parents, first, last = page.tag, page.attributes, page.parent, page.first, page.last
    texts, block_links, nodes = page.text, page.link, page.node
    buffer, node, linked, preformatted, address = [], 0, 0, 0, None
    hidden: dict[str, bool] = {}  # attributes of a span -> whether it is hidden; most repeat

    def flush():
        nonlocal linked
        text = _clean("".join(buffer), preformatted)
        if text:
            texts.append(text)
            block_links.append(min(linked, len(text)))
            nodes.append(node)
        buffer.clear()
        linked = 0

    tokens = iter(_TOKEN.findall(html))
    for name, rest, text in tokens:
        kind = _KINDS.get(name)
        if kind is None:
            pass
        elif kind == _OPENING:
            if buffer:
                flush()
            if name == "pre":
                preformatted += 1
            attributes.append(rest)
            parents.append(node)
            first.append(len(texts))
            last.append(0)
            node = len(tags)
            tags.append(name)
        elif kind == _CLOSING:
            if buffer:
                flush()
            if name == "/pre":
                preformatted -= 1
            if node:
                last[node] = len(texts)
                node = parents[node]
        elif kind == _LINK:
            address = None if ' href="#' in rest or "href=" not in rest else rest  # links within the page do not count
        elif kind == _LINK_END:
            if links and address and buffer and (found := _HREF.search(address)):
                buffer.append(f" ({found[1]})".replace("&nbsp;", " "))
            address = None
        elif kind == _LINE_END:
            if preformatted:
                buffer.append("\n")
            elif buffer and buffer[-1] == _BREAK:
                flush()  # two in a row separate paragraphs
            elif buffer:
                buffer.append(_BREAK)
        elif kind == _RULE:
            flush()
        elif kind == _PICTURE:
            if alt_texts and (found := _ALT.search(rest)):
                buffer.append(f" {found[1]} ".replace("&nbsp;", " "))
        elif kind == _HIDING:
            text = _skip_element(name, tokens)
        elif rest and kind == _SPAN:
            hides = hidden.get(rest)
            if hides is None:
                hides = hidden[rest] = _HIDDEN_SPAN.search(rest) is not None
            if hides:
                text = _skip_element(name, tokens)
        elif rest and _HIDDEN_SUP.search(rest):
            text = _skip_element(name, tokens)
        if text:
            if "&" in text:
                text = text.replace("&nbsp;", " ")
            if preformatted or not text.isspace():
                if address:
                    linked += len(text.strip())
                buffer.append(text)
            elif buffer and buffer[-1] != _BREAK:
                buffer.append(" ")
    flush()
    last[0] = len(texts)
    page.sizes, page.linked = list(accumulate(map(len, texts), initial=0)), list(accumulate(block_links, initial=0))
    return page


def _skip_element(name: str, tokens: Iterator[tuple[str, str, str]]) -> str:
    """Skips the content of an element whose opening tag was consumed. Returns the text after the element."""
    depth, closing = 1, f"/{name}"
    for tag, _, text in tokens:
        if tag == name:
            depth += 1
        elif tag == closing:
            depth -= 1
            if not depth:
                return text
    return ""


def _clean(text: str, preformatted: int) -> str:
    if preformatted:
        text = "" if text.isspace() else text.strip("\n").replace(_BREAK, " ")
    elif _BREAK in text:
        text = "\n".join(filter(None, (" ".join(line.split()) for line in text.split(_BREAK))))
    else:
        text = text.strip()
        if not text.isprintable() or "  " in text:  # the space is the only printable whitespace
            text = " ".join(text.split())
    if "&" in text:
        text = text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", '"').replace("&amp;", "&")
    return text
