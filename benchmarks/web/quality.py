"""Result of quality-train on real pages, and the cost of a score.

    python benchmarks/web/quality.py --root=DATA/web --pages='crawl/*.warc.gz' --reference=DATA/web/gold_text.jsonl.gz

The reference set is the pages whose URLs are listed in a file of JSON lines (news articles that were chosen and checked
by hand). The sample is all other pages with a URL of their own, except those of hosts with more than 100 pages, because
one publisher's templates are not representative of the web. Text is extracted as in the web job. The job runs as a user
would run it, on JSON lines in a temporary folder. The model is discarded.

auc, kept share, calibration: on held-out pages. Pages are held out by a hash of their id, by site, and with numbers
    left unchanged, which lets a model recognize news by the year.
identical: whether two runs, in one process and in two workers, wrote the same bytes.
score_ms: time to score one page, if earlier rules have tokenized the page, and alone.

Prints one JSON line.
"""

import argparse
import collections
import dataclasses
import gzip
import hashlib
import json
import pathlib
import platform
import statistics
import tempfile
import time
from urllib.parse import urlsplit

from castor.pipelines.core.functions import apply
from castor.pipelines.document import Document
from castor.pipelines.execution import launcher
from castor.pipelines.quality import linear_model
from castor.pipelines.quality.linear_model import Features
from castor.pipelines.quality_train import Job
from castor.pipelines.readers import web_source
from castor.pipelines.text import html
from castor.pipelines.text.tokenized_text import tokenize

MOST_OF_A_HOST = 100


def read(root: str, patterns: list[str]) -> list[Document]:
    source, extract, made = web_source.WebSource("web", root, tuple(patterns)), html.Extract(), []
    for uri in source.files():
        for element in source.read(uri):
            document = apply("extract", extract, element) if isinstance(element, Document) else element
            if isinstance(document, Document) and not document.metadata.get("url", "http://unknown.invalid").startswith(
                "http://unknown.invalid"
            ):
                made.append(document)
    return made


def write(path: pathlib.Path, documents: list[Document]) -> str:
    lines = [json.dumps({"text": d.text, "url": d.metadata["url"]}) for d in documents]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def digest(directory: pathlib.Path) -> str:
    return hashlib.sha256(b"".join(p.name.encode() + p.read_bytes() for p in sorted(directory.iterdir()))).hexdigest()


def median_ms(function, documents: list[Document], prepare=None) -> float:
    times = []
    for document in documents:
        turns = []
        for _ in range(3):
            if prepare:
                prepare(document.text)
            else:
                tokenize.cache_clear()
            begin = time.perf_counter()
            function(document.text)
            turns.append(time.perf_counter() - begin)
        times.append(min(turns))
    return round(statistics.mean(times) * 1000, 4)


def tokenise(text: str) -> None:
    tokenized = tokenize(text)
    tokenized.token_hashes, tokenized.token_is_number  # noqa: B018


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--root", required=True)
    parser.add_argument("--pages", action="append", required=True)
    parser.add_argument("--reference", required=True)
    arguments = parser.parse_args()
    with gzip.open(arguments.reference) as file:
        chosen = {json.loads(line)["url"] for line in file}
    documents = read(arguments.root, arguments.pages)
    hosts = collections.Counter(urlsplit(d.metadata["url"]).hostname for d in documents)
    reference = [d for d in documents if d.metadata["url"] in chosen]
    sample = [
        d
        for d in documents
        if d.metadata["url"] not in chosen and hosts[urlsplit(d.metadata["url"]).hostname] <= MOST_OF_A_HOST
    ]
    result = {
        "benchmark": "quality",
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
        "reference": len(reference),
        "sample": len(sample),
    }
    with tempfile.TemporaryDirectory() as folder:
        work = pathlib.Path(folder)
        base = Job(
            name="quality",
            reference=[write(work / "reference.jsonl", reference)],
            sample=[write(work / "sample.jsonl", sample)],
            output=str(work / "one"),
        )
        runs = {
            "by_id": base,
            "by_site": dataclasses.replace(base, output=str(work / "site"), split_by="site"),
            "with_numbers": dataclasses.replace(base, output=str(work / "numbers"), features=Features(numbers=True)),
        }
        for name, made in runs.items():
            begin = time.perf_counter()
            measures = launcher.run(made, quiet=True)["measures"]
            result[name] = {
                key: measures[key]
                for key in (
                    "auc",
                    "auc_fitted",
                    "threshold",
                    "kept_of_sample",
                    "kept_of_reference",
                    "calibration_error",
                )
            }
            result[name]["held_out"] = measures["documents"]["held_out"]
            result[name]["seconds"] = round(time.perf_counter() - begin, 1)
        again = dataclasses.replace(base, output=str(work / "two"))
        launcher.run(again, ["--direct_running_mode=multi_processing", "--direct_num_workers=2"], quiet=True)
        result["identical"] = digest(work / "one") == digest(work / "two")
        model = linear_model.load(str(work / "one"))
        result["score_ms"] = {
            "on_the_view": median_ms(model.score, sample, tokenise),
            "alone": median_ms(model.score, sample),
        }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
