"""The basic filter of DataComp (Gadre et al. 2023, arXiv 2304.14108; apply_filter.py of its repository): captions and shapes of images.

Its English test (fastText) is left out: Castor's corpora are multilingual.
"""

import dataclasses
from typing import ClassVar

import gin
from castor.pipelines.document import Document
from castor.pipelines.filters.reason import Reason


@gin.configurable(module="pipelines.filters.datacomp_basic")
@dataclasses.dataclass(frozen=True)
class DataCompBasic:
    """Words (split at blanks) and characters of the caption, shorter side in pixels, longer side over shorter one.

    `min_words=0` and `min_chars=0` let pictures without a caption pass.
    """

    min_words: int = 3
    min_chars: int = 6
    min_side: int = 200
    max_aspect: float = 3.0

    name: ClassVar[str] = "datacomp_basic"

    def check(self, document: Document) -> str | None:
        caption = (document.text or "").strip()
        width, height = document.metadata["width"], document.metadata["height"]
        if not caption and (self.min_words or self.min_chars):
            return Reason("datacomp_basic.no_caption")
        if (count := len(caption.split())) < self.min_words:
            return Reason("datacomp_basic.words", count)
        if len(caption) < self.min_chars:
            return Reason("datacomp_basic.chars", len(caption))
        if min(width, height) < self.min_side:
            return Reason("datacomp_basic.side", f"{width} x {height}")
        if max(width, height) > self.max_aspect * min(width, height):
            return Reason("datacomp_basic.aspect", f"{width} x {height}")
        return None
