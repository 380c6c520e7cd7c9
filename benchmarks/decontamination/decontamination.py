"""Recall of planted contamination and false positives on clean pages, compared with datatrove's n-gram filter.

    python benchmarks/decontamination/decontamination.py --data ../shared/data [--peer DATATROVE_PYTHON] [--items 30]
        [--pages 400]

Castor extracts real pages of web/crawl. An item of a benchmark (a question or answer of each file of eval/) is planted
in the middle of random pages: unchanged, in capitals, without punctuation, and with 10, 20 and 30% of its words
replaced by words of other pages (pairs of characters in Chinese and Japanese).

Reports the shares found, the unmodified pages that are flagged, and the CPU time per page with and without
tokenization. --code names a folder of Python files and reports which of them are flagged. The peer is datatrove's
NGramsDecontFilter with its defaults, 12-grams and the English word tokenizer. The peer also uses n-grams of questions,
and does not detect re-worded copies. Prints one JSON line.
"""

import argparse
import collections
import importlib.metadata
import json
import os
import pathlib
import platform
import random
import re
import statistics
import subprocess
import sys
import time

KINDS = ("verbatim", "capitals", "no_punctuation", "reworded_10", "reworded_20", "reworded_30")


# ---------------------------------------------------------------- pages and plants


def real_pages(data: str, most: int) -> list[dict]:
    """Texts and URLs of real pages, every n-th, extracted in the sandbox."""
    from castor.pipelines.core.sandbox import Child, Sandbox
    from castor.pipelines.document import BadInput, Document
    from castor.pipelines.readers.web_source import WebSource
    from castor.pipelines.text.html import Extract

    source = WebSource("benchmark", os.path.join(data, "web"), ("crawl/*",))
    documents = [e for uri in source.files() for e in source.read(uri) if isinstance(e, Document)]
    documents = documents[:: max(1, len(documents) // most)]
    child, pages = Child(Extract(), Sandbox(cpu_seconds=5.0)), []
    try:
        for document in documents:
            try:
                page = child.call(document)
            except BadInput:
                continue
            if isinstance(page, Document) and page.text:
                pages.append({"text": page.text, "url": page.metadata.get("url", "")})
    finally:
        child.close()
    return pages


def planted(passages, pages: list[dict], items: int, seed: int) -> list[dict]:
    """Pages with one changed item each: {text, file, part, kind}."""
    rng = random.Random(seed)
    texts = [page["text"] for page in pages]
    words = [word for text in texts[::10] for word in text.split()]
    characters = [c for text in texts for c in text if "\u4e00" <= c < "\ua000"] or ["\u4e00"]
    groups = collections.defaultdict(list)
    for passage in passages:
        if passage.part in ("question", "answer"):
            groups[passage.file, passage.part].append(passage.text)
    result = []
    for (file, part), all_texts in sorted(groups.items()):
        for text in rng.sample(all_texts, min(items, len(all_texts))):
            for kind in KINDS:
                host = rng.choice(texts)
                at = host.find(" ", rng.randrange(len(host))) + 1
                changed = change(text, kind, rng, words, characters)
                result.append(
                    {"text": f"{host[:at]}\n{changed}\n{host[at:]}", "file": file, "part": part, "kind": kind}
                )
    return result


def change(text: str, kind: str, rng: random.Random, words: list[str], characters: list[str]) -> str:
    """A copy of a text in another form, or with some words replaced."""
    if kind == "capitals":
        return text.upper()
    if kind == "no_punctuation":
        return "".join(c if c.isalnum() or c.isspace() or not c.isascii() else " " for c in text)
    if not kind.startswith("reworded"):
        return text
    share = int(kind.rpartition("_")[2]) / 100
    if sum("\u3040" <= c < "\ua000" for c in text) > len(text) / 2:
        letters = list(text)
        for i in rng.sample(range(0, len(letters) - 1, 2), round(share * len(letters) / 2)):
            letters[i : i + 2] = rng.choices(characters, k=2)
        return "".join(letters)
    parts = re.split(r"(\s+)", text)
    at = [i for i in range(0, len(parts), 2) if parts[i]]
    for i in rng.sample(at, round(share * len(at))):
        parts[i] = rng.choice(words)
    return "".join(parts)


# ---------------------------------------------------------------- measuring


def shares(pages: list[dict], found: list[bool]) -> dict:
    """Share found by kind, and by file and part for each kind."""
    by_kind, by_file = collections.defaultdict(list), collections.defaultdict(lambda: collections.defaultdict(list))
    for page, hit in zip(pages, found):
        by_kind[page["kind"]].append(hit)
        by_file[f"{page['file']} {page['part']}"][page["kind"]].append(hit)
    questions = collections.defaultdict(list)
    for page, hit in zip(pages, found):
        if page["part"] == "question":
            questions[page["kind"]].append(hit)
    return {
        "questions": {kind: share(questions[kind]) for kind in KINDS},
        "all": {kind: share(by_kind[kind]) for kind in KINDS},
        "files": {file: [share(kinds[kind]) for kind in KINDS] for file, kinds in sorted(by_file.items())},
    }


def share(hits: list[bool]) -> float:
    return round(sum(hits) / len(hits), 3)


def castor(args, pages, plants, index) -> dict:
    """Castor's side: found, flagged, and the cost."""
    from castor.pipelines.decontamination import matching
    from castor.pipelines.text.tokenized_text import TokenizedText

    found = [bool(matching.find(TokenizedText(page["text"]), index)) for page in plants]
    flagged = []
    for page in pages:
        for match in matching.find(TokenizedText(page["text"]), index):
            flagged.append({"url": page["url"], "item": match.entry.item, "kind": match.kind, "span": match.span})
    rounds = []
    for _ in range(3):
        texts = [TokenizedText(page["text"]) for page in pages]
        started = time.process_time()
        for tokenized in texts:
            len(tokenized.token_hashes)
        middle = time.process_time()
        for tokenized in texts:
            matching.find(tokenized, index)
        rounds.append((middle - started, time.process_time() - middle))
    tokens, search = (1000 * statistics.median(times) / len(pages) for times in zip(*rounds))
    files = sorted(pathlib.Path(args.code).rglob("*.py"))[:: args.code_step] if args.code else []
    code_flagged = []
    for path in files:
        text = path.read_text(encoding="utf-8", errors="replace")[:1_000_000]
        for match in matching.find(TokenizedText(text), index):
            code_flagged.append(
                {
                    "file": path.name,
                    "item": match.entry.item,
                    "kind": match.kind,
                    "passage": text[match.begin : match.end][:200],
                }
            )
    return {
        "found": shares(plants, found),
        "clean_pages": len(pages),
        "clean_flagged": flagged,
        "code_files": len(files),
        "code_flagged": code_flagged,
        "ms_a_page": {"tokens": round(tokens, 3), "search": round(search, 3)},
    }


def peer(task: dict) -> dict:
    """datatrove's side; runs in its own interpreter."""
    from datatrove.data import Document
    from datatrove.pipeline.decont.n_grams import NGramsDecontConfig, NGramsDecontFilter, NGramsDecontIndexer

    filter = NGramsDecontFilter(".", NGramsDecontConfig(find_query_ngrams=True))
    filter._index_hashes = {}
    started = time.process_time()
    for file, question, answer in task["items"]:
        for value in NGramsDecontIndexer.compute_hashes(filter, answer, question):
            filter._index_hashes[value] = file
    index_seconds = time.process_time() - started
    found = [filter.filter(Document(text=text, id=str(i))) is not True for i, text in enumerate(task["plants"])]
    started = time.process_time()
    clean = [filter.filter(Document(text=text, id=str(i))) is not True for i, text in enumerate(task["pages"])]
    ms = 1000 * (time.process_time() - started) / len(clean)
    return {
        "found": found,
        "clean_flagged": sum(clean),
        "ms_a_page": round(ms, 2),
        "index_seconds": round(index_seconds, 1),
    }


def run_peer(python: str, passages, pages: list[dict], plants: list[dict]) -> dict:
    items: dict = {}
    for passage in passages:
        if passage.part in ("question", "answer"):
            items.setdefault((passage.file, passage.number), {})[passage.part] = passage.text
    rows = [(file, parts.get("question", ""), parts.get("answer", "")) for (file, _), parts in items.items()]
    task = {"items": rows, "plants": [p["text"] for p in plants], "pages": [p["text"] for p in pages]}
    done = subprocess.run([python, __file__, "--as_peer"], input=json.dumps(task), capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr[-3000:])
    result = json.loads(done.stdout.splitlines()[-1])
    return {**result, "found": shares(plants, result["found"])}


def machine() -> dict:
    model = next(
        (line.partition(":")[2].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")),
        platform.processor(),
    )
    versions = {name: importlib.metadata.version(name) for name in ("numpy", "resiliparse")}
    return {"cpu": model, "cores": os.cpu_count(), "python": platform.python_version(), "versions": versions}


def main() -> int:
    if sys.argv[1:] == ["--as_peer"]:
        print(json.dumps(peer(json.load(sys.stdin))))
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder with web/crawl and eval")
    parser.add_argument("--peer", default="", help="a Python that has datatrove")
    parser.add_argument("--code", default="", help="folder of ordinary Python files")
    parser.add_argument("--code_step", type=int, default=1, help="every n-th of them")
    parser.add_argument("--items", type=int, default=30, help="planted of each file and part, in each kind")
    parser.add_argument("--pages", type=int, default=10_000, help="real pages at most")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    from castor.pipelines.decontamination import benchmark_files
    from castor.pipelines.decontamination.benchmark_index import Index

    root = os.path.join(args.data, "eval")
    passages = [
        p
        for b in benchmark_files.PUBLISHED
        for path in benchmark_files.paths(root, b)
        for p in benchmark_files.read(path, b)
    ]
    started = time.process_time()
    index = Index(passages)
    build = {
        "seconds": round(time.process_time() - started, 2),
        "passages": len(index.entries),
        "tokens": len(index.tokens),
    }
    pages = real_pages(args.data, args.pages)
    plants = planted(passages, pages, args.items, args.seed)
    result = {"kinds": KINDS, "plants": len(plants), "index": build, "castor": castor(args, pages, plants, index)}
    if args.peer:
        result["datatrove"] = run_peer(args.peer, passages, pages, plants)
        result["times_faster"] = round(
            result["datatrove"]["ms_a_page"] / sum(result["castor"]["ms_a_page"].values()), 1
        )
    print(json.dumps({"benchmark": "decontamination", **result, "machine": machine()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
