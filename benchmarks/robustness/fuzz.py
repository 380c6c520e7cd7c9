"""Do the web job and the code job finish on damaged input, and do they account for every document?

    python benchmarks/robustness/fuzz.py --data DATA                       # 10,000 mutated inputs
    python benchmarks/robustness/fuzz.py --data DATA --inputs 300          # a quick run

Inputs are real pages, archives, JSON lines, tars and source files. DATA is a folder with `web/crawl/*.warc.gz`; without
DATA, pages come from the demo's corpus. Source files are those of this Python's standard library. Inputs are generated
from a seed (mutations.py). An archive holds several documents, and exactly one of them is damaged. Each batch of inputs
goes through the real job (`castor data web`, `castor data code`) in its own process, and then:

- the job must have succeeded, and its funnel must add up: read = kept + rejected + duplicates + dead letters;
- every input must have left a trace: an element of the source;
- of an archive of gzip members, every document except the damaged one must have been read whole. In plain archives and
  tars, damage can make the borders themselves ambiguous: documents lost with a damaged neighbour are counted
  (`neighbours_lost`).

The last batch holds bombs: compressed ones, 100,000 nested elements, 300,000 attributes, one word of 12 MB. Prints one
JSON line. The exit code is 1 if a batch failed. peak_rss_mb is the peak of a batch's largest process.
seconds_a_document is CPU time, including the sandbox's child processes.
"""

import argparse
import collections
import hashlib
import json
import os
import pathlib
import platform
import resource
import subprocess
import sys
import sysconfig
import tempfile
import time

import mutations

SHARES = {"warc": 0.4, "html": 0.25, "jsonl": 0.05, "tar": 0.2, "source": 0.1}
JOBS = {"warc": "web", "html": "web", "jsonl": "web", "bombs": "web", "tar": "code", "source": "code"}
LARGEST_PAGE, LARGEST_SOURCE = 120_000, 40_000
PARTS = (2, 5)


def pages(data: str, work: pathlib.Path) -> list[tuple[str, bytes]]:
    """(url, body) of the pages of real archives, or of the demo's pages."""
    from castor.pipelines.document import Document
    from castor.pipelines.readers.web_source import WebSource

    root = pathlib.Path(data, "web", "crawl") if data else work / "demo" / "web"
    if not data:
        from castor.launch.recipes.demo_corpus import DemoCorpus

        DemoCorpus(images=1, sounds=1, clips=1).make(str(work / "demo"))
    source = WebSource("pages", str(root), ("*.warc.gz",))
    found = (x for uri in source.files() for x in source.read(uri) if isinstance(x, Document))
    return [(x.metadata.get("url", "http://unknown.invalid/"), x.bytes) for x in found if len(x.bytes) <= LARGEST_PAGE]


def sources() -> list[tuple[str, bytes]]:
    """(path, content) of source files of this Python's library."""
    root = pathlib.Path(sysconfig.get_paths()["stdlib"])
    files = [
        path
        for folder in ("json", "email", "http", "logging", "asyncio", "xml", "idlelib", "lib2to3")
        for path in sorted(root.glob(f"{folder}/*.py"))
    ]
    return [
        (str(path.relative_to(root)), data) for path in files if 0 < len(data := path.read_bytes()) <= LARGEST_SOURCE
    ]


def response(url: str, body: bytes) -> bytes:
    """A WARC response record, uncompressed."""
    http = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    head = (
        b"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: "
        + url.encode("utf-8", "replace").replace(b"\n", b"")
        + b"\r\nWARC-Date: 2024-01-01T00:00:00Z\r\n"
    )
    return (
        head
        + b"Content-Type: application/http; msgtype=response\r\nContent-Length: %d\r\n\r\n" % len(http)
        + http
        + b"\r\n\r\n"
    )


