"""The code job: repositories, as folders and tar snapshots, to a corpus of source files.

read with licences -> decode, name the language (one turn in the sandbox) -> rule sets -> licence -> exact duplicates -> corpus
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import gin

from pipelines.deduplication import ExactDuplicates, text_key
from pipelines.filters import generated, licence, santacoder, stack  # noqa: F401 (santacoder: for gin)
from pipelines.job import RefineJob
from pipelines.licence_headers import Declare
from pipelines.repositories import RepositorySource
from pipelines.sandbox import Sandbox
from pipelines.secrets import Remove
from pipelines.sink import WriteCorpus
from pipelines.sourcecode import Parse
from pipelines.stages import Apply, Chain, Check

gin.configurable(Parse, module="sourcecode")
gin.configurable(Remove, module="secrets")


@gin.configurable(module="code")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Job(RefineJob):
    """max_file_bytes: larger files are rejected unread. filters: rule sets, applied in order."""

    max_file_bytes: int = 1 << 20
    parse: Parse = Parse()
    secrets: Remove = Remove()
    filters: Sequence[Any] = (generated.Filter(), stack.Filter(), licence.Filter())
    sandbox: Sandbox = Sandbox(cpu_seconds=5.0, memory_bytes=1 << 30)

    modality: ClassVar[str] = "code"

    def source(self) -> RepositorySource:
        return RepositorySource(self.name, self.input_root, tuple(self.inputs), self.max_file_bytes)

    def build(self, pipeline, staging):
        elements = pipeline | self.read() | Apply("parse", Chain((self.parse, Declare(), self.secrets)), self.sandbox)
        for rules in self.filters:
            elements = elements | Check(rules)
        return (elements, elements | ExactDuplicates(text_key)) | WriteCorpus(staging, self.num_shards, self.keep_rejects)
