"""The quality-train job: a reference set and a web sample -> a linear model of text, its threshold and its measures.

    castor data quality-train --gin.REFERENCE='["corpora/books"]' --gin.SAMPLE='["corpora/web"]' \\
        --gin.OUTPUT='"models/quality"'

sample by hash of the id -> features of each sampled document (a few KB at most) -> one fit in the launcher -> model,
report

The reference defines good text by example: pages score high if they look more like the reference than like the web.
For a safety model the reference is unwanted text, and KEEP is "low". Only the features of a bounded sample reach the
launcher, so the cost of the fit does not grow with the corpora: 100,000 documents take about 0.7 GB and a few minutes.
Keep benchmark questions out of the reference, or the model will prefer pages that resemble them.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import gin
from castor.pipelines.core.sandbox import Sandbox
from castor.pipelines.corpus.reader import CorpusSource, load_manifest
from castor.pipelines.execution.job import BaseJob, check_funnel
from castor.pipelines.quality import linear_model, model_fit, report, training_rows
from castor.pipelines.quality.linear_model import HIGH, LOW, Features
from castor.pipelines.readers.web_source import WebSource
from castor.tasks.errors import ConfigurationError
from castor.tasks.storage import storage

gin.configurable(Features, module="quality_train")

_LINES = (".jsonl", ".ndjson", ".json")


@gin.configurable(module="quality_train")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Job(BaseJob):
    """The quality-train job.

    reference, sample: corpora (directories) or files of JSON lines; file names may contain `*`.
    text_field: the field of a JSON line that holds the text.
    documents: documents sampled from each corpus or file pattern.
    features: the features that texts are hashed to.
    held_out: share of documents that nothing is fitted to; half as many again are used for calibration.
    split_by: "id", or "site" if documents have URLs, to measure the model on sites that it was not fitted to.
    kept_share: share of the held-out sample that the threshold keeps.
    keep: "high", or "low" for a model of unwanted text.
    l2: strength of the regularisation.
    min_documents: a feature in fewer documents gets no weight.
    excerpts: documents per source whose text names the n-grams in the report.
    dead_letter_threshold: share of records read that may become dead letters before the job fails.
    sandbox: limits on the features of one document.
    """

    reference: Sequence[str]
    sample: Sequence[str]
    text_field: str = "text"
    documents: int = 50_000
    features: Features = Features()
    held_out: float = 0.2
    split_by: str = "id"
    kept_share: float = 0.1
    keep: str = HIGH
    l2: float = 1e-5
    min_documents: int = 2
    excerpts: int = 1000
    dead_letter_threshold: float = 0.1
    sandbox: Sandbox = Sandbox(cpu_seconds=20.0, memory_bytes=4 << 30)

    not_configuration: ClassVar[tuple[str, ...]] = ("output", "reference", "sample")

    def __post_init__(self):
        for macro, value in (("REFERENCE", self.reference), ("SAMPLE", self.sample)):
            if isinstance(value, str) or not value:
                raise ConfigurationError(
                    f"{macro} is {value!r}.", f'Write a list of corpora or files: {macro}=["corpora/web"].'
                )
        for macro, value, good, say in (
            ("SAMPLE_DOCUMENTS", self.documents, 0 < self.documents <= 1 << 20, "a value up to 1048576"),
            ("HELD_OUT", self.held_out, 0 < self.held_out <= 0.5, "a share above 0, up to 0.5"),
            ("KEPT_SHARE", self.kept_share, 0 < self.kept_share <= 1, "a share above 0, up to 1"),
            ("SPLIT_BY", self.split_by, self.split_by in training_rows.SPLITS, '"id" or "site"'),
            ("KEEP", self.keep, self.keep in (HIGH, LOW), f'"{HIGH}" or "{LOW}"'),
            ("L2", self.l2, self.l2 > 0, "a value above 0"),
        ):
            if not good:
                raise ConfigurationError(f"{macro} is {value!r}.", f"Give it {say}.")

    def sources(self) -> list[CorpusSource | WebSource]:
        """The sources of the reference, then those of the sample."""
        return [self._source(entry) for entry in (*self.reference, *self.sample)]

    def build(self, pipeline, staging):
        import apache_beam as beam

        from castor.pipelines.core.stages import Apply
        from castor.pipelines.tokenization.funnel_sink import WriteFunnel
        from castor.pipelines.tokenization.sampling import SampleDocuments

        measure = training_rows.Measure(self.features, len(self.reference), self.held_out, self.split_by, self.excerpts)
        sampled, counts = pipeline | SampleDocuments([(source, self.documents) for source in self.sources()])
        measured = sampled | Apply("features", measure, self.sandbox)
        (measured, counts) | WriteFunnel(staging)
        keyed = measured | "key" >> beam.FlatMap(training_rows.keyed).with_output_types(tuple[int, bytes])
        (
            keyed
            | "group" >> beam.GroupByKey()
            | "write" >> beam.Map(training_rows.write_shard, storage.join(staging, "rows"))
        )

    def input_state(self) -> dict[str, Any]:
        state = []
        for source in self.sources():
            if isinstance(source, CorpusSource):
                state.append(load_manifest(source.directory)["fingerprint"])
            else:
                state.append({source.relative(uri): storage.sha256(uri) for uri in source.files()})
        return {"reference": state[: len(self.reference)], "sample": state[len(self.reference) :]}

    def finish(self, staging: str) -> dict[str, Any]:
        from castor.pipelines.tokenization.funnel_sink import read_funnel, replace_output_letters

        funnel = read_funnel(staging)
        check_funnel(funnel, self.name, self.dead_letter_threshold)
        read = training_rows.read_shards(storage.join(staging, "rows"))
        rows = model_fit.without_repeats(read)
        model, measures = model_fit.fit(
            rows,
            self.features,
            name=self.name,
            l2=self.l2,
            min_documents=self.min_documents,
            kept_share=self.kept_share,
            keep=self.keep,
        )
        measures["repeated"] = len(read) - len(rows)
        model = dataclasses.replace(model, manifest={**self.manifest(funnel), "measures": measures})
        page = report.render(model, model_fit.strongest_ngrams(model, rows))
        replace_output_letters(staging, self.output, funnel)
        storage.write_bytes_atomic(storage.join(self.output, report.FILE), page.encode("utf-8"))
        model.save(self.output)
        return dict(linear_model.load(self.output).manifest)

    def report(self, manifest: Mapping[str, Any]) -> list[str]:
        measures = manifest["measures"]
        held = measures["documents"]["held_out"]
        side = "at least" if manifest["keep"] == HIGH else "at most"
        return [
            f"AUC {measures['auc']:.4f} on held-out documents, {held['reference']:,} of the reference and "
            f"{held['sample']:,} of the sample",
            f"a score of {side} {measures['threshold']:g} keeps {measures['kept_of_sample']:.1%} of the sample, "
            f"{measures['kept_of_reference']:.1%} of the reference",
            f"calibration error {measures['calibration_error']:.3f}; {measures['features']:,} features; "
            f"{measures['steps']} steps",
        ]

    def _source(self, entry: str) -> CorpusSource | WebSource:
        if not entry.removesuffix(".gz").removesuffix(".zst").endswith(_LINES):
            return CorpusSource(entry)
        folder, _, name = entry.rpartition("/")
        if "*" in folder:
            raise ConfigurationError(f"{entry}: `*` is allowed only in the last part of a path.", "Name the folders.")
        return WebSource(
            self.name, folder or ("/" if entry.startswith("/") else "."), (name,), text_field=self.text_field
        )