def cases(kind: str, seed: int, first: int, last: int, data: str, work: pathlib.Path):
    """The inputs `first` up to `last` of a kind."""
    documents = sources() if kind in ("tar", "source") else pages(data, work)
    bodies = [body for _, body in documents]
    for number in range(first, last):
        mutator = mutations.Mutator(f"{seed}/{kind}/{number}", kind, bodies)
        chosen = [mutator.random.randrange(len(documents)) for _ in range(mutator.random.randint(*PARTS))]
        name = f"{kind}{number:06d}"
        if kind == "warc":
            yield mutations.archive(
                name, [response(*documents[i]) for i in chosen], mutator, mutator.random.random() < 0.7
            )
        elif kind == "html":
            yield mutations.whole(name + ".html", bodies[chosen[0]], mutator)
        elif kind == "jsonl":
            lines = [
                json.dumps({"text": bodies[i].decode("utf-8", "replace")[:4000], "url": documents[i][0]}).encode()
                for i in chosen
            ]
            yield mutations.whole(name + ".jsonl", b"\n".join(lines) + b"\n", mutator)
        elif kind == "tar":
            files = [(f"package/{number}/{k}/{documents[i][0]}", bodies[i]) for k, i in enumerate(chosen)]
            yield mutations.tarball(name, [("package/LICENSE", _MIT), *files], mutator, mutator.random.random() < 0.5)
        else:
            yield mutations.whole(
                f"{name}/{pathlib.PurePath(documents[chosen[0]][0]).name}", bodies[chosen[0]], mutator
            )


def lost(case: mutations.Case, kind: str, elements: list) -> int:
    """Number of undamaged documents of an archive that the source did not yield."""
    if case.damaged < 0 or kind not in ("warc", "tar"):
        return 0
    read = collections.Counter(
        hashlib.sha256(x.bytes).digest() for x in elements if getattr(x, "bytes", None) is not None
    )
    wanted = (
        part.partition(b"\r\n\r\n")[2].partition(b"\r\n\r\n")[2][:-4] if kind == "warc" else part for part in case.parts
    )
    missing = 0
    for number, content in enumerate(wanted):
        digest = hashlib.sha256(content).digest()
        if number != case.damaged and not (kind == "tar" and number == 0):
            missing += read[digest] <= 0
            read[digest] -= 1
    return missing


def run_batch(arguments) -> dict:
    """Makes a batch of inputs, reads each through the source, then runs the job over all of them.

    Called in a process of its own.
    """
    from castor.launch import command
    from castor.pipelines.readers.repository_source import RepositorySource
    from castor.pipelines.readers.web_source import WebSource

    kind, work = arguments.batch, pathlib.Path(arguments.work)
    folder, output = work / "inputs", work / "output"
    result = collections.Counter(inputs=0, bytes=0, neighbours_lost=0, members_lost=0, silent=0, parts=0)
    source = (WebSource if JOBS[kind] == "web" else RepositorySource)("fuzz", str(folder), ("**",))
    slowest = 0.0
    made = (
        bombs()
        if kind == "bombs"
        else cases(kind, arguments.seed, arguments.first, arguments.last, arguments.data, work)
    )
    for case in made:
        path = folder / case.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(case.data)
        if kind == "source":
            (path.parent / "LICENSE").write_bytes(_MIT)
        started = time.process_time()
        elements = list(source.read(str(path) if kind != "source" else f"{path.parent}/"))
        slowest = max(slowest, time.process_time() - started)
        missing = lost(case, kind, elements)
        result.update(inputs=1, bytes=len(case.data), parts=len(case.parts), silent=not elements)
        result["members_lost" if case.name.endswith("warc.gz") else "neighbours_lost"] += missing
    before = cpu_seconds()
    started = time.monotonic()
    code = command.main(
        [
            "data",
            JOBS[kind],
            f"--gin.INPUT_ROOT={str(folder)!r}",
            "--gin.INPUTS=['**']",
            f"--gin.OUTPUT={str(output)!r}",
            "--gin.DEAD_LETTER_THRESHOLD=1.0",
        ]
    )
    if code != 0:
        sys.exit(f"castor data {JOBS[kind]} ended with {code}")
    funnel = json.loads((output / "manifest.json").read_text())["funnel"]
    ends = {outcome: sum(funnel[outcome].values()) for outcome in ("rejected", "duplicates", "dead_letters")}
    return {
        **result,
        "read": funnel["read"],
        "kept": funnel["kept"],
        **ends,
        "adds_up": funnel["read"] == funnel["kept"] + sum(ends.values()),
        "errors": funnel["dead_letters"],
        "slowest_read_s": slowest,
        "cpu_s": cpu_seconds() - before,
        "wall_s": time.monotonic() - started,
    }


