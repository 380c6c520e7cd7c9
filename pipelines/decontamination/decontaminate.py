"""Decontamination: rejects documents with copies of benchmark questions or answers, or cuts the copies out.

    web.Job.filters = [..., @decontamination.Decontaminate()]       # in any job's filters; BENCHMARKS names the folder

matching.py defines what counts as a copy; benchmark_files.py reads the benchmarks. Findings are stored in the
document's metadata under `contamination`; from there they go to contamination.json and contamination.html in the
corpus (report.py). The job's fingerprint covers the content of the benchmarks, so the job runs again after a
benchmark has changed. No Beam.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

import gin
from castor.pipelines.decontamination import benchmark_files, benchmark_index, report
from castor.pipelines.decontamination.benchmark_files import Benchmark
from castor.pipelines.decontamination.benchmark_index import Seeds
from castor.pipelines.decontamination.matching import Match, Thresholds, find
from castor.pipelines.document import Document, Element, Rejection
from castor.pipelines.text.tokenized_text import TokenizedText, tokenize
from castor.tasks.errors import ConfigurationError
from castor.tasks.storage import storage

gin.configurable(Seeds, module="decontamination")
gin.configurable(Thresholds, module="decontamination")

ACTIONS = ("reject", "cut")
_MATCHES_PER_FILE = 3
_PASSAGE = 400


@gin.configurable(module="decontamination")
@dataclasses.dataclass(frozen=True)
class Decontaminate:
    """Document -> Document | Rejection. The reason is `decontamination.NAME`, of the benchmark with the longest span.

    root: folder of the benchmarks.
    benchmarks: files and their formats; by default benchmark_files.PUBLISHED.
    seeds: how candidates are found.
    thresholds: when a candidate is a copy.
    action: "reject" rejects the document. "cut" removes each copy with a margin, then drops short pieces, and rejects a
      document without pieces or with too many (Brown et al. 2020, arXiv 2005.14165, appendix C).
    margin: characters removed on each side of a copy.
    min_piece: shorter pieces are dropped, in characters.
    max_pieces: a document in more pieces is rejected.
    """

    root: str = ""
    benchmarks: Sequence[Benchmark] = benchmark_files.PUBLISHED
    seeds: Seeds = Seeds()
    thresholds: Thresholds = Thresholds()
    action: str = "reject"
    margin: int = 200
    min_piece: int = 200
    max_pieces: int = 10

    name: ClassVar[str] = "decontamination"

    def __post_init__(self):
        object.__setattr__(self, "benchmarks", tuple(self.benchmarks))
        if not self.root:
            raise ConfigurationError(
                "decontamination has no benchmarks.", "Name the folder of the benchmarks: --gin.BENCHMARKS='\"eval\"'."
            )
        if self.action not in ACTIONS:
            raise ConfigurationError(
                f"decontamination.Decontaminate.action is {self.action!r}.", f"Choose one of {', '.join(ACTIONS)}."
            )

    def prepare(self) -> None:
        self._index()

    def __call__(self, document: Document) -> Element:
        if not document.text:
            return document
        tokenized = tokenize(document.text)
        matches = find(tokenized, self._index(), self.thresholds)
        if not matches:
            return document
        best = max(matches, key=_span)
        reason = f"decontamination.{best.entry.benchmark}"
        document = document.with_metadata(contamination=_findings(document.text, matches, self.action))
        if self.action == "reject":
            return Rejection(document, reason, _measure(best, matches))
        pieces = _pieces(tokenized, matches, self.margin)
        kept = [piece for piece in pieces if len(piece) >= self.min_piece]
        if not kept or len(pieces) > self.max_pieces:
            return Rejection(document, reason, f"{_measure(best, matches)}; {len(pieces)} pieces left of it")
        return document.replace(text="\n\n".join(kept))

    def reads(self) -> dict[str, str]:
        """{name: path} of every file that is read, for the job's fingerprint."""
        found = [path for benchmark in self.benchmarks for path in benchmark_files.paths(self.root, benchmark)]
        for path in self.seeds.background:
            found += (
                [storage.join(path, name) for name in benchmark_index.parquet_files(path)]
                if storage.is_directory(path)
                else [path]
            )
        return {path: path for path in found}

    def benchmark_totals(self) -> dict[str, dict[str, Any]]:
        """{file: {benchmark, items, searched}}: numbers of items, and of items with a passage long enough to search."""
        return self._index().totals(self.thresholds.min_words)

    def _index(self) -> benchmark_index.Index:
        return benchmark_index.load(self.root, self.benchmarks, self.seeds)


def _span(match: Match) -> tuple:
    return match.span, match.coverage, match.run, match.entry.benchmark, match.entry.item


def _measure(best: Match, matches: list[Match]) -> str:
    others = len({match.entry.item for match in matches}) - 1
    more = f"; {others} more items" if others else ""
    return (
        f"{best.entry.item} {best.entry.part}: {best.kind}, span {best.span} tokens, run {best.run}, "
        f"coverage {best.coverage:.2f}{more}"
    )


def _findings(text: str, matches: list[Match], action: str) -> dict[str, Any]:
    """The findings of one document, for the report: all items, and the strongest matches per file."""
    items: dict[str, set[int]] = {}
    strongest: dict[str, list[Match]] = {}
    for match in sorted(matches, key=_span, reverse=True):
        items.setdefault(match.entry.file, set()).add(match.entry.number)
        if len(strongest.setdefault(match.entry.file, [])) < _MATCHES_PER_FILE:
            strongest[match.entry.file].append(match)
    return {
        "action": action,
        "items": {file: report.to_ranges(numbers) for file, numbers in sorted(items.items())},
        "matches": [_described(text, match) for _, found in sorted(strongest.items()) for match in found],
    }


def _described(text: str, match: Match) -> dict[str, Any]:
    measures = {name: getattr(match, name) for name in ("kind", "run", "span", "coverage", "ngrams", "begin", "end")}
    passage = text[match.begin : match.end]
    passage = passage if len(passage) <= _PASSAGE else passage[: _PASSAGE // 2] + " ... " + passage[-_PASSAGE // 2 :]
    return {
        "file": match.entry.file,
        "item": match.entry.item,
        "part": match.entry.part,
        **measures,
        "passage": passage,
    }


def _pieces(tokenized: TokenizedText, matches: list[Match], margin: int) -> list[str]:
    """The pieces of a text without the matches and `margin` characters around them, cut between words."""
    edges = np.zeros(len(tokenized.text) + 1, np.int64)
    for match in matches:
        begin, end = max(0, match.begin - margin), min(len(tokenized.text), match.end + margin)
        word = np.searchsorted(tokenized.word_ends, begin, side="right")
        begin = min(begin, int(tokenized.word_starts[word])) if word < tokenized.num_words else begin
        word = np.searchsorted(tokenized.word_starts, end, side="left") - 1
        end = max(end, int(tokenized.word_ends[word])) if word >= 0 else end
        edges[begin] += 1
        edges[end] -= 1
    gone = np.cumsum(edges[:-1]) > 0
    changes = np.flatnonzero(np.diff(np.concatenate(([True], gone, [True]))))
    return [piece for a, b in zip(changes[::2], changes[1::2]) if (piece := tokenized.text[a:b].strip())]
