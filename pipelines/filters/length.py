"""A bound on the length of a text, before anything that works on all of it at once.

The tokenised view that the rules share takes about 60 bytes a character while it is in use. Our own choice, from no paper: two million
characters are twice what the longest document within Gopher's bounds has (100,000 words of mean length 10). C4's own bound is 190,000.
"""

import dataclasses
from typing import ClassVar

import gin
from castor.pipelines.document import Document
from castor.pipelines.filters.reason import Reason


@gin.configurable(module="length")
@dataclasses.dataclass(frozen=True)
class Filter:
    """max_characters: longer texts are rejected as `length.too_long`."""

    max_characters: int = 2_000_000

    name: ClassVar[str] = "length"

    def check(self, document: Document) -> str | None:
        length = len(document.text)
        return Reason("length.too_long", length) if length > self.max_characters else None
