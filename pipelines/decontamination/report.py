"""The report of decontamination for human readers: contamination.json and contamination.html in the corpus.

Each shard collects the findings in its documents' metadata under `contamination` (decontaminate.py), rejected
documents included. The launcher merges the shards. Sums, sets of items and the strongest passages by a total order do
not depend on the shards or the runner. Their size is bounded: sets of items are written as ranges, and there are at
most PASSAGES passages per benchmark file. The template engine escapes untrusted text. No Beam.
"""

import dataclasses
import json
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from castor.pipelines.core.surrogates import escape_surrogates
from castor.pipelines.document import Document
from castor.tasks.storage import storage

JSON, PAGE = "contamination.json", "contamination.html"
PASSAGES = 20
REASONS = "decontamination."

_TEMPLATE = pathlib.Path(__file__).with_name("report.html")


class Findings:
    """Findings by benchmark file."""

    def __init__(self):
        self.files: dict[str, dict[str, Any]] = {}

    def add(self, document: Document, reason: str = "") -> None:
        """Adds the findings of a document.

        document: a kept or rejected document.
        reason: the reason of its rejection, if any. A document rejected by another rule counts as cut: its copies
          were cut out before.
        """
        found = document.metadata.get("contamination")
        if not isinstance(found, Mapping):
            return
        for file, numbers in found["items"].items():
            mine = self._of(file)
            mine["rejected" if reason.startswith(REASONS) else "cut"] += 1
            mine["items"] = to_ranges({*of_ranges(mine["items"]), *of_ranges(numbers)})
        for match in found["matches"]:
            mine = self._of(match["file"])
            mine["longest"] = max(mine["longest"], match["span"])
            mine["passages"].append(
                {
                    **match,
                    "document": document.id,
                    "source": escape_surrogates(document.source),
                    "passage": escape_surrogates(match["passage"]),
                }
            )
            if len(mine["passages"]) > 8 * PASSAGES:
                mine["passages"] = _most_telling(mine["passages"])

    def merge(self, other: Mapping[str, Any]) -> None:
        """Adds the `to_json` of other Findings."""
        for file, theirs in other.items():
            mine = self._of(file)
            for name in ("rejected", "cut"):
                mine[name] += theirs[name]
            mine["items"] = to_ranges({*of_ranges(mine["items"]), *of_ranges(theirs["items"])})
            mine["longest"] = max(mine["longest"], theirs["longest"])
            mine["passages"] = _most_telling(mine["passages"] + theirs["passages"])

    def to_json(self) -> dict[str, Any]:
        return {
            file: {**found, "passages": _most_telling(found["passages"])} for file, found in sorted(self.files.items())
        }

    def _of(self, file: str) -> dict[str, Any]:
        return self.files.setdefault(file, _empty())


def write(staging: str, name: str, part: Any, entries: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]] | None:
    """Writes both files and returns the rows of the report; None if the job does not look for benchmarks.

    staging: the staging folder.
    name: name of the corpus.
    part: the job's configuration.
    entries: the `Findings.to_json` of each shard.
    """
    totals = _totals(part)
    if totals is None:
        return None
    findings = Findings()
    for entry in entries:
        findings.merge(entry)
    empty = _empty()
    rows = []
    for file, total in sorted(totals.items()):
        found = findings.files.get(file, empty)
        rows.append(
            {"file": file, **found, "matched": len(of_ranges(found["items"])), "items_matched": found["items"], **total}
        )
    storage.write_json_atomic(storage.join(staging, JSON), {"corpus": name, "benchmarks": rows})
    storage.write_bytes_atomic(storage.join(staging, PAGE), render(name, rows).encode("utf-8"))
    return rows


def render(name: str, rows: list[dict[str, Any]]) -> str:
    """The report as HTML. `rows` are those that `write` returns."""
    import jinja2

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(name=name, rows=rows)


def to_ranges(numbers: Iterable[int]) -> str:
    """{0, 1, 2, 5} -> `0-2,5`."""
    parts: list[list[int]] = []
    for number in sorted(set(numbers)):
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)


def of_ranges(text: str) -> list[int]:
    """The inverse of `to_ranges`."""
    numbers: list[int] = []
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        numbers.extend(range(int(first), int(last or first) + 1))
    return numbers


def _empty() -> dict[str, Any]:
    return {"rejected": 0, "cut": 0, "items": "", "longest": 0, "passages": []}


def _totals(part: Any) -> dict[str, dict[str, Any]] | None:
    """The merged `benchmark_totals()` of the parts of a configuration; None if no part has the method."""
    if isinstance(part, Mapping):
        part = list(part.values())
    if isinstance(part, (list, tuple)):
        found = [totals for item in part if (totals := _totals(item)) is not None]
        return {file: total for totals in found for file, total in totals.items()} if found else None
    if not dataclasses.is_dataclass(part) or isinstance(part, type):
        return None
    if hasattr(part, "benchmark_totals"):
        return part.benchmark_totals()
    return _totals([getattr(part, field.name) for field in dataclasses.fields(part)])


def _most_telling(passages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(passages, key=_strongest)[:PASSAGES]


def _strongest(match: Mapping[str, Any]) -> tuple:
    return -match["span"], -match["coverage"], match["document"], json.dumps(match, sort_keys=True)
