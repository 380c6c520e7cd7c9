"""The code job by stage: files and megabytes of source per CPU second, and the outcomes of the files.

    python benchmarks/code/code_job.py --corpus FOLDER [--output FOLDER] [--files 1500] [--rounds 3]
        [--detect_secrets PEER/bin/python]

FOLDER holds archives of repositories. One process runs the same files through every stage of the job, `--rounds` times.
The time of a stage is the median of its CPU seconds. Then the job itself runs once on all archives (FnApiRunner, one
worker); its CPU seconds include the sandbox. Prints one JSON line.

The peers run on the same texts. For secrets, the peer is detect-secrets, which StarCoder's authors used: its plugins at
their defaults, file by file, in the given interpreter. For the share of comments, the peer is SantaCoder's published
code (Python: tokenize and ast; other languages: pygments), on files of the languages it was published for. No packaged
peer was found for the rules themselves, licences and generated files: bigcode's rules are a script over a Hugging Face
dataset with licences in its columns, and datatrove 0.10.1 has no filters for source code.
"""

import argparse
import ast
import collections
import importlib.metadata
import io
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
import tokenize

from castor.pipelines import code
from castor.pipelines.corpus.layout import REJECTED
from castor.pipelines.corpus.reader import read_corpus, read_shard
from castor.pipelines.deduplication import duplicates_table, minhash, rules
from castor.pipelines.document import BadInput, Document
from castor.pipelines.execution import launcher
from castor.pipelines.filters import generated, licence, santacoder, stack
from castor.pipelines.readers.repository_source import RepositorySource
from castor.pipelines.sourcecode import licence_headers, parse, secrets

NEAR = minhash.MinHash(bands=25, rows=10, fold_numbers=False, min_tokens=5)
DETECT = """
import json, sys, time
from detect_secrets import SecretsCollection
from detect_secrets.settings import default_settings
paths = json.load(sys.stdin)
found = SecretsCollection()
with default_settings():
    begun = time.process_time()
    for path in paths:
        found.scan_file(path)
    print(json.dumps({"cpu_s": time.process_time() - begun, "found": sum(1 for _ in found)}))
"""


