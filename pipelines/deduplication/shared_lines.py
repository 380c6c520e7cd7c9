"""C4's deduplication of lines (Raffel et al. 2020, arXiv 1910.10683, section 2.2), as in its code.

The code is text/c4_utils.py of tensorflow_datasets; it compares lines, where the paper speaks of spans of three
sentences. Two lines are equal if they are equal after stripping and in lower case. Of all pages that have a line,
only the one with the smallest id keeps it (C4 takes the smallest hash of the URL; ids are hashes too). Within a page,
the first occurrence counts. A page that lost a line is rejected unless it has three sentences left.

If the owner of a line is rejected, the line is lost, as in C4. Pages removed as duplicates own no lines. The
transform `OwnLines` (pipelines/deduplication/line_owners.py) finds the owners. This file has the keys of lines and
the edit of a page in the sink. No Beam.
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
    """C4's rule on shared lines.

    min_sentences: a page that lost a line is rejected with fewer sentences than this.
    """

    min_sentences: int = 3

    name: ClassVar[str] = "c4"

    def keys(self, text: str) -> list[bytes]:
        """The key (16 bytes) of each non-empty line, in order."""
        tokenized = tokenize(text)
        return [
            condense(text[a:b].lower().encode("utf-8", "surrogatepass"))
            for a, b in zip(tokenized.line_starts.tolist(), tokenized.line_ends.tolist())
        ]

    def edit(self, document: Document, owned: Collection[bytes]) -> Element:
        """The page with only the lines it owns, or a Rejection."""
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
