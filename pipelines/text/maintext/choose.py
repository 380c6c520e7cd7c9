"""Chooses the blocks of a page that are its main text.

Boilerplate is removed first (boilerplate.py). Then the element with the prose is found, and its blocks are visited in
order. Prose is text that reads as sentences: long enough, with the end of a sentence, and not in links. Other blocks (a
heading, a short paragraph, a list item) are kept or dropped by their position relative to the prose.
"""

import re
from bisect import bisect
from itertools import accumulate

from castor.pipelines.text.maintext import boilerplate, hints, phrases
from castor.pipelines.text.maintext.stream import HEADINGS, Page

# Minimum characters of a text with sentence-final punctuation, and of one without (two lines of 70 characters).
_SENTENCE, _PASSAGE = 40, 140
_END = tuple(".!?…:;\"'”’»“)]。！？」』）।॥؟۔։።")
# Scripts with one or two characters per word: a character counts as two letters. Sampled at the start of the page.
_DENSE = re.compile("[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")
_SAMPLE, _DENSE_SHARE = 4000, 0.2
# On a page with less prose than this all unlinked text counts as prose: a short poem, a data form.
_LITTLE = 250
_CONTENT_SHARE = 0.4  # of the prose: minimum for an element named as content
# Of the prose: an article element that contains the title needs less, since its author marked it.
_ARTICLE_SHARE = 0.3
_MOST_TITLES = 10
_NESTED_SHARE = 0.5
_DOMINANT_SHARE = 0.8  # of the prose: the smallest element with this much contains the text
_TITLE_DISTANCE = 30  # blocks between title and text: dates, authors, buttons
_LEAD = 80  # minimum characters of a lead paragraph between title and text
_TAIL = 40  # minimum characters after the last prose, except for paragraphs and items
_LISTS, _LIST_LEVELS = ("ul", "ol", "dl", "table"), 5
_ITEMS = ("p", "li", "td", "dd")


def choose(page: Page, comments: bool = False) -> list[int]:
    """The blocks of the main text, in order.

    comments: also choose the prose of readers' comments.
    """
    if not page.text:
        return []
    letters = _letters("".join(page.text[: bisect(page.sizes, _SAMPLE)])[:_SAMPLE])
    worth = _worth(page, letters)
    if sum(worth) < _LITTLE:
        worth = _unlinked(page, letters)
    found = boilerplate.verdicts(page)
    living = boilerplate.alive(page, worth, found)
    by_readers = _by_readers(page, worth, found) if comments else set()
    worth = [value if a else 0 for value, a in zip(worth, living)]
    if sum(worth) < _LITTLE:
        worth = [value if a else 0 for value, a in zip(_unlinked(page, letters), living)]
    chosen = _sequence(page, worth, living, _container(page, worth, found))
    return sorted(by_readers.union(chosen)) if by_readers else chosen


def _letters(sample: str) -> int:
    """Number of letters that a character counts as."""
    if len(sample.encode("utf-8", "surrogatepass")) - len(sample) <= 2 * _DENSE_SHARE * len(sample):
        return 1  # each dense character takes three bytes
    return 2 if len(_DENSE.findall(sample)) > _DENSE_SHARE * len(sample) else 1


def _by_readers(page: Page, worth: list[int], found: list[int]) -> set[int]:
    named = [
        node for node, name in enumerate(found) if name == hints.COMMENTS and page.tag[node] not in boilerplate.TAGS
    ]
    blocks, end = set(), 0
    for node in named:  # in document order, outer elements first
        if page.last[node] > end:
            blocks.update(block for block in range(max(end, page.first[node]), page.last[node]) if worth[block])
            end = page.last[node]
    return blocks


def _worth(page: Page, letters: int) -> list[int]:
    """Length of each block in letters if the block is prose, else 0."""
    result = []
    for text, link in zip(page.text, page.link):
        size = len(text) * letters
        prose = size >= _SENTENCE and link * letters * 3 < size and (size >= _PASSAGE or text.endswith(_END))
        result.append(size if prose else 0)
    return result


def _unlinked(page: Page, letters: int) -> list[int]:
    """Length of each block in letters if the block is not mostly links, else 0."""
    return [len(text) * letters if link * 3 < len(text) else 0 for text, link in zip(page.text, page.link)]


