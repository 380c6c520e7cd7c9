"""Quality and speed of main-text extraction: Castor, resiliparse and Trafilatura, on pages whose text is known.

    python benchmarks/web/extraction.py --data DIR --peer-python PYTHON [--passes 3]

DIR holds web/crawl/*.warc.gz and two reference sets. web/gold_text.jsonl.gz (url, warc, title, text) has the bodies of
news articles, as checked in by the fundus project. web/gold_segments.jsonl (url, warc, with, without) has pieces that
must and must not be in the text, from Trafilatura's evaluation. PYTHON is an interpreter that imports trafilatura;
without PYTHON, this peer is left out. Every contender runs in its own process on the same decoded pages.

text: precision, recall and F1 of each page's bag of words (lower-case runs of \\w; a CJK character is a word), mean
    over the pages.
segments: precision, recall and F1 over the pieces of all pages. A piece is found if it is a substring of the unmodified
    text.
segments_f1_normal: the same, with soft hyphens removed and whitespace collapsed on both sides.
halves: F1 on the sites whose name hashes to an even and to an odd number. Castor's rules were developed on the even
    half.
ms: CPU milliseconds per page including parsing, the median of the passes for each page.
crawl: every page of the crawls that can be decoded.

Prints one JSON line.
"""

import argparse
import collections
import gzip
import hashlib
import importlib.metadata
import json
import os
import pathlib
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.parse

ROOT = pathlib.Path(__file__).resolve().parents[2]
CONTENDERS = ("castor", "resiliparse", "trafilatura", "trafilatura_fast")
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+")


# ---------------------------------------------------------------- one contender, in its own process


def extractor(name: str):
    """Decoded page -> text."""
    if name == "castor":
        from resiliparse.parse.html import HTMLTree

        from castor.pipelines.text.maintext import main_text as maintext

        return lambda page: maintext.extract(HTMLTree.parse(page))
    if name == "resiliparse":
        from resiliparse.extract.html2text import extract_plain_text

        return lambda page: extract_plain_text(
            page, main_content=True, links=False, list_bullets=False, alt_texts=False, comments=False
        )
    import trafilatura

    return lambda page: trafilatura.extract(page, include_comments=False, fast=name == "trafilatura_fast") or ""


def work(name: str, pages: str, output: str, passes: int) -> None:
    """Texts and milliseconds of the pages of a JSON-lines file, to another file; one page per line."""
    extract = extractor(name)
    with open(pages, encoding="utf-8") as file:
        extract(json.loads(file.readline()))  # what is loaded on first use
    with open(pages, encoding="utf-8") as file, open(output, "w", encoding="utf-8") as results:
        for line in file:
            page, times, text = json.loads(line), [], ""
            for _ in range(passes):
                started = time.process_time()
                text = extract(page)
                times.append(1000 * (time.process_time() - started))
            results.write(json.dumps([text, statistics.median(times)]) + "\n")


def run(
    name: str, python: str, pages: pathlib.Path, folder: pathlib.Path, passes: int
) -> tuple[list[str], list[float]]:
    output = folder / f"{name}.jsonl"
    environment = dict(os.environ, PYTHONPATH=str(ROOT) if python == sys.executable else "")
    subprocess.run(
        [python, __file__, "--work", name, str(pages), str(output), str(passes)],
        check=True,
        env=environment,
        stderr=subprocess.DEVNULL,
    )
    with open(output, encoding="utf-8") as file:
        texts, times = zip(*map(json.loads, file))
    return list(texts), list(times)


# ------------------------------------------------------------------------------------------------- truth and scores


def words(text: str) -> collections.Counter:
    return collections.Counter(_WORD.findall(text.lower()))


def text_scores(found: str, truth: str) -> tuple[float, float, float]:
    """Precision, recall and F1 of the bag of words."""
    a, b = words(found), words(truth)
    return _scores(sum((a & b).values()), a.total(), b.total())


def segment_counts(found: str, truth: dict, normal=lambda text: text) -> tuple[int, int, int]:
    """Pieces found that should be, pieces found, pieces that should be."""
    found = normal(found)
    right = sum(normal(piece) in found for piece in truth["with"])
    return right, right + sum(normal(piece) in found for piece in truth["without"]), len(truth["with"])


def _scores(right: int, found: int, expected: int) -> tuple[float, float, float]:
    precision, recall = right / max(1, found), right / max(1, expected)
    return precision, recall, 2 * precision * recall / max(1e-9, precision + recall)


def half(url: str) -> int:
    """0 or 1, the same for all pages of a site."""
    host = (urllib.parse.urlsplit(url).hostname or "").removeprefix("www.")
    return int(hashlib.sha256(host.encode()).hexdigest(), 16) % 2


