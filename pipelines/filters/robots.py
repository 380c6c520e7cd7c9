"""What publishers say about the use of a page, in its HTTP headers and `meta` elements, honoured.

    X-Robots-Tag: noai, noimageai                  repeated at will; `agent: noindex` speaks to one crawler
    <meta name="robots" content="noai">            the same inside a page; another name than `robots` speaks to one crawler
    TDM-Reservation: 1                             W3C's TDM Reservation Protocol: text and data mining is reserved (EU directive 2019/790, article 4)
    <meta name="tdm-reservation" content="1">

By default `noai` and a reservation of text and data mining reject a page: each says in so many words that its publisher does not want it trained
on. `noindex`, `none` and `noarchive` are about search results and caches and stand on many a page that its publisher would not mind being read
(archives, lists of tags), so they reject only if gin says so; `noimageai` is about the pictures of a page and matters to a job that takes those.
A page may only be held to what its record carries: text without its headers (WET, JSON lines) says nothing, and robots.txt is the crawler's
to obey before there is a record.

A `meta` element counts wherever it stands in the first part of a page, in a comment too: who is in doubt leaves the page alone.
"""

import dataclasses
import re
from collections.abc import Iterator, Sequence
from typing import ClassVar

import gin
from castor.pipelines.document import Document
from castor.pipelines.filters.reason import Reason

TDM = "tdm-reservation"
_META = re.compile(rb"<meta[\s/]([^<>]{0,2000})>", re.IGNORECASE)
_ATTRIBUTE = re.compile(
    rb"""([a-z-]{1,40})\s{0,20}=\s{0,20}(?:"([^"]{0,1000})"|'([^']{0,1000})'|([^\s"'>]{1,1000}))""", re.IGNORECASE
)
_WITH_VALUE = ("unavailable_after", "max-snippet", "max-image-preview", "max-video-preview")


@gin.configurable(module="robots")
@dataclasses.dataclass(frozen=True)
class Filter:
    """directives: those that reject, as `robots.DIRECTIVE`; `tdm-reservation` stands for W3C's protocol.

    agents: crawlers whose directives bind beside those for everyone: by default the one that fetched most public archives.
    head_bytes: how much of a page is looked through for `meta` elements.
    Reads metadata `x_robots_tag` and `tdm_reservation`, as pipelines/readers/web_source.py takes them from a response, and the page's bytes.
    """

    directives: Sequence[str] = ("noai", TDM)
    agents: Sequence[str] = ("ccbot",)
    head_bytes: int = 1 << 18

    name: ClassVar[str] = "robots"

    def check(self, document: Document) -> str | None:
        wanted = {d.lower() for d in self.directives}
        for where, agent, directive in self._said(document, wanted):
            if directive in wanted and (agent == "" or agent in self.agents):
                return Reason(
                    f"robots.{re.sub('[^a-z0-9._-]', '_', directive)}",
                    f"{where}: {agent + ': ' if agent else ''}{directive}",
                )
        return None

    def _said(self, document: Document, wanted: set[str]) -> Iterator[tuple[str, str, str]]:
        for agent, directive in parse(str(document.metadata.get("x_robots_tag", ""))):
            yield "X-Robots-Tag", agent, directive
        if str(document.metadata.get("tdm_reservation", "")).strip() == "1":
            yield "TDM-Reservation", "", TDM
        head = (document.bytes or b"")[: self.head_bytes]
        if b"\0" in head:
            head = head.replace(b"\0", b"")  # UTF-16
        lower = head.lower()
        if any(directive.encode("ascii", "ignore") in lower for directive in wanted):
            for agent, directive in metas(head):
                yield "meta", agent, directive


def parse(value: str) -> Iterator[tuple[str, str]]:
    """(agent, directive) of the lines of X-Robots-Tag, in lower case; the agent is empty where everyone is meant.

    Within a line an agent holds until the next one is named: `noai, bot: noindex, nofollow` speaks to everyone once, to bot twice.
    """
    for line in value.lower().split("\n"):
        agent = ""
        for part in line.split(","):
            name, colon, rest = part.partition(":")
            name = name.strip()
            if colon and name not in _WITH_VALUE:
                agent, name = ("" if name == "*" else name), rest.partition(":")[0].strip()
            if name:
                yield agent, name


def metas(head: bytes) -> Iterator[tuple[str, str]]:
    """(agent, directive) of the `meta` elements of a page's bytes."""
    for element in _META.finditer(head):
        attributes = {}
        for name, *values in _ATTRIBUTE.findall(element.group(1)):
            attributes.setdefault(
                name.lower().decode(), next(filter(None, values), b"").decode("latin-1").strip().lower()
            )
        name, content = attributes.get("name", ""), attributes.get("content", "")
        if name == TDM:
            if content == "1":
                yield "", TDM
        elif name and content:
            for _, directive in parse(content):
                yield ("" if name == "robots" else name), directive
