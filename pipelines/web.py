"""The web job: web archives and plain files -> corpus of main texts.

read -> filters on URL and headers -> decode, extract, detect the language (in the sandbox) -> filters on the text
    -> duplicates -> corpus

`filters` follow the order of the published recipes: length, Gopher repetition, Gopher quality, C4, FineWeb. Models of
quality and safety, personal data and decontamination come after these. Each filter is one gin line
(gin/pipelines/web.gin).
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
from castor.pipelines.deduplication.rules import ByText, ByUrl
from castor.pipelines.deduplication.shared_lines import SharedLines
from castor.pipelines.execution.job import RefineJob
from castor.pipelines.filters import (
    c4,
    fineweb,
    gopher_quality,
    gopher_repetition,
    length,
    refinedweb,
    robots,
    url_lists,
)
from castor.pipelines.readers.web_source import WebSource
from castor.pipelines.text.html import Extract
from castor.pipelines.text.language import Identify
from castor.pipelines.text.pii import Replace

gin.configurable(Extract, module="html")
gin.configurable(Identify, module="language")

del refinedweb  # imported so that gin knows it


@gin.configurable(module="web")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Job(RefineJob):
    """The web job; RefineJob documents the other fields.

    max_page_bytes: largest page, line or response body, in bytes; larger ones become dead letters.
    text_field: the field of a JSON line that holds the text.
    admission: URL filters. They run before a page is parsed, on its URL and HTTP headers (robots also searches the raw
      page for `meta` elements).
    extract: extracts the main text of a page.
    identify: detects the language of the text.
    filters: rule sets and functions on the text, in order.
    duplicates: rules of deduplication, in order (pipelines/deduplication/rules.py).
    lines: C4's rule on lines that several pages share; None leaves shared lines in place.
    sandbox: limits of `extract` and `identify` per page.
    """

    max_page_bytes: int = 16 << 20
    text_field: str = "text"
    admission: Sequence[Any] = (url_lists.Filter(), robots.Filter())
    extract: Extract = Extract()
    identify: Identify = Identify()
    filters: Sequence[Any] = (
        length.Filter(),
        gopher_repetition.Filter(),
        gopher_quality.Filter(),
        c4.Clean(min_words_a_line=3, end_marks=False),
        c4.Filter(curly_brackets=False),
        fineweb.Filter(max_repeated=0.1),
        Replace(),
    )
    duplicates: Sequence[Any] = (ByUrl(), ByText(), MinHash())
    lines: SharedLines | None = None
    sandbox: Sandbox = Sandbox(cpu_seconds=5.0, memory_bytes=2 << 30)

    modality: ClassVar[str] = "text"

    def source(self) -> WebSource:
        return WebSource(
            self.name,
            self.input_root,
            tuple(self.inputs),
            self.max_page_bytes,
            text_field=self.text_field,
            identity=self.identity,
        )

    def build(self, pipeline, staging):
        records, counts = pipeline | self.read()
        elements = (
            records
            | ApplySteps(self.admission, "admission")
            | Apply("extract", Chain((self.extract, self.identify)), self.sandbox)
            | ApplySteps(self.filters)
        )
        return (elements, counts, elements | Deduplicate(self.duplicates)) | WriteCorpus(
            staging, self.num_shards, self.keep_rejects, self.lines
        )
