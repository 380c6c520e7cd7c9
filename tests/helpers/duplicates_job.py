"""JSON lines straight to a corpus, deduplicated: a job to test deduplication with. A module of its own, so that worker processes can import it."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from pipelines.duplicates import ByText, ByUrl
from pipelines.job import RefineJob
from pipelines.minhash import MinHash
from pipelines.pages import PageSource


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job(RefineJob):
    duplicates: Sequence[Any] = (ByUrl(), ByText(), MinHash())
    lines: Any = None

    def source(self):
        return PageSource(self.name, self.input_root, tuple(self.inputs))

    def build(self, pipeline, staging):
        from pipelines.deduplication import Deduplicate
        from pipelines.sink import WriteCorpus

        elements = pipeline | self.read()
        return (elements, elements | Deduplicate(self.duplicates)) | WriteCorpus(staging, self.num_shards, self.keep_rejects, self.lines)
