"""The web job: pages of archives and plain files to a corpus of main texts.

read -> decode, extract, name the language (one turn in the sandbox) -> rule sets -> exact duplicates -> corpus
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import gin

from pipelines.deduplication import ExactDuplicates, text_key
from pipelines.filters import fineweb, gopher_quality
from pipelines.html import Extract
from pipelines.job import RefineJob
from pipelines.language import Identify
from pipelines.pages import PageSource
from pipelines.sandbox import Sandbox
from pipelines.sink import WriteCorpus
from pipelines.stages import Apply, Chain, Check

gin.configurable(Sandbox, module="pipelines")
gin.configurable(Extract, module="html")
gin.configurable(Identify, module="language")


@gin.configurable(module="web")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Job(RefineJob):
    """max_page_bytes: pages, lines and bodies beyond are dead letters. filters: rule sets, applied in order."""

    max_page_bytes: int = 16 << 20
    text_field: str = "text"
    extract: Extract = Extract()
    identify: Identify = Identify()
    filters: Sequence[Any] = (gopher_quality.Filter(), fineweb.Filter())
    sandbox: Sandbox = Sandbox(cpu_seconds=5.0, memory_bytes=2 << 30)

    modality: ClassVar[str] = "text"

    def source(self) -> PageSource:
        return PageSource(self.name, self.input_root, tuple(self.inputs), self.max_page_bytes, text_field=self.text_field)

    def build(self, pipeline, staging):
        elements = pipeline | self.read() | Apply("extract", Chain((self.extract, self.identify)), self.sandbox)
        for rules in self.filters:
            elements = elements | Check(rules)
        return (elements, elements | ExactDuplicates(text_key)) | WriteCorpus(staging, self.num_shards, self.keep_rejects)
