"""Deduplication: recall of planted near duplicates, cost of a signature compared with datatrove's, and cost of a job.

    python benchmarks/deduplication/deduplication.py ROOT [--part curve,natural,signatures,job,pictures]
        [--peer-python .../bin/python]

ROOT holds web/ and image/ (real pages and pictures). Parts:

curve       near copies at several edit rates: exact Jaccard similarity of the sets of 5-grams, and whether the copies
            match; the theoretical 1 - (1 - s^r)^b; classic minima compared with one-permutation hashing; recall at a
            similarity of 0.8, and precision of all matching pairs
natural     the pairs of pages listed in web/near_duplicates.jsonl
signatures  CPU time of a signature, and of datatrove's MinhashDedupSignature on the same texts (in its own interpreter,
            taking turns, medians)
job         10,000 documents (and 2,500) through Beam's FnApiRunner: without deduplication, then with one more rule each
pictures    358 pictures and distorted copies: recall, and matching pairs of different pictures

Prints one JSON line.
"""

import argparse
import collections
import importlib.metadata
import itertools
import json
import os
import pathlib
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
import planted

from castor.pipelines.deduplication.minhash import MinHash, meeting_probability, minima
from castor.pipelines.deduplication.rules import ByText, ByUrl
from castor.pipelines.document import Document
from castor.pipelines.text.tokenized_text import TokenizedText, tokenize

RATES = (0.001, 0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.06, 0.08, 0.12, 0.2)
EDGES = (0.0, 0.3, 0.4, 0.5, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0001)
PARTS = ("curve", "natural", "signatures", "job", "pictures")
BENT = (
    "jpeg 90",
    "jpeg 50",
    "jpeg 20",
    "scale 0.5",
    "scale 0.2",
    "crop 0.01",
    "crop 0.025",
    "crop 0.05",
    "bright 1.2",
    "mirror",
)

# Run by the peer's interpreter: reads {"texts": [...]}, prints milliseconds of CPU per text for each turn requested
# on standard input.
PEER = """
import json, sys, tempfile, time
from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupSignature
texts = json.load(open(sys.argv[1]))
step = MinhashDedupSignature(tempfile.mkdtemp(), MinhashConfig(n_grams=5, num_buckets=14, hashes_per_bucket=8))
step.get_signature(step.get_shingles(texts[0]))
print("ready", flush=True)
for _ in sys.stdin:
    started = time.process_time()
    for text in texts:
        shingles = step.get_shingles(text)
        if shingles.size:
            step.get_signature(shingles)
    print(1000 * (time.process_time() - started) / len(texts), flush=True)
"""


def curve(texts: list[str], rule: MinHash) -> dict:
    """Which near copies match, by similarity, for both kinds of signature."""
    texts = [text for text in texts if tokenize(text).num_tokens >= 50]
    count = rule.bands * rule.rows
    kinds = {
        "classic": lambda s: minima(s, count, rule.seed),
        "one_permutation": lambda s: planted.one_permutation(s, count),
    }
    similarities, met = [], {kind: [] for kind in kinds}
    agreement = {kind: [] for kind in kinds}
    bands_seen: dict[str, dict] = {kind: collections.defaultdict(list) for kind in kinds}
    sets: list[np.ndarray] = []
    for number, text in enumerate(texts):
        original = np.unique(rule.shingles(text))
        signed = {kind: sign(original) for kind, sign in kinds.items()}
        sets.append(original)
        keep(bands_seen, signed, rule, len(sets) - 1)
        for rate in RATES:
            copy = np.unique(rule.shingles(planted.edited(text, rate, number)))
            if not len(copy):
                continue
            similarities.append(planted.jaccard(original, copy))
            for kind, sign in kinds.items():
                same = sign(copy) == signed[kind]
                met[kind].append(bool(same.reshape(rule.bands, rule.rows).all(axis=1).any()))
                agreement[kind].append(float(same.mean()) - similarities[-1])
            if rate in (0.002, 0.01, 0.03, 0.06):
                sets.append(copy)
                keep(bands_seen, {kind: sign(copy) for kind, sign in kinds.items()}, rule, len(sets) - 1)
    s = np.array(similarities)
    rows = []
    for low, high in itertools.pairwise(EDGES):
        inside = (s >= low) & (s < high)
        if inside.any():
            found = {kind: round(float(np.array(met[kind])[inside].mean()), 4) for kind in kinds}
            theory = round(float(meeting_probability(s[inside], rule.bands, rule.rows).mean()), 4)
            rows.append({"similarity": [low, round(high, 2)], "pairs": int(inside.sum()), "theory": theory, **found})
    result = {"texts": len(texts), "pairs": len(s), "bands": rule.bands, "rows": rule.rows, "by_similarity": rows}
    for kind in kinds:
        pairs = {pair for members in bands_seen[kind].values() for pair in itertools.combinations(members, 2)}
        exact = np.array([planted.jaccard(sets[a], sets[b]) for a, b in pairs])
        result[kind] = {
            "recall_at_0.8": round(float(np.array(met[kind])[s >= 0.8].mean()), 4),
            "recall_at_0.9": round(float(np.array(met[kind])[s >= 0.9].mean()), 4),
            "root_mean_square_error_of_estimate": round(float(np.sqrt(np.mean(np.square(agreement[kind])))), 4),
            "pairs_that_meet": len(pairs),
            "of_them_at_0.8": round(float((exact >= 0.8).mean()), 4),
            "of_them_at_0.7": round(float((exact >= 0.7).mean()), 4),
            "of_them_at_0.5": round(float((exact >= 0.5).mean()), 4),
            "least": round(float(exact.min()), 4),
        }
    return result