def _container(page: Page, worth: list[int], found: list[int]) -> int:
    """The node with the main text: an element named as content, else the smallest element with most of the prose."""
    sums = list(accumulate(worth, initial=0))
    prose = [sums[last] - sums[first] for first, last in zip(page.first, page.last)]
    named = [node for node, name in enumerate(found) if name == hints.CONTENT and prose[node]]
    if named:
        best = max(named, key=prose.__getitem__)
        for node in named:  # the innermost of nested elements
            inside = page.first[node] >= page.first[best] and page.last[node] <= page.last[best]
            if node > best and inside and prose[node] >= _NESTED_SHARE * prose[best]:
                best = node
        best = _together(page, named, best, prose) or best
        if prose[best] >= _CONTENT_SHARE * prose[0]:
            return best
    best = 0
    for node in range(1, len(prose)):
        if page.parent[node] == best and prose[node] >= _DOMINANT_SHARE * prose[0]:
            best = node
    for node in _articles_with_title(page):
        if (
            page.first[best] <= page.first[node]
            and page.last[node] <= page.last[best]
            and prose[node] >= _ARTICLE_SHARE * prose[best]
        ):
            return node
    return best


def _articles_with_title(page: Page) -> list[int]:
    titles = [block for block, node in enumerate(page.node) if page.tag[node] == "h1"][:_MOST_TITLES]
    articles = [node for node, tag in enumerate(page.tag) if tag == "article"]
    return [node for node in articles if any(page.first[node] <= block < page.last[node] for block in titles)]


def _together(page: Page, named: list[int], best: int, prose: list[int]) -> int:
    """The node around the pieces of a text that is split over several elements with the same content name; 0 if not
    split.
    """
    names = hints.content_names(page.attributes[best])
    pieces, end = [], 0
    for node in named:
        if page.first[node] >= end and not names.isdisjoint(hints.content_names(page.attributes[node])):
            pieces.append(node)
            end = page.last[node]
    if len(pieces) < 2:
        return 0
    first, last = page.first[pieces[0]], max(page.last[node] for node in pieces)
    node = best
    while node > 0 and not (page.first[node] <= first and last <= page.last[node]):
        node = page.parent[node]
    return node if sum(prose[piece] for piece in pieces) > _NESTED_SHARE * prose[node] else 0


def _sequence(page: Page, worth: list[int], living: bytearray, container: int) -> list[int]:
    """The blocks of the container that are text, preceded by the title and the lead."""
    first, last = page.first[container], page.last[container]
    start = first
    for block in range(first - 1, max(-1, first - _TITLE_DISTANCE), -1):
        if living[block] and page.tag[page.node[block]] == "h1":
            start = block
            break
    tags, texts, links, nodes = page.tag, page.text, page.link, page.node
    chosen = []
    for block in range(start, last):
        if living[block]:
            tag, text = tags[nodes[block]], texts[block]
            if (
                links[block] * 2 > len(text)
                and tag not in HEADINGS
                and _is_of_links(page, block)
                or phrases.is_label(text)
            ):
                continue
            if block < first and not worth[block] and tag != "h1" and len(text) < _LEAD:
                continue
            chosen.append(block)
    prose = [block for block in chosen if worth[block]]
    if prose:
        chosen = [block for block in chosen if _in_place(page, block, prose[0], prose[-1])]
    while len(chosen) > 1 and phrases.is_call(page.text[chosen[-1]]):
        chosen.pop()
    return _without_empty_sections(page, worth, chosen)


def _is_of_links(page: Page, block: int) -> bool:
    """Whether a block is mere links: no sentence around them, and not in a list or table that is mostly text."""
    if len(page.text[block]) - page.link[block] >= _LEAD:
        return False
    node = page.node[block]
    for _ in range(_LIST_LEVELS):
        if page.tag[node] in _LISTS:
            first, last = page.first[node], page.last[node]
            return (page.linked[last] - page.linked[first]) * 2 > page.sizes[last] - page.sizes[first]
        node = page.parent[node]
        if node <= 0:
            break
    return True


def _in_place(page: Page, block: int, first_prose: int, last_prose: int) -> bool:
    tag = page.tag[page.node[block]]
    if block < first_prose:
        return tag in HEADINGS
    return block <= last_prose or tag in _ITEMS or len(page.text[block]) >= _TAIL


def _without_empty_sections(page: Page, worth: list[int], chosen: list[int]) -> list[int]:
    """Drops headings whose sections contain only links, and headings at the end. Headings that read as prose stay."""
    dropped = list(accumulate([link * 2 > len(text) for text, link in zip(page.text, page.link)], initial=0))
    result, levels = [], []  # level of each kept block: 1 to 6 for headings, 7 for text
    for block in chosen:
        tag = page.tag[page.node[block]]
        level = int(tag[1]) if tag in HEADINGS and not worth[block] else 7
        while (
            level < 7
            and levels
            and level <= levels[-1] < 7
            and levels[-1] > 1
            and dropped[block] > dropped[result[-1] + 1]
        ):
            result.pop()
            levels.pop()
        result.append(block)
        levels.append(level)
    while levels and levels[-1] < 7:
        result.pop()
        levels.pop()
    return result
