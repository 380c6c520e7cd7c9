"""Does the cost of the web job grow linearly with the corpus, and does a worker's memory stay constant?

    python benchmarks/jobs/scale.py --data DATA                       # 10,000, 30,000 and 100,000 documents
    python benchmarks/jobs/scale.py --data DATA --sizes 1000,3000     # a quick run

DATA is a folder with `web/crawl/*.warc.gz` (real pages). Without DATA, pages come from the demo's corpus. Documents are
copies of pages of at most LARGEST bytes. In each copy, WORDS of every hundred words are replaced by other words of the
same pages. Every NEARth copy differs in only a few words and every EXACTth copy in none, so that deduplication has work
at every size. The copies are stored in WARC files of PER_FILE pages, one gzip member per page.

The documents go through `castor launch ENGINE web`; options after `--` are passed on. ENGINE is a Flink cluster of two
task managers on this machine, or two worker processes of Beam's local runner. The corpus has one shard per PER_SHARD
documents, because a worker holds a shard in memory while writing the shard.

Peaks of resident memory are those of the largest process of a kind: `worker_mb` of processes that run the job's code,
`sandbox_mb` of processes that parse pages, `engine_mb` of Flink's processes (with fixed heaps), `launcher_mb` of the
command itself. Beam's local runner keeps shuffled data in the launcher and sends a worker its whole share at once, so
both grow with the corpus by design. On Flink, all peaks must stay constant.

slope: of log CPU seconds (all processes) over log documents, from the first size to the last. slope_wall: the same for
wall time. Prints one JSON line.
"""

import argparse
import gzip
import json
import math
import os
import pathlib
import platform
import random
import re
import subprocess
import sys
import tempfile
import threading
import time

import fuzz

LARGEST, PER_FILE, PER_SHARD = 30_000, 500, 1_000
WORDS, NEAR, EXACT = 40, 10, 50
ENGINES = {"flink": ("flink", "--local"), "local": ("local",)}
_TEXT = re.compile(rb">[^<>]{3,}<")
_WORD = re.compile(rb"[A-Za-z\x80-\xff]{3,}")


def vary(page: bytes, share: float, pool: list[bytes], draw: random.Random) -> bytes:
    """The page with the given share of the words between its tags replaced."""

    def replaced(match):
        return draw.choice(pool) if draw.random() < share else match.group()

    def text(match):
        return _WORD.sub(replaced, match.group())

    return _TEXT.sub(text, page) if share else page


def make(folder: pathlib.Path, count: int, pages: list[tuple[str, bytes]]) -> int:
    """Writes `count` documents; returns their bytes before compression."""
    folder.mkdir(parents=True)
    pool = sorted({word for _, page in pages for text in _TEXT.findall(page)[:40] for word in _WORD.findall(text)})
    total = 0
    for first in range(0, count, PER_FILE):
        with open(folder / f"{first:07d}.warc.gz", "wb") as file:
            for number in range(first, min(count, first + PER_FILE)):
                url, page = pages[number % len(pages)]
                copy = number // len(pages)
                share = 0.0 if copy % EXACT == EXACT - 1 else 0.01 if copy % NEAR == NEAR - 1 else WORDS / 100
                page = vary(page, share if copy else 0.0, pool, random.Random(number))
                total += len(page)
                file.write(gzip.compress(fuzz.response(f"{url}#{number}", page), 1, mtime=0))
    return total