def keep(bands_seen, signed, rule, number) -> None:
    for kind, signature in signed.items():
        for band, row in enumerate(signature.reshape(rule.bands, rule.rows)):
            bands_seen[kind][band, row.tobytes()].append(number)


def natural(texts: dict[str, str], root: str, rule: MinHash) -> dict:
    """Which naturally occurring near-duplicate pairs match.

    Pairs are named by repository and path, texts by archive and offset.
    """
    places = {}
    for line in open(f"{root}/web/index.jsonl"):
        row = json.loads(line)
        places[row["repo"], row["path"]] = f"web/{row['warc']}#offset={row['offset']}"
    pairs = []
    for line in open(f"{root}/web/near_duplicates.jsonl"):
        row = json.loads(line)
        one, other = (texts.get(places.get((row[k]["repo"], row[k]["path"]))) for k in "ab")
        if one is None or other is None:
            pairs.append({"named": row["jaccard"], "missing": True})
            continue
        similarity = planted.jaccard(np.unique(rule.shingles(one)), np.unique(rule.shingles(other)))
        found = bool({*rule.keys(as_document(one))} & {*rule.keys(as_document(other))})
        pairs.append({"named": round(row["jaccard"], 3), "similarity": round(similarity, 3), "met": found})
    high = [p for p in pairs if p.get("similarity", 0) >= 0.8]
    return {
        "pairs": pairs,
        "at_0.8": len(high),
        "met_at_0.8": sum(p["met"] for p in high),
        "met": sum(p.get("met", False) for p in pairs),
    }


def as_document(text: str) -> Document:
    return Document("0" * 32, "memory", "text", text)


def signatures(texts: list[str], rule: MinHash, peer_python: str | None, turns: int = 3) -> dict:
    """CPU milliseconds per text: Castor's from text to band keys, in total and by part; the peer's to its signature."""
    documents = [as_document(text) for text in texts]
    parts = {
        "view_and_shingles": lambda: [rule.shingles(d.text) for d in documents],
        "signature": lambda: [rule.signature(d.text) for d in documents],
        "band_keys": lambda: [rule.keys(d) for d in documents],
    }
    shingles = [s for d in documents if len(s := rule.shingles(d.text))]
    parts["minima_alone"] = lambda: [minima(s, rule.bands * rule.rows) for s in shingles]
    parts["one_permutation_alone"] = lambda: [planted.one_permutation(s, rule.bands * rule.rows) for s in shingles]
    times: dict[str, list[float]] = {name: [] for name in parts}
    peer = None
    if peer_python:
        with tempfile.NamedTemporaryFile("w", suffix=".json", delete=False) as file:
            json.dump(texts, file)
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        peer = subprocess.Popen([peer_python, "-c", PEER, file.name], text=True, **pipes)
        if peer.stdout.readline().strip() != "ready":
            sys.exit("the peer does not start")
        times["datatrove"] = []
    for _ in range(turns):
        for name, function in parts.items():
            tokenize.cache_clear()
            started = time.process_time()
            function()
            times[name].append(1000 * (time.process_time() - started) / len(texts))
        if peer:
            peer.stdin.write("\n")
            peer.stdin.flush()
            times["datatrove"].append(float(peer.stdout.readline()))
    if peer:
        peer.stdin.close()
        peer.wait()
        os.unlink(file.name)
    result = {"texts": len(texts), "mean_characters": round(statistics.mean(map(len, texts))), "turns": turns}
    result["mean_tokens"] = round(statistics.mean(TokenizedText(text).num_tokens for text in texts))
    result["milliseconds"] = {name: round(statistics.median(values), 3) for name, values in times.items()}
    if peer:
        result["times_datatrove"] = round(
            statistics.median(times["datatrove"]) / statistics.median(times["band_keys"]), 1
        )
    return result


