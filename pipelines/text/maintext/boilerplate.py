"""Finds the boilerplate of a page: navigation, advertisements, teasers, comments, hidden parts.

A part is removed for its tag, its names (hints.py) or its links. Names can mislead, so a part with too much of the
page's prose stays: the less specific the name, the lower the limit. `worth` measures prose.
"""

from itertools import accumulate
from operator import mul

from castor.pipelines.text.maintext import hints
from castor.pipelines.text.maintext.stream import HEADINGS, Page

# Tags that are as specific as names; nav, menu and footer are as reliable as the names of comments.
TAGS = {
    "nav": hints.COMMENTS,
    "menu": hints.COMMENTS,
    "footer": hints.COMMENTS,
    "aside": hints.BOILERPLATE,
    "form": hints.BOILERPLATE,
    "figcaption": hints.MINOR,
    "address": hints.MINOR,
}
# Maximum share of the page's prose in a part that is removed for its name. Comments are often longer than the article,
# and their names are reliable. A hidden part may be the article behind a consent wall. Minor names have many uses.
_LIMIT = {hints.COMMENTS: 0.8, hints.HIDDEN: 0.4, hints.BOILERPLATE: 0.4, hints.MINOR: 0.2}
# On a short page a few teasers have more prose than the text. Parts with less prose than this have a limit of 0.8.
_SMALL = 1000
# A part with a reliable name and less prose than this is always removed: a page may consist of its menu alone.
_LITTLE = 100
# Limit for all nodes of one class together: every paragraph may have the same class.
_SHARED_LIMIT = 0.6
# If less than this share of the prose remains, the names were misleading.
_LEFT = 0.1
# A teaser: a linked heading and at most a few sentences.
_TEASER_PROSE = 600
_TEASER_SHARE = 0.3
_TEASER_LEVELS = 8


def verdicts(page: Page) -> list[int]:
    """The class (hints.py) of each node with blocks, its tag included; 0 for the other nodes."""
    result, known = [], {}
    for tag, attributes, first, last in zip(page.tag, page.attributes, page.first, page.last):
        found = 0
        if first != last:
            if attributes:
                found = known.get(attributes)
                if found is None:
                    found = known[attributes] = hints.verdict(attributes)
            if found < hints.BOILERPLATE:
                found = TAGS.get(tag, found)
            elif found < hints.COMMENTS and (tag in HEADINGS or tag in ("body", "main", "html", "article")):
                found = 0  # their names describe the page: template, sidebar, category
        result.append(found)
    return result


def alive(page: Page, worth: list[int], found: list[int]) -> bytearray:
    """1 for each block outside boilerplate, else 0.

    worth: prose per block.

    found: result of `verdicts`.
    """
    result = bytearray(b"\1") * len(page.text)
    heads = [0] * (len(page.text) + 1)  # starts of the main element and of titles
    for tag, first in zip(page.tag, page.first):
        if tag == "main" or tag == "h1":
            heads[first] += 1
    heads = list(accumulate(heads, initial=0))
    candidates, classes = _candidates(page, found), {}
    for sure in (True, False):
        before = bytes(result)
        prose = list(accumulate(map(mul, worth, result), initial=0))
        everything, end = prose[-1], 0
        shared = _shared(page, candidates, prose, classes)
        for node, name, first, last in candidates:
            if last <= end:
                continue
            inside = prose[last] - prose[first]
            if name < hints.BOILERPLATE:
                dead = not inside
            elif (name >= hints.COMMENTS) is not sure:
                continue
            else:
                limit = 0.8 if name == hints.BOILERPLATE and inside < _SMALL else _LIMIT[name]
                dead = inside <= limit * everything and shared.get(node, 0) <= _SHARED_LIMIT * everything
                dead = dead or name == hints.COMMENTS and inside < _LITTLE
                dead = dead and (sure or not inside or heads[last] == heads[first])
            if dead:
                result[first:last] = bytes(last - first)
                end = last
        if not sure and sum(map(mul, worth, result)) < _LEFT * everything:
            result[:] = before
    _remove_teasers(page, worth, result)
    return result


def _candidates(page: Page, found: list[int]) -> list[tuple[int, int, int, int]]:
    """(node, class, first, last) of possible boilerplate, in document order.

    Candidates are elements with such names, and menus: several blocks, mostly links, which are boilerplate without
    prose.
    """
    linked, sizes = page.linked, page.sizes
    return [
        (node, name, first, last)
        for node, (name, first, last) in enumerate(zip(found, page.first, page.last))
        if first != last
        and (
            name >= hints.BOILERPLATE
            or last - first > 1
            and (linked[last] - linked[first]) * 2 > sizes[last] - sizes[first]
        )
    ]


def _shared(
    page: Page, candidates: list[tuple[int, int, int, int]], prose: list[int], classes: dict[int, str]
) -> dict[int, int]:
    """For each node with prose and a boilerplate class: the prose of all nodes of that class.

    classes: cache of the classes of nodes.
    """
    inside, sums = {}, {}
    for node, name, first, last in candidates:
        if name >= hints.BOILERPLATE and prose[last] > prose[first]:
            if node not in classes:
                classes[node] = hints.class_of(page.attributes[node])
            inside[node] = prose[last] - prose[first]
            sums[classes[node]] = sums.get(classes[node], 0) + inside[node]
    return {node: sums[classes[node]] for node in inside if classes[node]}


def _remove_teasers(page: Page, worth: list[int], living: bytearray) -> None:
    """Removes teasers: headings that are links to other pages, with their surroundings up to those of the next such
    heading.
    """
    heads = [
        int(a and link * 10 >= len(text) * 9 and page.tag[node] in HEADINGS)
        for a, text, link, node in zip(living, page.text, page.link, page.node)
    ]
    if sum(heads) < 2:  # a single one is the title of the page
        return
    prose = list(accumulate(map(mul, worth, living), initial=0))
    count = list(accumulate(heads, initial=0))
    titles = list(accumulate((int(page.tag[node] == "h1") for node in page.node), initial=0))
    limit = min(_TEASER_PROSE, _TEASER_SHARE * prose[-1])
    for block, is_head in enumerate(heads):
        if is_head:
            node = page.node[block]
            for _ in range(_TEASER_LEVELS):
                parent = page.parent[node]
                first, last = page.first[parent], page.last[parent]
                if parent <= 0 or count[last] - count[first] > 1 or titles[last] > titles[first]:
                    break
                node = parent
            first, last = page.first[node], page.last[node]
            if prose[last] - prose[first] <= limit:
                living[first:last] = bytes(last - first)
