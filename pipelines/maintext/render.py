"""Blocks to text, as a model reads it.

Paragraphs and headings stand apart by a blank line; <br> is a line end. List items are lines that begin with `- `, one list without blank
lines. The cells of a table row stand in one line with ` | ` between them, one line a row, unless cells hold long text, as where a table
makes the layout: then each is a paragraph. Terms and descriptions are lines. <pre> is kept as it is.
"""

from collections.abc import Iterable

from pipelines.maintext.stream import Page

_LONG_CELL = 200  # characters; data is shorter, and a column of a layout longer


def render(page: Page, chosen: Iterable[int]) -> str:
    """The text of the chosen blocks, in order."""
    parts = []
    before, item_before, row_before = -1, -1, -1
    for block in chosen:
        text, node = page.text[block], page.node[block]
        item, row = _around(page, node)
        tag = page.tag[node]
        if before < 0:
            separator = ""
        elif row >= 0 and row_before >= 0 and len(text) <= _LONG_CELL and len(page.text[before]) <= _LONG_CELL:
            cell, cell_before = _cell(page, node), _cell(page, page.node[before])
            separator = " " if cell == cell_before else " | " if row == row_before else "\n"
        elif item >= 0 and item_before >= 0 or tag in ("dd", "dt") and page.tag[page.node[before]] in ("dd", "dt"):
            separator = "\n"
        else:
            separator = "\n\n"
        if row >= 0 and "\n" in text:
            text = text.replace("\n", " ")
        bullet = "- " if item >= 0 and item != item_before else ""
        parts += (separator, bullet, text)
        before, item_before, row_before = block, item, row
    return "".join(parts)


def _around(page: Page, node: int) -> tuple[int, int]:
    """The list item and the table row that a block's node is (part of), -1 for none; a few levels up at most."""
    for _ in range(4):
        tag = page.tag[node]
        if tag == "li":
            return node, -1
        if tag == "tr":
            return -1, node
        node = page.parent[node]
        if node <= 0:
            break
    return -1, -1


def _cell(page: Page, node: int) -> int:
    for _ in range(4):
        if page.tag[node] in ("td", "th") or node <= 0:
            break
        node = page.parent[node]
    return node
