"""Addresses that tell of a page what its text may not: the URL filter of RefinedWeb, DCLM and FineWeb.

Penedo et al. 2023, arXiv 2306.01116, appendix G.1; Li et al. 2024, arXiv 2406.11794; Penedo et al. 2024, arXiv 2406.17557. In order:

    domain      the host or any domain above it is on a list; there is no list of public suffixes, so an entry `co.uk` would hold for all of it
    url         the address itself, without scheme, `www.` and a last slash, is on a list
    strict      a string of a list stands in the address once all but letters and digits is taken out
    hard_word   a word of a list stands whole between signs
    soft_words  at least two different words of a softer list do

The lists are files (pipelines/core/lists.py): one for each category keeps the reasons apart no further than the measure, which is the entry met.
Costs a dozen microseconds an address, however long the lists.
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
    """Files of domains, addresses, substrings, hard and soft words; min_soft_words: different ones in one address. Reads metadata `url`."""

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
