"""Rejects animated images. Castor's own rule: training would use only the first frame of an animated PNG or WebP."""

import dataclasses
from typing import ClassVar

import gin
from castor.pipelines.document import Document
from castor.pipelines.filters.reason import Reason


@gin.configurable(module="pipelines.filters.still_image")
@dataclasses.dataclass(frozen=True)
class StillImage:
    """Rejects images with several frames. Reads metadata `frames`.

    max_frames: maximum number of frames.
    """

    max_frames: int = 1

    name: ClassVar[str] = "still_image"

    def check(self, document: Document) -> str | None:
        frames = document.metadata["frames"]
        return Reason("still_image.animated", f"{frames} frames") if frames > self.max_frames else None
