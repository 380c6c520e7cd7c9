"""Which parts of a page are furniture: navigation, advertisements, teasers, comments, what is hidden.

A part is taken out for its tag, its names (hints.py) or its links. Names lie, so no part goes that holds too much of the page's prose: the
limit is lower the less the name says. Prose is measured by `worth`.
"""

from itertools import accumulate
from operator import mul

from castor.pipelines.text.maintext import hints
from castor.pipelines.text.maintext.stream import HEADINGS, Page

# Tags that say as much as a name; nav, menu and footer as sure a one as that of comments.
TAGS = {
    "nav": hints.COMMENTS,
    "menu": hints.COMMENTS,
    "footer": hints.COMMENTS,
    "aside": hints.BOILERPLATE,
    "form": hints.BOILERPLATE,
    "figcaption": hints.MINOR,
    "address": hints.MINOR,
}
# The share of the page's prose up to which a part of that name is what its name says. Comments are often longer than the article, and their
# name is sure; a hidden part may be the article behind a consent wall; minor names are used for anything.
_LIMIT = {hints.COMMENTS: 0.8, hints.HIDDEN: 0.4, hints.BOILERPLATE: 0.4, hints.MINOR: 0.2}
# On a short page, a few teasers hold more prose than the text does; below this much prose a part of a sure name may hold up to 0.8.
_SMALL = 1000
# And a part of a sure name with less than this goes, whatever the page has besides: a page may be nothing but its menu.
_LITTLE = 100
# What bears one class is judged together, too: every paragraph may be named alike.
_SHARED_LIMIT = 0.6
# If less than this share of the prose is left, the names did not mean what they say.
_LEFT = 0.1
# A teaser: a linked heading and at most a few sentences.
_TEASER_PROSE = 600
_TEASER_SHARE = 0.3
_TEASER_LEVELS = 8


def verdicts(page: Page) -> list[int]:
    """hints' verdict on each node that has blocks, that of its tag included; 0 for the others."""
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
                found = 0  # their names speak of the page: its template, its sidebar, its category
        result.append(found)
    return result


def alive(page: Page, worth: list[int], found: list[int]) -> bytearray:
    """1 for each block outside boilerplate. `found` are the verdicts."""
    result = bytearray(b"\1") * len(page.text)
    heads = [0] * (len(page.text) + 1)  # blocks that stand for the whole page: its main element, its title
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
    _kill_teasers(page, worth, result)
    return result


def _candidates(page: Page, found: list[int]) -> list[tuple[int, int, int, int]]:
    """(node, verdict, first, last) of what may be boilerplate, in document order: elements of such names, and menus: several blocks, mostly links,
    which are boilerplate if no prose is in them."""
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
    """For each node whose class is boilerplate and that has prose, the prose of all nodes of that class: they are judged together.

    classes: those of nodes, as far as they were asked for before.
    """
    inside, sums = {}, {}
    for node, name, first, last in candidates:
        if name >= hints.BOILERPLATE and prose[last] > prose[first]:
            if node not in classes:
                classes[node] = hints.class_of(page.attributes[node])
            inside[node] = prose[last] - prose[first]
            sums[classes[node]] = sums.get(classes[node], 0) + inside[node]
    return {node: sums[classes[node]] for node in inside if classes[node]}


def _kill_teasers(page: Page, worth: list[int], living: bytearray) -> None:
    """Headings that are links lead to other pages: they go, and what is around them up to where the next one's surroundings begin."""
    heads = [
        int(a and link * 10 >= len(text) * 9 and page.tag[node] in HEADINGS)
        for a, text, link, node in zip(living, page.text, page.link, page.node)
    ]
    if sum(heads) < 2:  # one is the title of the page
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
