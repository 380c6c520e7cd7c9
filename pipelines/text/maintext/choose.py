"""Which blocks of a page are its main text.

Boilerplate goes first (boilerplate.py); then the element is found that holds the prose; then its blocks are gone through in order.
Prose is what reads as sentences: long enough, ended as sentences are, and not of links. Everything else, a heading, a short paragraph, an
item of a list, stays or goes by where it stands among the prose.
"""

import re
from bisect import bisect
from itertools import accumulate

from castor.pipelines.text.maintext import boilerplate, hints, phrases
from castor.pipelines.text.maintext.stream import HEADINGS, Page

# Characters of a sentence that ends, and of a text that needs no full stop to be one (twice a line of a newspaper column's width of 70).
_SENTENCE, _PASSAGE = 40, 140
_END = tuple(".!?…:;\"'”’»“)]。！？」』）।॥؟۔։።")
# Scripts that write a word in one or two characters; a character counts for two letters there. Sampled from the head of the page.
_DENSE = re.compile("[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")
_SAMPLE, _DENSE_SHARE = 4000, 0.2
# A page with less prose than this is judged by all its unlinked text: a short poem, a form of data.
_LITTLE = 250
_CONTENT_SHARE = 0.4  # of the prose: an element named as content that has less is not the one
_ARTICLE_SHARE = (
    0.3  # of the prose: an article element with the title in it needs less, since its author says what it is
)
_MOST_TITLES = 10
_NESTED_SHARE = 0.5
_DOMINANT_SHARE = 0.8  # of the prose: the smallest element that holds as much holds the text
_TITLE_DISTANCE = 30  # blocks between the title and the text: dates, authors, buttons
_LEAD = 80  # characters of a paragraph between the title and the text that is its lead
_TAIL = 40  # characters; behind the last prose, less is a remnant unless it is a paragraph or an item
_LISTS, _LIST_LEVELS = ("ul", "ol", "dl", "table"), 5
_ITEMS = ("p", "li", "td", "dd")


def choose(page: Page, comments: bool = False) -> list[int]:
    """The blocks of the main text, in order. comments: the prose of readers' comments, too."""
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
    """How many letters a character counts for."""
    if len(sample.encode("utf-8", "surrogatepass")) - len(sample) <= 2 * _DENSE_SHARE * len(sample):
        return 1  # each dense character takes two bytes more than one
    return 2 if len(_DENSE.findall(sample)) > _DENSE_SHARE * len(sample) else 1


def _by_readers(page: Page, worth: list[int], found: list[int]) -> set[int]:
    named = [
        node for node, name in enumerate(found) if name == hints.COMMENTS and page.tag[node] not in boilerplate.TAGS
    ]
    blocks, end = set(), 0
    for node in named:  # in document order, outer ones first
        if page.last[node] > end:
            blocks.update(block for block in range(max(end, page.first[node]), page.last[node]) if worth[block])
            end = page.last[node]
    return blocks


def _worth(page: Page, letters: int) -> list[int]:
    """For each block its length in letters if it is prose, else 0."""
    result = []
    for text, link in zip(page.text, page.link):
        size = len(text) * letters
        prose = size >= _SENTENCE and link * letters * 3 < size and (size >= _PASSAGE or text.endswith(_END))
        result.append(size if prose else 0)
    return result


def _unlinked(page: Page, letters: int) -> list[int]:
    """For each block its length in letters if it is not of links, else 0."""
    return [len(text) * letters if link * 3 < len(text) else 0 for text, link in zip(page.text, page.link)]


def _container(page: Page, worth: list[int], found: list[int]) -> int:
    """The node that holds the main text: one whose name says so, or the smallest one that holds most of the prose."""
    sums = list(accumulate(worth, initial=0))
    prose = [sums[last] - sums[first] for first, last in zip(page.first, page.last)]
    named = [node for node, name in enumerate(found) if name == hints.CONTENT and prose[node]]
    if named:
        best = max(named, key=prose.__getitem__)
        for node in named:  # the innermost of nested ones
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
    """The node around the pieces of a text that is cut into several elements of the best one's name; 0 if it is one."""
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
    """The blocks of the container that are text, with the title and the lead before it."""
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
    """True for a block of links that is not one of few in a list or a table of text, and has no sentence around them."""
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
    """Without headings over nothing but links, and without those at the end. A heading that reads as prose is a text itself."""
    dropped = list(accumulate([link * 2 > len(text) for text, link in zip(page.text, page.link)], initial=0))
    result, levels = [], []  # the level of each block kept: 1 to 6 for a heading, 7 for a text
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
