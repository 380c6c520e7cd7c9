"""Limits the length of a text before any rule that works on the whole text at once.

The tokenized text that the rules share takes about 60 bytes per character while in use. The limit is Castor's own: two
million characters are twice the longest document within Gopher's bounds (100,000 words of mean length 10). C4's own
limit is 190,000 characters.
"""

import dataclasses
from typing import ClassVar

import gin
from castor.pipelines.document import Document
from castor.pipelines.filters.reason import Reason


@gin.configurable(module="length")
@dataclasses.dataclass(frozen=True)
class Filter:
    """Rejects long texts as `length.too_long`.

    max_characters: maximum length of a text, in characters.
    """

    max_characters: int = 2_000_000

    name: ClassVar[str] = "length"

    def check(self, document: Document) -> str | None:
        length = len(document.text)
        return Reason("length.too_long", length) if length > self.max_characters else None
