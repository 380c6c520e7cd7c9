"""The audio job: recordings with transcripts -> corpus.

    castor data audio --gin.INPUT_ROOT='"speech"' --gin.INPUTS='["*.tar"]' --gin.OUTPUT='"corpora/audio"'

Reads WebDataset tars and folders of WAV, FLAC, MP3, Ogg, WebM, MP4, 3GP and CAF. Whatever came, a document holds 16-bit FLAC of the sound,
mono at 16 kHz; the transcript is its text; duration, silence, clipping and what the file was are its metadata. Recordings that are the
same sample for sample at 16 kHz are one: equal samples are equal FLAC, so the bytes are the key.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import gin

from pipelines.deduplication import ExactDuplicates, bytes_key
from pipelines.filters.sound_quality import SoundQuality
from pipelines.media.measures import MeasureSound
from pipelines.media_job import MediaJob
from pipelines.sandbox import Sandbox
from pipelines.sink import WriteCorpus
from pipelines.stages import Apply, Through


@gin.configurable
@dataclasses.dataclass(frozen=True, kw_only=True)
class Job(MediaJob):
    """See MediaJob for what can be configured."""

    measure: MeasureSound = MeasureSound()
    limits: Sandbox = Sandbox(cpu_seconds=60.0, memory_bytes=2 << 30)
    rules: Sequence[Any] = (SoundQuality(),)

    modality: ClassVar[str] = "audio"

    def build(self, pipeline, staging):
        elements = pipeline | self.read() | Apply("decode", self.measure, self.limits) | Through(self.rules)
        return (elements, elements | ExactDuplicates(bytes_key)) | WriteCorpus(staging, self.num_shards, self.keep_rejects)
