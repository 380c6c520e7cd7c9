"""Image rules of OBELICS: format, size and aspect ratio.

Laurencon et al. 2023, arXiv 2306.16527. The thresholds are those of config_filter_web_documents.yaml in its repository.
"""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import gin
from castor.pipelines.document import Document
from castor.pipelines.filters.reason import Reason


@gin.configurable(module="pipelines.filters.obelics_image")
@dataclasses.dataclass(frozen=True)
class ObelicsImage:
    """Rejects images by format, size and shape. Reads metadata `format`, `width` and `height`.

    formats: accepted encodings.

    min_side: minimum length of the shorter side, in pixels.

    max_side: maximum length of the longer side, in pixels.

    max_aspect: maximum ratio of the longer side to the shorter side.
    """

    formats: Sequence[str] = ("JPEG", "PNG", "WEBP")
    min_side: int = 150
    max_side: int = 20_000
    max_aspect: float = 2.0

    name: ClassVar[str] = "obelics_image"

    def check(self, document: Document) -> str | None:
        width, height = document.metadata["width"], document.metadata["height"]
        if document.metadata["format"] not in self.formats:
            return Reason("obelics_image.format", document.metadata["format"])
        if min(width, height) < self.min_side:
            return Reason("obelics_image.small", f"{width} x {height}")
        if max(width, height) > self.max_side:
            return Reason("obelics_image.large", f"{width} x {height}")
        if max(width, height) > self.max_aspect * min(width, height):
            return Reason("obelics_image.aspect", f"{width} x {height}")
        return None
