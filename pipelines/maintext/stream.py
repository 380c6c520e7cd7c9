"""A parsed page as flat lists: its structural elements (nodes) and its runs of text (blocks), in document order.

lexbor parses as browsers do and serialises the tree as canonical HTML: tags lower-case and in pairs, attributes in double quotes, only
`& < >` and the no-break space written as entities. One pass over that string costs a tenth of a walk over the tree through a binding, and
is linear in its length whatever the tree looks like.
"""

import dataclasses
import re

# What shows no text of the page, or text of the interface. Removed before the serialisation, since the content of some is not escaped.
INVISIBLE = (
    "script,style,noscript,template,svg,math,iframe,object,embed,applet,canvas,audio,video,map,xmp,noembed,noframes,plaintext,textarea,select,"
    "datalist,option,button,dialog,progress,meter,span.katex-html,span.sr-only,span.visually-hidden,span.screen-reader-text,"
    "span.mw-editsection,sup.reference"
)
HEADINGS = frozenset(("h1", "h2", "h3", "h4", "h5", "h6"))
STRUCTURE = HEADINGS | frozenset(
    (
        "address article aside blockquote body caption center dd details div dl dt fieldset figcaption figure footer form header hgroup html legend "
        "li main menu nav ol p pre search section summary table tbody td tfoot th thead tr ul"
    ).split()
)

# A tag with its attributes, and the text up to the next tag. Possessive quantifiers: no backtracking on hostile pages.
_TOKEN = re.compile(r'<(/?[^\s<>/"]++)([^<>"]*+(?:"[^"]*+"[^<>"]*+)*+)>([^<]*+)')
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_HREF = re.compile(r' href="([^"]*)"')
_ALT = re.compile(r' alt="([^"]+)"')
_DISPLAY_STYLE = re.compile(r"\{\\displaystyle (.*)\}")  # MediaWiki puts it around every formula
_BREAK = "\v"  # stands for <br>; a blank to str.split, and in no page
_CLOSING = {f"/{tag}" for tag in STRUCTURE}


@dataclasses.dataclass(slots=True)
class Page:
    """Parallel lists. A node's blocks, those of its descendants included, are first <= block < last; parents stand before their children.

    tag, attributes, parent, first, last: of each node; node 0 stands for the page.
    text, link, node: of each block: its text, blanks collapsed but for <br> and in <pre>; how many of its characters are in links; the
    innermost node around it.
    """

    tag: list[str]
    attributes: list[str]
    parent: list[int]
    first: list[int]
    last: list[int]
    text: list[str]
    link: list[int]
    node: list[int]


def canonical(tree) -> str:
    """The body of a resiliparse HTMLTree as canonical HTML, the invisible elements removed from the tree and formulas as TeX in their places."""
    body = tree.body
    for element in body.query_selector_all(INVISIBLE).values():
        tag = element.tag
        formula = _formula(element, tag) if tag == "math" or tag == "script" else ""
        if formula and element.parent:
            element.replace_with(tree.create_text_node(formula))
        else:
            element.decompose()
    return body.html


def _formula(element, tag: str) -> str:
    """The TeX of a formula, in dollar signs, if it carries its source: MathML with alttext or an annotation (MediaWiki, LaTeXML, KaTeX), and
    scripts of MathJax 2; else empty."""
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
    """Canonical HTML as a Page. links: addresses after the texts of links. alt_texts: those of pictures, as text."""
    if "<!--" in html:
        html = _COMMENT.sub("", html)
    html = html.replace("&nbsp;", " ").replace("\xad", "")  # soft hyphens are layout
    page = Page([""], [""], [-1], [0], [0], [], [], [])
    tags, attributes, parents, first, last = page.tag, page.attributes, page.parent, page.first, page.last
    texts, block_links, nodes = page.text, page.link, page.node
    buffer, node, linked, preformatted, address = [], 0, 0, 0, None

    def flush():
        nonlocal linked
        text = _clean("".join(buffer), preformatted)
        if text:
            texts.append(text)
            block_links.append(min(linked, len(text)))
            nodes.append(node)
        buffer.clear()
        linked = 0

    for name, attribute, text in _TOKEN.findall(html):
        if name in STRUCTURE:
            if buffer:
                flush()
            preformatted += name == "pre"
            tags.append(name)
            attributes.append(attribute)
            parents.append(node)
            first.append(len(texts))
            last.append(0)
            node = len(tags) - 1
        elif name in _CLOSING:
            if buffer:
                flush()
            preformatted -= name == "/pre"
            if node:
                last[node] = len(texts)
                node = parents[node]
        elif name == "a":
            address = None if ' href="#' in attribute or "href=" not in attribute else attribute  # within the page: no link
        elif name == "/a":
            if links and address and buffer:
                found = _HREF.search(address)
                buffer.append(f" ({found[1]})" if found else "")
            address = None
        elif name == "br":
            if preformatted:
                buffer.append("\n")
            elif buffer and buffer[-1] == _BREAK:
                flush()  # two in a row part paragraphs
            elif buffer:
                buffer.append(_BREAK)
        elif name == "hr":
            flush()
        elif alt_texts and name == "img" and (found := _ALT.search(attribute)):
            buffer.append(f" {found[1]} ")
        if text:
            if preformatted or not text.isspace():
                if address:
                    linked += len(text.strip())
                buffer.append(text)
            elif buffer and buffer[-1] != _BREAK:
                buffer.append(" ")
    flush()
    last[0] = len(texts)
    return page


def _clean(text: str, preformatted: int) -> str:
    if preformatted:
        text = "" if text.isspace() else text.strip("\n").replace(_BREAK, " ")
    elif _BREAK in text:
        text = "\n".join(filter(None, (" ".join(line.split()) for line in text.split(_BREAK))))
    else:
        text = " ".join(text.split())
    if "&" in text:
        text = text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", '"').replace("&amp;", "&")
    return text
