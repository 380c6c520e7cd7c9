"""Honours what publishers declare about the use of a page, in HTTP headers and `meta` elements.

    X-Robots-Tag: noai, noimageai                  may be repeated; `agent: noindex` addresses one crawler
    <meta name="robots" content="noai">            the same inside a page; any other name addresses one crawler
    TDM-Reservation: 1                             W3C's TDM Reservation Protocol: text and data mining is reserved
                                                   (EU directive 2019/790, article 4)
    <meta name="tdm-reservation" content="1">

By default `noai` and a reservation of text and data mining reject a page, since both state that the publisher does not
want the page used for training. `noindex`, `none` and `noarchive` concern search results and caches. Many pages carry
them whose publishers would not mind a reader (archives, tag lists), so they reject a page only if gin lists them.
`noimageai` concerns the images of a page and matters to jobs that take those.

A page is checked only by what its record contains. Text without headers (WET, JSON lines) declares nothing, and
robots.txt binds the crawler before a record exists.

A `meta` element counts anywhere in the first part of a page, even in a comment: in doubt the page is left out.
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
    """Rejects pages whose publisher reserves their use.

    Reads metadata `x_robots_tag` and `tdm_reservation`, which pipelines/readers/web_source.py takes from the response,
    and the bytes of the page.

    directives: directives that reject, as `robots.DIRECTIVE`; `tdm-reservation` names W3C's protocol.

    agents: crawlers whose directives apply in addition to those for everyone. The default is the crawler that fetched
        most public archives.

    head_bytes: number of bytes of a page that are searched for `meta` elements.
    """

    directives: Sequence[str] = ("noai", TDM)
    agents: Sequence[str] = ("ccbot",)
    head_bytes: int = 1 << 18

    name: ClassVar[str] = "robots"

    def check(self, document: Document) -> str | None:
        wanted = {d.lower() for d in self.directives}
        for where, agent, directive in self._declared(document, wanted):
            if directive in wanted and (agent == "" or agent in self.agents):
                return Reason(
                    f"robots.{re.sub('[^a-z0-9._-]', '_', directive)}",
                    f"{where}: {agent + ': ' if agent else ''}{directive}",
                )
        return None

    def _declared(self, document: Document, wanted: set[str]) -> Iterator[tuple[str, str, str]]:
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
    """Yields (agent, directive) of the lines of X-Robots-Tag, in lower case; the agent is empty if everyone is
    addressed.

    Within a line an agent applies until the next agent is named. Example: `noai, bot: noindex, nofollow` gives ("",
    "noai"), ("bot", "noindex") and ("bot", "nofollow").
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
    """Yields (agent, directive) of the `meta` elements in the bytes of a page."""
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
