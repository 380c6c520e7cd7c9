"""Filters video clips by duration, shape and motion.

Shortest clip: 2 s, the shortest scene of NeMo Curator. Aspect ratio: 9/21 to 21/9, the defaults of Data-Juicer.

Both tools measure motion by optical flow or motion vectors, which not every codec provides. Here motion is the mean
absolute change of brightness between small frames half a second apart (pipelines/media/measures.py). Its threshold is
Castor's own: only still pictures and test cards fail.
"""

import dataclasses
from typing import ClassVar

import gin
from castor.pipelines.document import Document
from castor.pipelines.filters.reason import Reason


@gin.configurable(module="pipelines.filters.clip_quality")
@dataclasses.dataclass(frozen=True)
class ClipQuality:
    """Rejects clips outside the bounds. Reads the metadata of media/measures.py's MeasureClip.

    min_seconds, max_seconds: bounds of the duration, in seconds.

    min_side: minimum length of the shorter side, in pixels.

    min_aspect, max_aspect: bounds of width / height.

    min_motion: minimum motion, as a share of full scale.

    require_text: reject clips without a caption.
    """

    min_seconds: float = 2.0
    max_seconds: float = 300.0
    min_side: int = 100
    min_aspect: float = 9 / 21
    max_aspect: float = 21 / 9
    min_motion: float = 0.002
    require_text: bool = False

    name: ClassVar[str] = "clip_quality"

    def check(self, document: Document) -> str | None:
        facts = document.metadata
        aspect = facts["width"] / facts["height"]
        if facts["seconds"] < self.min_seconds:
            return Reason("clip_quality.short", facts["seconds"])
        if facts["seconds"] > self.max_seconds:
            return Reason("clip_quality.long", facts["seconds"])
        if min(facts["width"], facts["height"]) < self.min_side:
            return Reason("clip_quality.side", f"{facts['width']} x {facts['height']}")
        if not self.min_aspect <= aspect <= self.max_aspect:
            return Reason("clip_quality.aspect", aspect)
        if facts["motion"] < self.min_motion:
            return Reason("clip_quality.motion", facts["motion"])
        if self.require_text and not (document.text or "").strip():
            return Reason("clip_quality.no_text")
        return None
