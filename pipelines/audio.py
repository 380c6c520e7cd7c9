"""The audio job: recordings with transcripts -> corpus.

    castor data audio --gin.INPUT_ROOT='"speech"' --gin.INPUTS='["*.tar"]' --gin.OUTPUT='"corpora/audio"'

Reads WebDataset tars and folders of WAV, FLAC, MP3, Ogg, WebM, MP4, 3GP and CAF. A document holds the sound as 16-bit
mono FLAC at 16 kHz, the transcript as text, and duration, silence, clipping and the original format as metadata.
Recordings with equal samples at 16 kHz are duplicates: equal samples give equal FLAC, so the rule compares bytes.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import gin
from castor.pipelines.core.sandbox import Sandbox
from castor.pipelines.core.stages import Apply, ApplySteps
from castor.pipelines.corpus.sink import WriteCorpus
from castor.pipelines.deduplication.deduplicate import ExactDuplicates, bytes_key
from castor.pipelines.execution.media_job import MediaJob
from castor.pipelines.filters.sound_quality import SoundQuality
from castor.pipelines.media.measures import MeasureSound


@gin.configurable(module="pipelines.audio")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Job(MediaJob):
    """The audio job; MediaJob documents the other fields.

    measure: decodes and measures one recording.
    """

    measure: MeasureSound = MeasureSound()
    sandbox: Sandbox = Sandbox(cpu_seconds=60.0, memory_bytes=2 << 30)
    filters: Sequence[Any] = (SoundQuality(),)

    modality: ClassVar[str] = "audio"

    def build(self, pipeline, staging):
        records, counts = pipeline | self.read()
        elements = records | Apply("decode", self.measure, self.sandbox) | ApplySteps(self.filters)
        return (elements, counts, elements | ExactDuplicates(bytes_key)) | WriteCorpus(
            staging, self.num_shards, self.keep_rejects
        )