def read(folder: str, limit: int) -> tuple[list[Document], float]:
    """Up to `limit` files of the corpus, spread over its archives, and the CPU seconds spent reading the files."""
    source = RepositorySource("code", folder, ("**",))
    begun = time.process_time()
    found = [element for uri in source.files() for element in source.read(uri) if isinstance(element, Document)]
    spent = time.process_time() - begun
    return found[:: max(1, len(found) // limit)], spent / len(found)


def stages() -> dict:
    """Name -> function of a Document: the job's stages in order, then the optional stages."""
    return {
        "parse": parse.Parse(),
        "licence header": licence_headers.Declare(),
        "secrets": secrets.Remove(),
        "generated": generated.Filter().check,
        "stack": stack.Filter().check,
        "licence": licence.Filter().check,
        "santacoder (optional)": santacoder.Filter().check,
        "exact key": rules.ByText().keys,
        "near keys (bigcode)": NEAR.keys,
    }


def measure(files: list[Document]) -> tuple[dict[str, dict], list[Document]]:
    """CPU seconds of each stage over the files, and the files after parsing."""
    seconds, counts, parsed = collections.Counter(), collections.Counter(), []
    steps = list(stages().items())
    for document in files:
        for name, step in steps:
            begun = time.process_time()
            try:
                result = step(document)
            except BadInput:
                result = None
            seconds[name] += time.process_time() - begun
            counts[name] += 1
            if name == "parse" and not isinstance(result, Document):
                break
            if isinstance(result, Document):
                document = result
            if name == "secrets":
                parsed.append(document)
    return {name: {"cpu_s": seconds[name], "files": counts[name]} for name, _ in steps}, parsed


def rates(rounds: list[dict[str, dict]], megabytes: float, reading: float) -> dict[str, dict]:
    """Median CPU seconds as rates, and each stage's share of the job's own stages."""
    medians = {name: statistics.median(r[name]["cpu_s"] for r in rounds) for name in rounds[0]}
    files = {name: rounds[0][name]["files"] for name in medians}
    medians, files = {"read": reading * files["parse"], **medians}, {"read": files["parse"], **files}
    total = sum(medians.values())
    return {
        name: {
            "files_per_cpu_s": round(files[name] / s),
            "mb_per_cpu_s": round(megabytes / s, 1),
            "ms_per_file": round(1000 * s / files[name], 3),
            "share": round(s / total, 3),
        }
        for name, s in medians.items()
    } | {
        "all": {
            "files_per_cpu_s": round(files["read"] / total),
            "mb_per_cpu_s": round(megabytes / total, 1),
            "ms_per_file": round(1000 * total / files["read"], 3),
        }
    }


def published_share(text: str, language: str) -> float:
    """The share of comments as SantaCoder's code counts it, implemented from its description.

    Python is parsed by tokenize and ast, other languages by pygments.
    """
    if language != "python":
        from pygments import lex, token
        from pygments.lexers import get_lexer_by_name

        return sum(
            len(t)
            for kind, t in lex(text, get_lexer_by_name(language))
            if kind in (token.Comment.Multiline, token.Comment.Single)
        ) / len(text)
    total = 0
    try:
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
                total += len(ast.get_docstring(node) or "")
        total += sum(
            len(t.string) for t in tokenize.generate_tokens(io.StringIO(text).readline) if t.type == tokenize.COMMENT
        )
    except (SyntaxError, ValueError, tokenize.TokenError, RecursionError):
        pass
    return total / len(text)


def comments_peer(documents: list[Document]) -> dict:
    """Castor's share of comments compared with the published method, on the same files."""
    judged = [d for d in documents if d.metadata["language"] in santacoder.Filter().languages][:400]
    size = sum(len(d.text) for d in judged) / 1e6
    begun = time.process_time()
    ours = [santacoder.comments.comment_share(d.text, d.metadata["language"]) for d in judged]
    middle = time.process_time()
    theirs = [published_share(d.text, d.metadata["language"]) for d in judged]
    end = time.process_time()
    low, high = santacoder.Filter().min_comments, santacoder.Filter().max_comments
    agree = sum((low <= a <= high) == (low <= b <= high) for a, b in zip(ours, theirs))
    return {
        "files": len(judged), "mb_per_cpu_s": round(size / (middle - begun), 1),
        "published_mb_per_cpu_s": round(size / (end - middle), 2),
        "ratio": round((end - middle) / (middle - begun), 1), "same_verdict": round(agree / len(judged), 4),
    }  # fmt: skip


def secrets_peer(documents: list[Document], python: str) -> dict:
    """Castor's search for secrets compared with detect-secrets, on the same files."""
    chosen = documents[:400]
    size = sum(len(d.text) for d in chosen) / 1e6
    begun = time.process_time()
    found = sum(len(secrets.find(d.text)) for d in chosen)
    ours = time.process_time() - begun
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for i, d in enumerate(chosen):
            paths.append(f"{folder}/{i}_{d.metadata['path'].rpartition('/')[2]}")
            pathlib.Path(paths[-1]).write_text(d.text, encoding="utf-8")
        done = subprocess.run(
            [python, "-c", DETECT], input=json.dumps(paths), capture_output=True, text=True, check=True
        )
    theirs = json.loads(done.stdout)
    return {
        "files": len(chosen), "mb_per_cpu_s": round(size / ours, 1), "found": found,
        "detect_secrets_mb_per_cpu_s": round(size / theirs["cpu_s"], 2),
        "detect_secrets_found": theirs["found"], "ratio": round(theirs["cpu_s"] / ours, 1),
    }  # fmt: skip


def whole(folder: str, output: str) -> dict:
    """The job on all archives: its funnel, CPU seconds and the outcome of files by language."""
    made = code.Job(
        name="code",
        input_root=folder,
        inputs=("**",),
        output=output,
        keep_rejects=True,
        duplicates=(rules.ByText(), NEAR),
    )
    before, wall = _cpu(), time.monotonic()
    manifest = launcher.run(made, quiet=True)
    funnel = manifest["funnel"]
    spent = _cpu() - before
    kept, origins, licences_, removed = (
        collections.Counter(),
        collections.Counter(),
        collections.Counter(),
        collections.Counter(),
    )
    outcomes: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
    characters = 0
    for d in read_corpus(output):
        characters += len(d.text)
        kept[d.metadata["language"]] += 1
        licences_[d.metadata["licence"]] += 1
        own = d.metadata["licence_from"] == [d.metadata["path"]]
        origins["header" if own else "licence file" if d.metadata["licence_from"] else "none"] += 1
        removed.update(d.metadata.get("secrets", {}))
    for path in sorted(pathlib.Path(output, REJECTED).rglob("*.parquet")):
        for d in read_shard(str(path)):
            outcomes[d.metadata.get("language") or "unread"][path.parent.name] += 1
    for row in duplicates_table.read(output):
        outcomes[parse.language_of(row["source"], "") or "unread"][f"duplicate.{row['kind']}"] += 1
    languages = {
        name: {"files": kept[name] + outcomes[name].total(), "kept": kept[name], **dict(outcomes[name].most_common(4))}
        for name in {*kept, *outcomes}
    }
    return {
        "funnel": funnel, "files_per_cpu_s": round(funnel["read"] / spent), "cpu_s": round(spent, 1),
        "wall_s": round(time.monotonic() - wall, 1),
        "kept_mb": round(characters / 1e6, 1), "languages": dict(sorted(languages.items(), key=_most_files)[:16]),
            "licences": dict(licences_.most_common(12)),
        "licence_from": dict(origins), "secrets": dict(removed),
    }  # fmt: skip


def machine() -> dict:
    """The machine and versions that the figures were measured on."""
    info = pathlib.Path("/proc/cpuinfo")
    names = (
        [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        if info.exists()
        else []
    )
    versions = {name: importlib.metadata.version(name) for name in ("apache-beam", "numpy", "pygments", "identify")}
    return {
        "cpu": names[0] if names else platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": versions,
    }


def _cpu() -> float:
    times = os.times()
    return (
        times.user + times.system + sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
    )  # children are counted when they are reaped


def _most_files(item: tuple[str, dict]) -> tuple[int, str]:
    return -item[1]["files"], item[0]


def main(argv=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", required=True)
    parser.add_argument("--output", default="")
    parser.add_argument("--files", type=int, default=1500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--detect_secrets", default="")
    args = parser.parse_args(argv)
    files, reading = read(args.corpus, args.files)
    megabytes = sum(len(d.bytes) for d in files) / 1e6
    measure(files[:50])  # tables are built and expressions compiled before the clock runs
    measured = [measure(files) for _ in range(args.rounds)]
    parsed = measured[0][1]
    result = {
        "benchmark": "code_job", "machine": machine(),
        "files": len(files), "mb": round(megabytes, 1), "stages": rates([m[0] for m in measured], megabytes, reading),
            "comments": comments_peer(parsed),
    }  # fmt: skip
    if args.detect_secrets:
        result["secrets"] = secrets_peer(parsed, args.detect_secrets)
    with tempfile.TemporaryDirectory() as folder:
        result["job"] = whole(args.corpus, args.output or folder)
    print(json.dumps(result))


if __name__ == "__main__":
    sys.exit(main())
