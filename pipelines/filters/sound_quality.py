"""Duration, sample rate, silence and clipping of recordings.

No corpus paper publishes model-free thresholds for these; the defaults are Castor's own choice, in the range of NeMo Curator's audio
pipeline (segments of 2 to 60 s, wide-band only): whole sentences, wide-band, mostly sound, hardly clipped.
"""

import dataclasses
from typing import ClassVar

import gin
from castor.pipelines.document import Document
from castor.pipelines.filters.reason import Reason


@gin.configurable(module="pipelines.filters.sound_quality")
@dataclasses.dataclass(frozen=True)
class SoundQuality:
    """Seconds; sample rate in Hz of the file as it came; shares 0..1 of silent 25 ms windows and of samples at full scale."""

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
