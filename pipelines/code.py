"""The code job: repositories (folders and tar snapshots) -> corpus of source files.

read with licences -> decode, detect the language and the file's licence, remove secrets (in the sandbox) -> rule sets
    -> duplicates -> optionally, join the files of each repository -> corpus
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import gin
from castor.pipelines.core.sandbox import Sandbox
from castor.pipelines.core.stages import Apply, ApplySteps, Chain
from castor.pipelines.corpus.sink import WriteCorpus
from castor.pipelines.deduplication.deduplicate import Deduplicate
from castor.pipelines.deduplication.minhash import MinHash
from castor.pipelines.deduplication.rules import ByText
from castor.pipelines.execution.job import RefineJob
from castor.pipelines.filters import generated, licence, santacoder, stack
from castor.pipelines.readers.repository_source import RepositorySource
from castor.pipelines.sourcecode.licence_headers import Declare
from castor.pipelines.sourcecode.notebooks import Notebooks
from castor.pipelines.sourcecode.parse import Parse
from castor.pipelines.sourcecode.repository_documents import JoinRepositories
from castor.pipelines.sourcecode.repository_layout import Layout
from castor.pipelines.sourcecode.secrets import Remove

gin.configurable(Parse, module="sourcecode")
gin.configurable(Remove, module="secrets")
gin.configurable(Notebooks, module="notebooks")

del MinHash, santacoder  # imported so that gin knows them


@gin.configurable(module="code")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Job(RefineJob):
    """The code job; RefineJob documents the other fields.

    max_file_bytes, max_notebook_bytes: larger files are rejected unread.
    parse: decodes a file and detects its language.
    secrets: removes secrets from the text.
    filters: rule sets and functions, in order.
    duplicates: rules of deduplication, in order (pipelines/deduplication/rules.py).
    repositories: how the files of a repository become one document; None keeps one document per file.
    sandbox: limits of parsing one file.
    """

    max_file_bytes: int = 1 << 20
    max_notebook_bytes: int = 8 << 20
    parse: Parse = Parse()
    secrets: Remove = Remove()
    filters: Sequence[Any] = (generated.Filter(), stack.Filter(), licence.Filter())
    duplicates: Sequence[Any] = (ByText(),)
    repositories: Layout | None = None
    sandbox: Sandbox = Sandbox(cpu_seconds=5.0, memory_bytes=1 << 30)

    modality: ClassVar[str] = "code"

    def source(self) -> RepositorySource:
        return RepositorySource(
            self.name,
            self.input_root,
            tuple(self.inputs),
            self.max_file_bytes,
            self.max_notebook_bytes,
            identity=self.identity,
        )

    def build(self, pipeline, staging):
        records, counts = pipeline | self.read()
        elements = (
            records
            | Apply("parse", Chain((self.parse, Declare(), self.secrets)), self.sandbox)
            | ApplySteps(self.filters)
        )
        removals = elements | Deduplicate(self.duplicates)
        if self.repositories is not None:
            elements = (elements, removals) | JoinRepositories(self.repositories, self.name, self.identity)
        return (elements, counts, removals) | WriteCorpus(staging, self.num_shards, self.keep_rejects)

    def report(self, manifest):
        if self.repositories is None:
            return []
        return [f"{manifest['funnel']['kept']:,} files in {manifest['documents']:,} documents of repositories"]
