"""Filters recordings by duration, sample rate, silence and clipping.

No corpus paper publishes model-free thresholds for these. The defaults are Castor's own, in the range of NeMo Curator's
audio pipeline (segments of 2 to 60 s, wide-band only): complete sentences, wide-band, mostly sound, hardly clipped.
"""

import dataclasses
from typing import ClassVar

import gin
from castor.pipelines.document import Document
from castor.pipelines.filters.reason import Reason


@gin.configurable(module="pipelines.filters.sound_quality")
@dataclasses.dataclass(frozen=True)
class SoundQuality:
    """Rejects recordings outside the bounds. Reads the metadata of media/measures.py's MeasureSound.

    min_seconds, max_seconds: bounds of the duration, in seconds.

    min_sample_rate: minimum sample rate of the original file, in Hz.

    max_silence: maximum share of silent 25 ms windows.

    max_clipping: maximum share of samples at full scale.

    require_text: reject recordings without a transcript or caption.
    """

    min_seconds: float = 1.0
    max_seconds: float = 30.0
    min_sample_rate: int = 16_000
    max_silence: float = 0.5
    max_clipping: float = 0.01
    require_text: bool = False

    name: ClassVar[str] = "sound_quality"

    def check(self, document: Document) -> str | None:
        facts = document.metadata
        if facts["seconds"] < self.min_seconds:
            return Reason("sound_quality.short", facts["seconds"])
        if facts["seconds"] > self.max_seconds:
            return Reason("sound_quality.long", facts["seconds"])
        if facts["sample_rate"] < self.min_sample_rate:
            return Reason("sound_quality.sample_rate", facts["sample_rate"])
        if facts["silence"] > self.max_silence:
            return Reason("sound_quality.silence", facts["silence"])
        if facts["clipping"] > self.max_clipping:
            return Reason("sound_quality.clipping", facts["clipping"])
        if self.require_text and not (document.text or "").strip():
            return Reason("sound_quality.no_text")
        return None
