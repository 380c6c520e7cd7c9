"""The video job: films with titles or captions -> corpus.

    castor data video --gin.INPUT_ROOT='"films"' --gin.INPUTS='["*"]' --gin.OUTPUT='"corpora/video"'

Reads folders and WebDataset tars of MP4, WebM, Matroska and Ogg; a document keeps the container as it came, the title and the captions as
text, duration, size and motion as metadata. All of a film is decoded here once, so that what is in the corpus is known to be whole. Films
that are the same byte for byte are one.
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
from castor.pipelines.filters.clip_quality import ClipQuality
from castor.pipelines.media.measures import MeasureClip


@gin.configurable(module="pipelines.video")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Job(MediaJob):
    """See MediaJob for what can be configured."""

    measure: MeasureClip = MeasureClip()
    sandbox: Sandbox = Sandbox(cpu_seconds=300.0, memory_bytes=3 << 30)
    filters: Sequence[Any] = (ClipQuality(),)

    modality: ClassVar[str] = "video"

    def build(self, pipeline, staging):
        records, counts = pipeline | self.read()
        elements = records | Apply("decode", self.measure, self.sandbox) | ApplySteps(self.filters)
        return (elements, counts, elements | ExactDuplicates(bytes_key)) | WriteCorpus(
            staging, self.num_shards, self.keep_rejects
        )