def job(texts: list[str], sizes: tuple[int, ...]) -> dict:
    """CPU seconds for a corpus of each size.

    The corpora hold near copies of the texts at the edit rates, some with the same URL, some identical.
    """
    import apache_beam as beam
    from apache_beam.runners.portability.fn_api_runner import FnApiRunner

    from castor.pipelines.core.stages import Read
    from castor.pipelines.corpus.commit import read_entries, sum_funnels
    from castor.pipelines.corpus.sink import WriteCorpus
    from castor.pipelines.deduplication import duplicates_table
    from castor.pipelines.deduplication.deduplicate import Deduplicate
    from castor.pipelines.deduplication.shared_lines import SharedLines
    from castor.pipelines.readers.web_source import WebSource

    steps = {
        "read and write": ((), None),
        "+ url": ((ByUrl(),), None),
        "+ text": ((ByUrl(), ByText()), None),
        "+ near": ((ByUrl(), ByText(), MinHash()), None),
        "+ lines": ((ByUrl(), ByText(), MinHash()), SharedLines()),
    }
    result = {}
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            bytes_of_text = write_lines(pathlib.Path(folder), texts, size)
            row: dict = {"documents": size, "megabytes_of_text": round(bytes_of_text / 1e6, 1), "cpu_seconds": {}}
            for name, (rules, lines) in steps.items():
                staging = f"{folder}/out-{name}"
                started = time.process_time()
                with beam.Pipeline(runner=FnApiRunner()) as pipeline:
                    elements, counts = pipeline | Read(WebSource("b", folder, ("*.jsonl",)))
                    _ = (elements, counts, elements | Deduplicate(rules)) | WriteCorpus(staging, 4, lines=lines)
                row["cpu_seconds"][name] = round(time.process_time() - started, 2)
                entries = read_entries(staging, 4)
                row[f"funnel {name}"] = {k: v for k, v in sum_funnels(entries).to_json().items() if v}
            row["clusters"] = duplicates_table.sum_clusters(entry["clusters"] for entry in entries)
            row["peak_megabytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
            result[str(size)] = row
    return result


def write_lines(folder: pathlib.Path, texts: list[str], size: int) -> int:
    """JSON lines of `size` documents in four files; returns their bytes of text."""
    total, files = 0, [open(folder / f"{i}.jsonl", "w") for i in range(4)]
    for number in range(size):
        text = texts[number % len(texts)]
        turn = number // len(texts)
        if turn:
            text = planted.edited(text, (*RATES, 0.0)[turn % (len(RATES) + 1)], number)
        url = f"http://e.org/{number - 1 if number % 50 == 1 else number}"
        total += len(text.encode())
        files[number % 4].write(json.dumps({"text": text, "url": url}) + "\n")
    for file in files:
        file.close()
    return total


def pictures(root: str, distances: tuple[int, ...] = (0, 2, 4, 6, 8, 10)) -> dict:
    """Share of bent copies within each distance of their originals, and pairs of different pictures that are."""
    from castor.pipelines.media.fingerprints import perceptual_hash

    found = planted.pictures(root)
    started = time.process_time()
    hashes = [perceptual_hash(pixels) for pixels in found]
    milliseconds = 1000 * (time.process_time() - started) / len(found)
    recall = {}
    for kind in BENT:
        apart = np.array(
            [(perceptual_hash(planted.bent(pixels, kind)) ^ h).bit_count() for pixels, h in zip(found, hashes)]
        )
        recall[kind] = {str(d): round(float((apart <= d).mean()), 3) for d in distances}
    between = collections.Counter((a ^ b).bit_count() for a, b in itertools.combinations(hashes, 2))
    return {
        "pictures": len(found),
        "milliseconds_a_picture": round(milliseconds, 2),
        "recall": recall,
        "pairs": len(found) * (len(found) - 1) // 2,
        "pairs_within": {str(d): sum(n for apart, n in between.items() if apart <= d) for d in distances},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root")
    parser.add_argument("--part", default=",".join(PARTS))
    parser.add_argument("--peer-python", default=None)
    parser.add_argument("--documents", type=int, default=10_000)
    parser.add_argument("--peer-texts", type=int, default=300)
    arguments = parser.parse_args()
    wanted = arguments.part.split(",")
    rule = MinHash()
    row = {
        "benchmark": "deduplication",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
    }
    row["versions"] = {name: importlib.metadata.version(name) for name in ("numpy", "apache-beam")}
    texts = planted.main_texts(arguments.root) if set(wanted) - {"pictures"} else {}
    many = list(texts.values())
    if "curve" in wanted:
        row["curve"] = curve(many, rule)
    if "natural" in wanted:
        row["natural"] = natural(texts, arguments.root, rule)
    if "signatures" in wanted:
        row["signatures"] = signatures(
            many[:: max(1, len(many) // arguments.peer_texts)][: arguments.peer_texts], rule, arguments.peer_python
        )
    if "job" in wanted:
        row["job"] = job(many, (arguments.documents // 4, arguments.documents))
    if "pictures" in wanted:
        row["pictures"] = pictures(arguments.root)
    print(json.dumps(row))
    return 0


if __name__ == "__main__":
    sys.exit(main())