def bombs():
    for name, data in mutations.bombs().items():
        yield mutations.Case(name, data, (data,), -1)


def cpu_seconds() -> float:
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def start_batch(arguments, kind: str, first: int, last: int) -> dict:
    """A batch in a fresh process; {"failed": ...} if it did not end well."""
    with tempfile.TemporaryDirectory(dir=arguments.work) as work:
        command = [
            sys.executable,
            __file__,
            "--batch",
            kind,
            "--first",
            str(first),
            "--last",
            str(last),
            "--seed",
            str(arguments.seed),
        ]
        command += ["--data", arguments.data, "--work", work]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=arguments.batch_seconds)
        except subprocess.TimeoutExpired:
            return {"kind": kind, "failed": f"inputs {first} to {last}: not done in {arguments.batch_seconds:g} s"}
    if done.returncode:
        return {"kind": kind, "failed": f"inputs {first} to {last}: exit code {done.returncode}: {done.stderr[-2000:]}"}
    return {"kind": kind, **json.loads(done.stdout.splitlines()[-1])}


def summary(batches: list[dict]) -> dict:
    """Combines all batches of a kind."""
    total: collections.Counter = collections.Counter()
    errors: collections.Counter = collections.Counter()
    sound = [batch for batch in batches if "failed" not in batch]
    for batch in sound:
        total.update(
            {
                k: batch[k]
                for k in (
                    "inputs",
                    "parts",
                    "read",
                    "kept",
                    "rejected",
                    "duplicates",
                    "dead_letters",
                    "silent",
                    "members_lost",
                    "neighbours_lost",
                )
            }
        )
        errors.update(batch["errors"])
    return {
        **total,
        "adds_up": all(batch["adds_up"] for batch in sound),
        "errors": dict(errors.most_common(12)),
        "seconds_a_document": round(sum(b["cpu_s"] for b in sound) / max(1, total["read"]), 4),
        "slowest_read_s": round(max((b["slowest_read_s"] for b in sound), default=0), 2),
        "peak_rss_mb": max((b["peak_rss_mb"] for b in sound), default=0),
        "failed": [batch["failed"] for batch in batches if "failed" in batch],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="", help="folder of real corpora; the demo's pages without it")
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", default=",".join([*SHARES, "bombs"]))
    parser.add_argument("--batch_inputs", type=int, default=500, help="inputs a process")
    parser.add_argument(
        "--batch_seconds", type=float, default=1800, help="wall time after which a batch counts as hung"
    )
    parser.add_argument("--work", default=tempfile.gettempdir())
    for name in ("--batch", "--first", "--last"):
        parser.add_argument(
            name, help=argparse.SUPPRESS, type=str if name == "--batch" else int, default="" if name == "--batch" else 0
        )
    arguments = parser.parse_args()
    if arguments.batch:
        result = run_batch(arguments)
        largest = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        print(json.dumps({**result, "peak_rss_mb": largest // 1024}))
        return 0
    kinds = {}
    for kind in arguments.kinds.split(","):
        count = round(SHARES[kind] * arguments.inputs) if kind in SHARES else 1
        batches = [
            start_batch(arguments, kind, i, min(count, i + arguments.batch_inputs))
            for i in range(0, count, arguments.batch_inputs)
        ]
        kinds[kind] = summary(batches)
        print(kind, json.dumps(kinds[kind]), file=sys.stderr)
    well = all(
        not k["failed"] and k["adds_up"] and not k.get("silent") and not k.get("members_lost") for k in kinds.values()
    )
    machine = {
        "cpu": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
    }
    inputs = sum(k.get("inputs", 0) for k in kinds.values())
    print(
        json.dumps(
            {
                "benchmark": "fuzz",
                "well": well,
                "inputs": inputs,
                "seed": arguments.seed,
                "kinds": kinds,
                "machine": machine,
            }
        )
    )
    return 0 if well else 1


_MIT = b"""MIT License

Copyright (c) the authors

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated documentation files (the "Software"), to deal
in the Software without restriction, including without limitation the rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
copies of the Software, and to permit persons to whom the Software is furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
SOFTWARE.
"""  # noqa: E501

if __name__ == "__main__":
    sys.exit(main())
