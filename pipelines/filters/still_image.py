"""Only still pictures: an animated PNG or WebP would be trained on by its first frame alone. Castor's own rule."""

import dataclasses
from typing import ClassVar

import gin

from pipelines.document import Document


@gin.configurable
@dataclasses.dataclass(frozen=True)
class StillImage:
    """At most `max_frames` frames."""

    max_frames: int = 1

    name: ClassVar[str] = "still_image"

    def check(self, document: Document) -> str | None:
        return "still_image.animated" if document.metadata["frames"] > self.max_frames else None