def summary(texts: list[str], times: list[float], golds: list[dict], segments: list[dict]) -> dict:
    """The scores of one contender: its texts of the pages of `golds`, then of `segments`, then of the crawl."""
    by_page = [text_scores(text, gold["text"]) for text, gold in zip(texts, golds)]
    pieces = texts[len(golds) : len(golds) + len(segments)]
    counts = [segment_counts(text, truth) for text, truth in zip(pieces, segments)]
    normal = [
        segment_counts(text, truth, lambda text: " ".join(text.replace("\xad", "").split()))
        for text, truth in zip(pieces, segments)
    ]
    sets = {
        "text": times[: len(golds)],
        "segments": times[len(golds) : len(golds) + len(segments)],
        "crawl": times[len(golds) + len(segments) :],
    }
    return {
        "text": dict(zip(("precision", "recall", "f1"), _rounded(_means(by_page)))),
        "segments": dict(zip(("precision", "recall", "f1"), _rounded(_scores(*map(sum, zip(*counts)))))),
        "segments_f1_normal": _rounded(_scores(*map(sum, zip(*normal))))[2],
        "halves": {
            "text": [
                _rounded(_means([s for s, gold in zip(by_page, golds) if half(gold["url"]) == h]))[2] for h in (0, 1)
            ],
            "segments": [
                _rounded(_scores(*map(sum, zip(*(c for c, t in zip(counts, segments) if half(t["url"]) == h)))))[2]
                for h in (0, 1)
            ],
        },
        "empty": sum(not text.strip() for text in texts),
        "ms": {name: {"mean": round(statistics.fmean(t), 3), **_percentiles(t)} for name, t in sets.items() if t},
    }


def _means(rows):
    return [statistics.fmean(column) for column in zip(*rows)]


def _rounded(values) -> list[float]:
    return [round(value, 4) for value in values]


def _percentiles(values: list[float]) -> dict:
    ordered = sorted(values)
    return {f"p{p}": round(ordered[min(len(ordered) - 1, len(ordered) * p // 100)], 3) for p in (50, 99)} | {
        "max": round(ordered[-1], 3)
    }


# ------------------------------------------------------------------------------------------------- the pages


def load(data: pathlib.Path, crawl: bool) -> tuple[list[dict], list[dict], list[str]]:
    """The two reference sets, and the decoded pages: theirs in order, then all of the crawls."""
    from castor.pipelines.document import BadInput, Document
    from castor.pipelines.readers.web_source import WebSource
    from castor.pipelines.text import charset

    with gzip.open(data / "web/gold_text.jsonl.gz", "rt", encoding="utf-8") as file:
        golds = [json.loads(line) for line in file]
    with open(data / "web/gold_segments.jsonl", encoding="utf-8") as file:
        segments = [json.loads(line) for line in file]
    wanted = {(truth["warc"].rpartition("/")[2], truth["url"]) for truth in golds + segments}
    pages = {}
    source = WebSource("benchmark", str(data), ("web/crawl/*",))
    for uri in source.files():
        for document in source.read(uri):
            key = (uri.rpartition("/")[2], document.metadata["url"]) if isinstance(document, Document) else None
            if key in wanted or crawl and key:
                try:
                    page, _ = charset.decode_html(document.bytes, str(document.metadata.get("charset", "")))
                except BadInput:
                    continue
                pages.setdefault(key, []).append(page)
    known = [pages[truth["warc"].rpartition("/")[2], truth["url"]][0] for truth in golds + segments]
    return golds, segments, known + ([page for same in pages.values() for page in same] if crawl else [])


def machine(peer: str) -> dict:
    model = next(
        (line.partition(":")[2].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")),
        platform.processor(),
    )
    versions = {"resiliparse": importlib.metadata.version("resiliparse")}
    if peer:
        code = "import importlib.metadata as m; print(m.version('trafilatura'), m.version('lxml'))"
        versions |= zip(
            ("trafilatura", "lxml"),
            subprocess.run([peer, "-c", code], check=True, capture_output=True, text=True).stdout.split(),
        )
    return {"cpu": model, "cores": os.cpu_count(), "python": platform.python_version(), "versions": versions}


def main() -> None:
    if sys.argv[1:2] == ["--work"]:
        name, pages, output, passes = sys.argv[2:6]
        return work(name, pages, output, int(passes))
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--data", type=pathlib.Path, default=os.environ.get("CASTOR_REAL_DATA"), help="folder of the real corpora"
    )
    parser.add_argument("--peer-python", default="", help="interpreter that imports trafilatura")
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument(
        "--crawl",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="time the whole crawl, too (not with Trafilatura)",
    )
    arguments = parser.parse_args()
    if not arguments.data:
        parser.error("--data, or the variable CASTOR_REAL_DATA, must name the folder of the real corpora")
    golds, segments, pages = load(arguments.data, arguments.crawl)
    result = {
        "benchmark": "extraction",
        "pages": {"text": len(golds), "segments": len(segments), "crawl": len(pages) - len(golds) - len(segments)},
    }
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        for name, count in (("all", len(pages)), ("known", len(golds) + len(segments))):
            (folder / name).write_text("".join(json.dumps(page) + "\n" for page in pages[:count]), encoding="utf-8")
        for name in CONTENDERS:
            peer = name.startswith("trafilatura")
            if not peer or arguments.peer_python:
                python = arguments.peer_python if peer else sys.executable
                texts, times = run(name, python, folder / ("known" if peer else "all"), folder, arguments.passes)
                result[name] = summary(texts, times, golds, segments)
    if arguments.peer_python:
        result["times_faster"] = {
            f"{name} than {peer}, {kind}": round(result[peer]["ms"][kind]["mean"] / result[name]["ms"][kind]["mean"], 1)
            for name in ("castor", "resiliparse")
            for peer in ("trafilatura", "trafilatura_fast")
            for kind in ("text", "segments")
        }
        result["f1_minus_trafilatura"] = {
            kind: round(result["castor"][kind]["f1"] - result["trafilatura"][kind]["f1"], 4)
            for kind in ("text", "segments")
        }
    print(json.dumps({**result, "passes": arguments.passes, "machine": machine(arguments.peer_python)}))


if __name__ == "__main__":
    main()
