"""A job for tests of deduplication: writes JSON lines directly to a corpus, deduplicated.

The job has its own module so that worker processes can import it.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from castor.pipelines.deduplication.minhash import MinHash
from castor.pipelines.deduplication.rules import ByText, ByUrl
from castor.pipelines.execution.job import RefineJob
from castor.pipelines.readers.web_source import WebSource


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job(RefineJob):
    duplicates: Sequence[Any] = (ByUrl(), ByText(), MinHash())
    lines: Any = None

    def source(self):
        return WebSource(self.name, self.input_root, tuple(self.inputs))

    def build(self, pipeline, staging):
        from castor.pipelines.corpus.sink import WriteCorpus
        from castor.pipelines.deduplication.deduplicate import Deduplicate

        elements, counts = pipeline | self.read()
        return (elements, counts, elements | Deduplicate(self.duplicates)) | WriteCorpus(
            staging, self.num_shards, self.keep_rejects, self.lines
        )
