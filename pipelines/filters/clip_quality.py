"""Duration, shape and motion of films.

Shortest clip: 2 s, NeMo Curator's shortest scene. Aspect: 9/21 to 21/9, Data-Juicer's default. Motion: both measure it by optical flow or
motion vectors, which not every codec has; here it is the mean absolute change of brightness between small frames half a second apart (see
pipelines/media/measures.py), with a threshold of Castor's own that only still pictures and test cards fail.
"""

import dataclasses
from typing import ClassVar

import gin
from castor.pipelines.document import Document
from castor.pipelines.filters.reason import Reason


@gin.configurable(module="pipelines.filters.clip_quality")
@dataclasses.dataclass(frozen=True)
class ClipQuality:
    """Seconds; shorter side in pixels; width over height; motion as a share of full scale."""

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