class Watch(threading.Thread):
    """Peak resident memory and CPU seconds of a process and all its descendants, sampled every `period` seconds."""

    def __init__(self, pid: int, period: float = 0.5):
        super().__init__(daemon=True)
        self._root, self._period = pid, period
        self.peak = {"launcher_mb": 0, "engine_mb": 0, "worker_mb": 0, "sandbox_mb": 0}
        self._cpu: dict[int, float] = {}
        self.done = threading.Event()

    def run(self) -> None:
        while not self.done.wait(self._period):
            self.look()

    @property
    def cpu_s(self) -> float | None:
        return sum(self._cpu.values())

    def look(self) -> None:
        parents, names = {}, {}
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                try:
                    stat = pathlib.Path("/proc", entry, "stat").read_text().rpartition(")")[2].split()
                    names[int(entry)] = pathlib.Path("/proc", entry, "cmdline").read_bytes()
                except OSError:
                    continue
                parents[int(entry)] = int(stat[1]), (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")
        for pid in parents:
            ancestor = pid
            while ancestor in parents and ancestor != self._root:
                ancestor = parents[ancestor][0]
            if ancestor != self._root:
                continue
            self._cpu[pid] = parents[pid][1]
            kind = (
                "launcher_mb"
                if pid == self._root
                else "sandbox_mb"
                if b"castor.pipelines.core.sandbox" in names[pid]
                else "worker_mb"
            )
            kind = "engine_mb" if b"java" in names[pid].split(b"\0")[0] else kind
            try:
                status = pathlib.Path("/proc", str(pid), "status").read_text()
            except OSError:
                continue
            found = re.search(r"VmHWM:\s+(\d+) kB", status)
            if found:
                self.peak[kind] = max(self.peak[kind], int(found.group(1)) // 1024)


def measure(count: int, pages: list[tuple[str, bytes]], work: pathlib.Path, engine: str, more: list[str]) -> dict:
    """One size: makes the documents, runs the job, removes both."""
    with tempfile.TemporaryDirectory(dir=work) as scratch:
        folder, output = pathlib.Path(scratch, "pages"), pathlib.Path(scratch, "corpus")
        size = make(folder, count, pages)
        command = [
            sys.executable,
            "-P",
            "-m",
            "castor.launch.command",
            "launch",
            *ENGINES[engine],
            "web",
            f"--gin.INPUT_ROOT={str(folder)!r}",
            f"--gin.OUTPUT={str(output)!r}",
        ]
        command.append(f"--gin.NUM_SHARDS={math.ceil(count / PER_SHARD)}")
        started = time.monotonic()
        child = subprocess.Popen([*command, *more], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        watch = Watch(child.pid)
        watch.start()
        error = child.stderr.read()
        code = child.wait()
        seconds = time.monotonic() - started
        watch.done.set()
        watch.join()
        if code != 0:
            sys.exit(f"{count} documents: the job ended with {code}:\n{error[-3000:]}")
        funnel = json.loads((output / "manifest.json").read_text())["funnel"]
    ends = {outcome: sum(funnel[outcome].values()) for outcome in ("rejected", "duplicates", "dead_letters")}
    assert funnel["read"] == count == funnel["kept"] + sum(ends.values()), funnel
    figures = {
        "documents": count,
        "mb_html": round(size / 1e6, 1),
        "wall_s": round(seconds, 1),
        "cpu_s": round(watch.cpu_s, 1),
        **watch.peak,
    }
    return {**figures, "kept": funnel["kept"], **ends, "duplicates_by": funnel["duplicates"]}


def slope(rows: list[dict], figure: str) -> float | None:
    first, last = rows[0], rows[-1]
    return (
        round(math.log(last[figure] / first[figure]) / math.log(last["documents"] / first["documents"]), 3)
        if len(rows) > 1
        else None
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="")
    parser.add_argument("--sizes", default="10000,30000,100000")
    parser.add_argument("--engine", default="flink", choices=sorted(ENGINES))
    parser.add_argument("--work", default=tempfile.gettempdir())
    parser.add_argument("rest", nargs="*", help="more options of castor data web, after --")
    arguments = parser.parse_args()
    work = pathlib.Path(arguments.work)
    pages = [page for page in fuzz.pages(arguments.data, work) if len(page[1]) <= LARGEST]
    rows = []
    for count in map(int, arguments.sizes.split(",")):
        rows.append(measure(count, pages, work, arguments.engine, arguments.rest))
        print(json.dumps(rows[-1]), file=sys.stderr)
    machine = {
        "cpu": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
    }
    figures = {
        "slope": slope(rows, "cpu_s"),
        "slope_wall": slope(rows, "wall_s"),
        "worker_growth": round(rows[-1]["worker_mb"] / rows[0]["worker_mb"], 2),
    }
    print(
        json.dumps(
            {
                "benchmark": "scale",
                "engine": arguments.engine,
                **figures,
                "pages": len(pages),
                "sizes": rows,
                "machine": machine,
            }
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
