"""The video job: films with titles or captions -> corpus.

    castor data video --gin.INPUT_ROOT='"films"' --gin.INPUTS='["*"]' --gin.OUTPUT='"corpora/video"'

Reads folders and WebDataset tars of MP4, WebM, Matroska and Ogg. A document holds the original container, title and
captions as text, and duration, size and motion as metadata. The job decodes each film completely, so that the corpus
holds no damaged film. Files that are equal byte for byte are duplicates.
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
    """The video job; MediaJob documents the other fields.

    measure: decodes and measures one film.
    """

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
