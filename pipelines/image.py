"""The image job: pictures with captions -> corpus.

    castor data image --gin.INPUT_ROOT='"photos"' --gin.INPUTS='["*.tar"]' --gin.OUTPUT='"corpora/image"'

Reads WebDataset tars and folders of JPEG, PNG and WebP. A document holds the original encoded file, the caption as
text, and size and format as metadata. Files that are equal byte for byte are duplicates.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import gin
from castor.pipelines.core.sandbox import Sandbox
from castor.pipelines.core.stages import Apply, ApplySteps
from castor.pipelines.corpus.sink import WriteCorpus
from castor.pipelines.deduplication.deduplicate import Deduplicate
from castor.pipelines.deduplication.near_images import NearPictures
from castor.pipelines.deduplication.rules import ByBytes
from castor.pipelines.execution.media_job import MediaJob
from castor.pipelines.filters.datacomp_basic import DataCompBasic
from castor.pipelines.filters.still_image import StillImage
from castor.pipelines.media.measures import MeasureImage

del NearPictures  # imported so that gin knows it


@gin.configurable(module="pipelines.image")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Job(MediaJob):
    """The image job; MediaJob documents the other fields.

    measure: decodes and measures one picture.
    duplicates: rules of deduplication, in order (pipelines/deduplication/rules.py and near_images.py).
    """

    measure: MeasureImage = MeasureImage()
    sandbox: Sandbox = Sandbox(cpu_seconds=20.0, memory_bytes=2 << 30)
    filters: Sequence[Any] = (StillImage(), DataCompBasic())
    duplicates: Sequence[Any] = (ByBytes(),)

    modality: ClassVar[str] = "image"

    def build(self, pipeline, staging):
        records, counts = pipeline | self.read()
        elements = records | Apply("decode", self.measure, self.sandbox) | ApplySteps(self.filters)
        return (elements, counts, elements | Deduplicate(self.duplicates)) | WriteCorpus(
            staging, self.num_shards, self.keep_rejects
        )
