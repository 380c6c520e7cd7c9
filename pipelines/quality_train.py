"""The quality-train job: a reference set against a web sample -> a linear model of text, its threshold, and how good it is.

    castor data quality-train --gin.REFERENCE='["corpora/books"]' --gin.SAMPLE='["corpora/web"]' --gin.OUTPUT='"models/quality"'

sample by hash of the id -> features of each sampled document (at most a few KB) -> one fit in the launcher -> model, report

What is good is said by example: pages that look like the reference rather than like the web. For safety the reference is what is not wanted, and
KEEP is "low". Only features of a bounded sample reach the launcher, so the cost of the fit does not grow with the corpora: 100,000 documents take
about 0.7 GB and a few minutes. A reference must not hold the questions of benchmarks: the model would choose pages that are like them.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

import gin
from castor.pipelines.core import dead_letters
from castor.pipelines.core.sandbox import Sandbox
from castor.pipelines.corpus.reader import CorpusSource, load_manifest
from castor.pipelines.execution.job import BaseJob, check_funnel
from castor.pipelines.quality import linear_model, logistic, report, training_rows
from castor.pipelines.quality.linear_model import HIGH, LOW, Features, LinearModel
from castor.pipelines.quality.training_rows import Row
from castor.pipelines.readers.web_source import WebSource
from castor.tasks.errors import ConfigurationError, CorpusError
from castor.tasks.storage import storage

gin.configurable(Features, module="quality_train")

_LINES = (".jsonl", ".ndjson", ".json")
_LEAST = 8  # documents of each set on each side of the split
_SHOWN = 40
_DIGITS = 4  # of what calibrates, few enough that the last bits of a machine's arithmetic do not show


@gin.configurable(module="quality_train")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Job(BaseJob):
    """reference, sample: corpora (directories) or files of JSON lines, which may have `*` in their names; text_field: where those have the text.

    documents: sampled from each of them. held_out: share that nothing is fitted to, half as many again calibrate; split_by: "id", or "site" where
    documents have URLs, so that the model is measured on sites that it has not seen. kept_share: of the held-out sample, from which the threshold
    follows. keep: "high", or "low" for a model of what is not wanted. l2: strength of the regularisation. min_documents: a feature in fewer has
    no weight. excerpts: documents of each source that give the n-grams of the report their words.
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
        """Of the reference, then of the sample."""
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
        from castor.pipelines.tokenization.funnel_sink import read_funnel

        funnel = read_funnel(staging)
        check_funnel(funnel, self.name, self.dead_letter_threshold)
        read = training_rows.read_shards(storage.join(staging, "rows"))
        rows = without_repeats(read)
        model, measures = self.fit(rows)
        manifest = {
            "name": self.name,
            "funnel": funnel.to_json(),
            "config": self.config(),
            "fingerprint": self.fingerprint(),
            "code_fingerprint": self.code(),
            "inputs": self.input_state(),
            "measures": {**measures, "repeated": len(read) - len(rows)},
        }
        model = dataclasses.replace(model, manifest=manifest)
        page = report.render(model, self.ngrams(model, rows))
        storage.remove(storage.join(self.output, linear_model.MANIFEST))
        storage.remove_tree(storage.join(self.output, dead_letters.FOLDER))
        if funnel.dead_total:
            storage.rename(storage.join(staging, dead_letters.FOLDER), storage.join(self.output, dead_letters.FOLDER))
        storage.write_bytes_atomic(storage.join(self.output, report.FILE), page.encode("utf-8"))
        model.save(self.output)
        return dict(linear_model.load(self.output).manifest)

    def fit(self, rows: Sequence[Row]) -> tuple[LinearModel, dict[str, Any]]:
        """The model of rows in order, and what was measured on those held out. Raises CorpusError where a set is too small on either side."""
        parts = {part: [row for row in rows if row.part == part] for part in training_rows.PARTS}
        labels = {part: np.array([row.reference for row in members], bool) for part, members in parts.items()}
        counts = {part: {"reference": int(own.sum()), "sample": int((~own).sum())} for part, own in labels.items()}
        for part, both in counts.items():
            for which, count in both.items():
                if count < _LEAST:
                    raise CorpusError(
                        f"job {self.name}: only {count} different documents of the {which} are {part.replace('_', ' ')}; {_LEAST} is the least.",
                        "Give it more, raise SAMPLE_DOCUMENTS, change HELD_OUT, or split by id.",
                    )
        known, columns = _columns(parts["fitted"], self.features.bits, self.min_documents)
        weights, bias, steps = logistic.fit(logistic.Rows.of(columns, len(known)), labels["fitted"], self.l2)
        everything = np.zeros(1 << self.features.bits)
        everything[known] = weights
        whole, step = linear_model.quantise(everything)
        model = LinearModel(self.features, whole, step, bias, self.keep, 0.0)
        factor, shift = logistic.calibrate(
            np.array([model.odds_of(row.buckets) for row in parts["calibrated"]]), labels["calibrated"]
        )
        factor, shift = round(factor, _DIGITS), round(shift + factor * bias, _DIGITS)
        model = dataclasses.replace(model, step=step * factor, bias=shift)
        seen, labels_seen = _scores(model, parts["fitted"]), labels["fitted"]
        scores, labels = _scores(model, parts["held_out"]), labels["held_out"]
        threshold = logistic.threshold_for(scores[~labels], self.kept_share, self.keep == HIGH)
        model = dataclasses.replace(model, threshold=threshold)
        bins, distance = logistic.calibration(scores, labels)
        passed = np.array([model.passes(score) for score in scores])
        return model, {
            "documents": counts,
            "features": len(known),
            "steps": steps,
            "auc": round(logistic.auc(scores, labels), 6),
            "auc_fitted": round(logistic.auc(seen, labels_seen), 6),
            "threshold": threshold,
            "kept_of_sample": round(float(passed[~labels].mean()), 6),
            "kept_of_reference": round(float(passed[labels].mean()), 6),
            "table": logistic.table(scores, labels),
            "calibration": bins,
            "calibration_error": distance,
        }

    def ngrams(self, model: LinearModel, rows: Sequence[Row]) -> dict[str, list[tuple[str, float]]]:
        """The n-grams that speak for and against the reference most, with their weights, of those that stand in the excerpts."""
        order = np.argsort(model.weights, kind="stable")
        ends = {"against": order[: 4 * _SHOWN], "for": order[::-1][: 4 * _SHOWN]}
        names = training_rows.names_of({int(b) for end in ends.values() for b in end}, rows, self.features)
        shown = {}
        for side, buckets in ends.items():
            shown[side] = [
                (names[b], float(model.weights[b] * model.step))
                for b in buckets.tolist()
                if b in names and model.weights[b]
            ][:_SHOWN]
        return shown

    def report(self, manifest: Mapping[str, Any]) -> list[str]:
        measures = manifest["measures"]
        held = measures["documents"]["held_out"]
        side = "at least" if manifest["keep"] == HIGH else "at most"
        return [
            f"AUC {measures['auc']:.4f} on documents that the fit has not seen, {held['reference']:,} of the reference and {held['sample']:,} of the sample",
            f"a score of {side} {measures['threshold']:g} keeps {measures['kept_of_sample']:.1%} of the sample, "
            f"{measures['kept_of_reference']:.1%} of the reference",
            f"calibration error {measures['calibration_error']:.3f}; {measures['features']:,} features; {measures['steps']} steps",
        ]

    def _source(self, entry: str) -> CorpusSource | WebSource:
        if not entry.removesuffix(".gz").removesuffix(".zst").endswith(_LINES):
            return CorpusSource(entry)
        folder, _, name = entry.rpartition("/")
        if "*" in folder:
            raise ConfigurationError(f"{entry}: `*` may stand in the last part of a path only.", "Name the folders.")
        return WebSource(
            self.name, folder or ("/" if entry.startswith("/") else "."), (name,), text_field=self.text_field
        )


def _scores(model: LinearModel, rows: Sequence[Row]) -> np.ndarray:
    return np.array([model.score_of(row.buckets) for row in rows])


def without_repeats(rows: Sequence[Row]) -> list[Row]:
    """Rows whose features no other row has; of several the first, one of the reference before one of the sample.

    A page that stands twice would be fitted and then held out, and one that stands in both sets has no label.
    """
    first: dict[bytes, Row] = {}
    for row in rows:
        key = row.buckets.tobytes()
        if key not in first or (row.reference and not first[key].reference):
            first[key] = row
    return [row for row in rows if first[row.buckets.tobytes()] is row]


def _columns(rows: Sequence[Row], bits: int, least: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """(buckets that stand in at least so many rows, each row as indices into them; a row that has none of them gets the first)."""
    counts = np.zeros(1 << bits, np.int64)
    for row in rows:
        counts[row.buckets] += 1
    known = np.flatnonzero(counts >= min(least, counts.max()))
    places = np.full(1 << bits, -1, np.int32)
    places[known] = np.arange(len(known))
    result = []
    for row in rows:
        own = places[row.buckets]
        own = own[own >= 0]
        result.append(own if len(own) else np.zeros(1, np.int32))
    return known, result
