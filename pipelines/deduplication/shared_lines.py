"""C4's deduplication of lines, as its code does it: Raffel et al. 2020, arXiv 1910.10683, section 2.2; tensorflow_datasets, text/c4_utils.py.

Two lines are the same if they are so in lower case, stripped. Of all pages that have a line, one keeps it: the one with the smallest id (ids are
hashes; C4 takes the smallest hash of the address). Within a page the first occurrence counts. A page that lost a line must have three sentences
left, else it is rejected. (The paper speaks of spans of three sentences; the code, of lines.)

A line that a page owns goes with it if the page is then rejected, as in C4. Pages removed as duplicates own nothing. Finding the owners is a
transform (`OwnLines`, pipelines/deduplication/line_owners.py); here is what it asks and what the sink does to a page.
"""

import dataclasses
from collections.abc import Collection
from typing import ClassVar

import numpy as np

import gin
from castor.pipelines.deduplication.rules import condense
from castor.pipelines.document import Document, Element, Rejection
from castor.pipelines.filters.c4 import count_sentences
from castor.pipelines.filters.reason import Reason
from castor.pipelines.text.tokenized_text import tokenize


@gin.configurable(module="c4")
@dataclasses.dataclass(frozen=True)
class SharedLines:
    """min_sentences: that a page must have left once it has lost a line."""

    min_sentences: int = 3

    name: ClassVar[str] = "c4"

    def keys(self, text: str) -> list[bytes]:
        """The key of each line that is not blank, in order, 16 bytes each."""
        tokenized = tokenize(text)
        return [
            condense(text[a:b].lower().encode("utf-8", "surrogatepass"))
            for a, b in zip(tokenized.line_starts.tolist(), tokenized.line_ends.tolist())
        ]

    def edit(self, document: Document, owned: Collection[bytes]) -> Element:
        """The page with the lines it owns alone, or a Rejection."""
        text = document.text or ""
        keys, before = self.keys(text), set()
        keep = np.array([key in owned and not (key in before or before.add(key)) for key in keys], bool)
        if keep.all():
            return document
        left = tokenize(text).joined(keep) if keep.any() else ""
        if (sentences := count_sentences(left)) < self.min_sentences:
            reason = Reason(
                "c4.shared_lines", f"{sentences} sentences left, {np.count_nonzero(~keep)} of {len(keep)} lines gone"
            )
            return Rejection(document, str(reason), reason.measure)
        return document.replace(text=left)
