"""The basic filter of DataComp (Gadre et al. 2023, arXiv 2304.14108; apply_filter.py of its repository): captions and shapes of images.

Its English test (fastText) is left out: Castor's corpora are multilingual.
"""

import dataclasses
from typing import ClassVar

import gin

from pipelines.document import Document


@gin.configurable
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
            return "datacomp_basic.no_caption"
        if len(caption.split()) < self.min_words:
            return "datacomp_basic.words"
        if len(caption) < self.min_chars:
            return "datacomp_basic.chars"
        if min(width, height) < self.min_side:
            return "datacomp_basic.side"
        if max(width, height) > self.max_aspect * min(width, height):
            return "datacomp_basic.aspect"
        return None
