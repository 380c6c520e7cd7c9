"""Rejects pages by their URL: the URL filter of RefinedWeb, DCLM and FineWeb.

Penedo et al. 2023, arXiv 2306.01116, appendix G.1; Li et al. 2024, arXiv 2406.11794; Penedo et al. 2024, arXiv
2406.17557. The rules run in this order:

    domain      the host or a parent domain is on a list. Public suffixes are not treated specially, so an entry `co.uk`
                would match all of them
    url         the URL itself, without scheme, `www.` and trailing slash, is on a list
    strict      a listed string occurs in the URL after removing everything but letters and digits
    hard_word   a listed word occurs in the URL as a whole word
    soft_words  at least two different words of a softer list occur in the URL

The lists are files (pipelines/core/lists.py). The measure of a rejection names the matching entry. The cost is about a
dozen microseconds per URL, whatever the length of the lists.
"""

import dataclasses
import re
from collections.abc import Sequence
from typing import ClassVar

import gin
from castor.pipelines.core import lists
from castor.pipelines.document import Document
from castor.pipelines.filters.reason import Reason
from castor.pipelines.text.urls import domain_suffixes, split_url

_PARTS = re.compile(r"[^a-z0-9]+")


@gin.configurable(module="url_lists")
@dataclasses.dataclass(frozen=True)
class Filter:
    """Rejects pages whose URL is on a list. Reads metadata `url`.

    domains: lists of domains.

    urls: lists of URLs.

    strict: lists of substrings.

    hard_words, soft_words: lists of words.

    min_soft_words: number of different soft words in one URL that rejects the page.
    """

    domains: Sequence[str] = ("castor/url_domains.txt",)
    urls: Sequence[str] = ()
    strict: Sequence[str] = ("castor/url_strict.txt",)
    hard_words: Sequence[str] = ("castor/url_hard.txt",)
    soft_words: Sequence[str] = ("castor/url_soft.txt",)
    min_soft_words: int = 2

    name: ClassVar[str] = "url_lists"

    def reads(self) -> dict[str, str]:
        return lists.reads((*self.domains, *self.urls, *self.strict, *self.hard_words, *self.soft_words))

    def prepare(self) -> None:
        lists.hashed(tuple(self.domains))
        lists.hashed(tuple(self.urls))
        lists.substrings(tuple(self.strict))

    def check(self, document: Document) -> str | None:
        url = document.metadata.get("url")
        if not isinstance(url, str):
            return None
        host, rest = split_url(url)
        found = lists.hashed(tuple(self.domains)).first(domain_suffixes(host))
        if found is not None:
            return Reason("url_lists.domain", found)
        address = (host + rest).removeprefix("www.").rstrip("/")
        if self.urls and lists.hashed(tuple(self.urls)).first([address]) is not None:
            return Reason("url_lists.url", address)
        found = lists.substrings(tuple(self.strict)).first(_PARTS.sub("", address))
        if found is not None:
            return Reason("url_lists.strict", found)
        parts = frozenset(_PARTS.split(address))
        hard = parts & lists.words(tuple(self.hard_words))
        if hard:
            return Reason("url_lists.hard_word", min(hard))
        soft = parts & lists.words(tuple(self.soft_words))
        if len(soft) >= self.min_soft_words:
            return Reason("url_lists.soft_words", " ".join(sorted(soft)))
        return None
