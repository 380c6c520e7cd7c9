"""Renders blocks as text, as a model reads it.

An empty line separates paragraphs and headings; <br> is a line end. List items are lines that start with `- `; a list
has no empty lines. The cells of a table row are joined by ` | `, one line per row. A cell of long text or many blocks,
as in layout tables, is not data; its blocks are paragraphs. Terms and descriptions are lines. <pre> is kept unchanged.
"""

from collections.abc import Iterable

from castor.pipelines.text.maintext.stream import Page

_LONGEST_DATUM = 200  # characters; a column of a layout table has more
_MOST_BLOCKS = 3  # per data cell
_LEVELS = 4  # from a block's element up to its list item or table row


def render(page: Page, chosen: Iterable[int]) -> str:
    """The text of the chosen blocks, in order."""
    parts = []
    tag_before, item_before, row_before, cell_before = "", -1, -1, -1
    for block in chosen:
        node = page.node[block]
        tag, text = page.tag[node], page.text[block]
        item, row, cell = _place(page, node)
        if not parts:
            separator = ""
        elif row >= 0 and row_before >= 0:
            separator = " " if cell == cell_before else " | " if row == row_before else "\n"
        elif (item >= 0 and item_before >= 0) or (tag in ("dd", "dt") and tag_before in ("dd", "dt")):
            separator = "\n"
        else:
            separator = "\n\n"
        bullet = "- " if item >= 0 and item != item_before else ""
        parts += (separator, bullet, text.replace("\n", " ") if row >= 0 else text)
        tag_before, item_before, row_before, cell_before = tag, item, row, cell
    return "".join(parts)


def _place(page: Page, node: int) -> tuple[int, int, int]:
    """(list item, table row, table cell) that a block's element is part of, as nodes; -1 for none."""
    cell = -1
    for _ in range(_LEVELS):
        tag = page.tag[node]
        if tag == "li":
            return node, -1, -1
        if tag == "td" or tag == "th":
            cell = node
        elif tag == "tr":
            return (-1, node, cell) if cell >= 0 and _is_datum(page, cell) else (-1, -1, -1)
        node = page.parent[node]
        if node <= 0:
            break
    return -1, -1, -1


def _is_datum(page: Page, cell: int) -> bool:
    first, last = page.first[cell], page.last[cell]
    return last - first <= _MOST_BLOCKS and sum(map(len, page.text[first:last])) <= _LONGEST_DATUM
