"""DataComp's basic filtering of image-text pairs: Gadre et al. 2023, arXiv 2304.14108, and apply_filter.py of its code.

The paper: "filtering by caption length (over two words and five characters); and filtering by image size (smaller
dimension above 200 pixels and aspect ratio below three)". DataComp's filter for English captions (fastText) is left
out, because Castor's corpora are multilingual.
"""

import dataclasses
from typing import ClassVar

import gin
from castor.pipelines.document import Document
from castor.pipelines.filters.reason import Reason


@gin.configurable(module="pipelines.filters.datacomp_basic")
@dataclasses.dataclass(frozen=True)
class DataCompBasic:
    """Rejects images by caption length, size and shape. Reads metadata `width` and `height`.

    min_words: minimum number of words in the caption, split at whitespace.

    min_chars: minimum length of the caption, in characters. With `min_words=0` and `min_chars=0` images without a
        caption pass.

    min_side: minimum length of the shorter side, in pixels.

    max_aspect: maximum ratio of the longer side to the shorter side.
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
        # "caption length (over two words and five characters)"
        if (count := len(caption.split())) < self.min_words:
            return Reason("datacomp_basic.words", count)
        if len(caption) < self.min_chars:
            return Reason("datacomp_basic.chars", len(caption))
        # "smaller dimension above 200 pixels and aspect ratio below three"
        if min(width, height) < self.min_side:
            return Reason("datacomp_basic.side", f"{width} x {height}")
        if max(width, height) > self.max_aspect * min(width, height):
            return Reason("datacomp_basic.aspect", f"{width} x {height}")
        return None
