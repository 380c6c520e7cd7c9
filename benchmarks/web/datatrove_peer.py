"""datatrove's side of the benchmarks on web pages.

Runs in an interpreter that has datatrove and Trafilatura but not Castor:

    # its WARC reader, Trafilatura, FineWeb's filters and a JSON writer on every archive
    PYTHON benchmarks/web/datatrove_peer.py web FOLDER OUTPUT
    # only its filters, on documents {"id", "text"}: which filter, if any, rejects each document
    PYTHON benchmarks/web/datatrove_peer.py rules FILE.jsonl

Settings are those of datatrove's FineWeb example, with two changes. The language filter is left out, because its model
is a download. A page may take a minute, so that a busy machine loses no page. Prints one JSON line.
"""

import json
import multiprocessing
import sys
import tempfile
import time

import trafilatura  # noqa: F401  before the extractor forks, which would else import it in every child
from datatrove.data import Document
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.extractors import Trafilatura
from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
)
from datatrove.pipeline.readers import WarcReader
from datatrove.pipeline.writers import JsonlWriter


def filters() -> list:
    return [
        GopherRepetitionFilter(),
        GopherQualityFilter(),
        C4QualityFilter(filter_no_terminal_punct=False),
        FineWebQualityFilter(),
    ]


def web(folder: str, output: str) -> dict:
    """Runs the pipeline in this process and returns the counts and the seconds of each step."""
    steps = [
        WarcReader(folder, glob_pattern="*.warc.gz"),
        Trafilatura(favour_precision=True, timeout=60),
        *filters(),
        JsonlWriter(output),
    ]
    stats = LocalPipelineExecutor(steps, tasks=1, workers=1, logging_dir=tempfile.mkdtemp()).run()
    for child in (
        multiprocessing.active_children()
    ):  # its extractor ends without waiting for them, and their time would not count
        child.join()
    names = ["read", "extract", "gopher_repetition", "gopher_quality", "c4", "fineweb", "write"]
    rows = {}
    for name, step in zip(names, stats.stats):
        rows[name] = {
            "counts": {key: int(value.total) for key, value in step.stats.items() if key not in ("doc_len",)},
            "seconds": round(step.time_stats.total, 3),
        }
    return rows


def rules(path: str) -> dict:
    """{"reasons": {id: reason or None}, "seconds": {filter: CPU seconds}, "judged": {filter: documents}}."""
    steps = filters()
    seconds, judged = {step.name: 0.0 for step in steps}, {step.name: 0 for step in steps}
    reasons = {}
    warm = Document(text="One sentence. Two sentences. Three.", id="warm")
    for step in steps:
        step.filter(warm)
    with open(path, encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            document, reason = Document(text=row["text"], id=row["id"]), None
            for step in steps:
                started = time.process_time()
                result = step.filter(document)
                seconds[step.name] += time.process_time() - started
                judged[step.name] += 1
                if result is not True:
                    reason = f"{step.name}: {result[1]}" if isinstance(result, tuple) else step.name
                    break
            reasons[row["id"]] = reason
    return {"reasons": reasons, "seconds": seconds, "judged": judged}


if __name__ == "__main__":
    print(json.dumps({"web": web, "rules": rules}[sys.argv[1]](*sys.argv[2:])))
