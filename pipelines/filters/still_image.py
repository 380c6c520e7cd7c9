"""Only still pictures: an animated PNG or WebP would be trained on by its first frame alone. Castor's own rule."""

import dataclasses
from typing import ClassVar

import gin
from castor.pipelines.document import Document
from castor.pipelines.filters.reason import Reason


@gin.configurable(module="pipelines.filters.still_image")
@dataclasses.dataclass(frozen=True)
class StillImage:
    """At most `max_frames` frames."""

    max_frames: int = 1

    name: ClassVar[str] = "still_image"

    def check(self, document: Document) -> str | None:
        frames = document.metadata["frames"]
        return Reason("still_image.animated", f"{frames} frames") if frames > self.max_frames else None
