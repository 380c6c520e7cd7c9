"""Cost of a web page from WARC to corpus, by stage and in total, compared with datatrove on the same pages and rules.

    python benchmarks/web/web_job.py --root=DATA/web/crawl --peer-python=DATATROVE/bin/python [--repeat=6]
        [--slow-repeat=1] [--rounds=3] [--trafilatura]

Every job runs in its own process. CPU seconds are those of the process and all its children, including start and
imports. Castor runs `castor data web` with the rules of FineWeb's published recipe (pipelines/web_fineweb.gin). Like
datatrove's pipeline here, this job has no language filter, deduplication, URL list or replacement of personal data.
Then Castor runs its default recipe, which has all of these. With --trafilatura, Castor also extracts with Trafilatura.

Jobs read the archives `repeat` times under different names; jobs that extract with Trafilatura take long, and read them
`slow-repeat` times. Also reported are the cost of a job over a single page (`start_seconds`), the cost per page without
it (`ms_a_page_running`), and the cost per page in corpora of other sizes, including the start (`ms_a_page_of`). The
comparison uses `ms_a_page_of`, with the same number of pages on both sides. The sides take turns for `rounds` rounds,
and the median of each counts, because the speed of a shared machine varies. datatrove runs in
benchmarks/web/datatrove_peer.py; set PYTHONPATH if its interpreter lacks a package.

Then every stage of Castor's job runs alone in this process, measured in milliseconds of CPU per document that reaches
the stage.

Prints one JSON line: CPU milliseconds per page; pages and megabytes of HTML per CPU second; pages read, kept and lost
(read, but missing from every row of the funnel); and the ratios to datatrove.
"""

import argparse
import collections
import glob
import gzip
import importlib.metadata
import json
import os
import pathlib
import platform
import resource
import subprocess
import sys
import tempfile
import time

from castor.pipelines import web
from castor.pipelines.core import functions
from castor.pipelines.corpus.reader import load_manifest
from castor.pipelines.corpus.rows import encode_element
from castor.pipelines.corpus.shard_writer import write_shard
from castor.pipelines.document import Document
from castor.pipelines.readers import web_source
from castor.pipelines.text import charset, language
from castor.tasks import configuration

SAME_RULES = (
    "language.Identify.languages=()", "language.Identify.min_score=0.0", "web.Job.admission=()",
    "web.Job.duplicates=()",
    "web.Job.filters=[@gopher_repetition.Filter(), @gopher_quality.Filter(), "
    "@c4.Clean(), @c4.Filter(), @fineweb.Filter()]",
)  # fmt: skip


ONE_PAGE = (
    "The library keeps every book that was ever lent to it, and lends each of them to whoever asks. "
    "Its oldest shelves hold ledgers of the guild.",
    "On the upper floor there are maps, and from the windows you can see the whole harbour when the morning is clear. "
    "Nobody remembers who drew them.",
    "In winter the reading room is heated with wood from old ships. People come to be warm, stay for a chapter, "
    "and go home with three volumes.",
    "Last year a student found letters between two pages of an atlas. They had been written by a captain to "
    "his daughter, and never sent to her.",
    "What has been lost is known as well: a list of titles hangs beside the door. It has grown by four names since "
    "the war, and by none this year.",
)


def cpu(command: list[str], environment: dict[str, str]) -> tuple[float, bytes]:
    """CPU seconds of a command with all its children, and its standard output."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, capture_output=True, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr.decode(errors='replace')[-3000:]}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout


SIZES = (2886, 8658, 100_000)
"""Corpus sizes, in pages, whose cost is reported."""


def row(seconds: float, start: float, num_pages: int, megabytes: float, **facts) -> dict:
    """The rates of a job over `num_pages` pages.

    start: seconds of the same job over one page.
    megabytes: total size of the pages' HTML.
    """
    return {
        "pages": num_pages,
        "cpu_seconds": round(seconds, 2),
        "start_seconds": round(start, 2),
        "ms_a_page": round(1000 * seconds / num_pages, 2),
        "ms_a_page_running": round(1000 * (seconds - start) / num_pages, 2),
        "ms_a_page_of": {size: round(1000 * ((seconds - start) / num_pages + start / size), 2) for size in SIZES},
        "pages_a_cpu_second": round(num_pages / seconds, 1),
        "html_mb_a_cpu_second": round(megabytes / seconds, 2),
        **facts,
    }


def castor(root: str, one: str, recipe: str, bindings: tuple[str, ...], num_pages: int, megabytes: float) -> dict:
    """Runs the job as users do, over the archives under `root` and over the single page under `one`."""
    start, _ = castor_job(one, recipe, bindings)
    seconds, funnel = castor_job(root, recipe, bindings)
    ended = funnel["kept"] + sum(
        sum(funnel[outcome].values()) for outcome in ("rejected", "duplicates", "dead_letters")
    )
    facts = {
        "read": funnel["read"],
        "kept": funnel["kept"],
        "lost": funnel["read"] - ended,
        "dead_letters": sum(funnel["dead_letters"].values()),
    }
    return row(seconds, start, num_pages, megabytes, **facts)


def castor_job(root: str, recipe: str, bindings: tuple[str, ...]) -> tuple[float, dict]:
    """(CPU seconds, funnel) of a run."""
    with tempfile.TemporaryDirectory() as folder:
        output = os.path.join(folder, "out")
        values = (f"INPUT_ROOT={root!r}", f"OUTPUT={output!r}", 'INPUTS=["**"]', "NUM_SHARDS=4", *bindings)
        command = [
            sys.executable,
            "-P",
            "-m",
            "castor.launch.command",
            "data",
            "web",
            f"--gin_file=pipelines/{recipe}.gin",
            *(f"--gin.{v}" for v in values),
        ]
        seconds, _ = cpu(command, dict(os.environ))
        return seconds, load_manifest(output)["funnel"]


def datatrove(python: str, root: str, one: str, num_pages: int, megabytes: float) -> dict:
    """Runs datatrove's pipeline in its own interpreter.

    The pipeline runs over the archives under `root`, and over the single page under `one`.
    """
    start, _ = datatrove_job(python, one)
    seconds, steps = datatrove_job(python, root)
    read, extract = steps["read"]["counts"]["documents"], steps["extract"]["counts"]
    failed = {name: count for name, count in extract.items() if name in ("timeout", "broken_process", "clean_error")}
    facts = {
        "read": read,
        "kept": steps["write"]["counts"].get("total", 0),
        "lost": num_pages - read,
        "failed": failed,
        "steps": steps,
    }
    return row(seconds, start, num_pages, megabytes, **facts)


def datatrove_job(python: str, root: str) -> tuple[float, dict]:
    """(CPU seconds, result of datatrove_peer.web) of a run."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "DATATROVE_COLORIZE_LOGS": "0"}
        seconds, printed = cpu(
            [python, str(pathlib.Path(__file__).with_name("datatrove_peer.py")), "web", root, folder], environment
        )
    return seconds, json.loads(printed.splitlines()[-1])


def link(folder: str, root: str, repeat: int) -> None:
    """Links the files of `folder` into `root`, `repeat` times under different names."""
    for copy in range(repeat):
        for path in glob.glob(os.path.join(folder, "*")):
            os.symlink(os.path.abspath(path), os.path.join(root, f"{copy}-{os.path.basename(path)}"))


def write_one_page(path: str) -> None:
    """A WARC file of one page that passes every rule, to measure the fixed cost of a job."""
    text = "".join(f"<p>{paragraph}</p>" for paragraph in ONE_PAGE)
    page = f"<html><head><title>One page</title></head><body><article>{text}</article></body></html>".encode()
    response = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: %d\r\n\r\n%s" % (
        len(page),
        page,
    )
    head = (
        "WARC/1.0", "WARC-Type: response", "WARC-Target-URI: https://example.com/", "WARC-Date: 2024-01-01T00:00:00Z",
        "WARC-Record-ID: <urn:uuid:00000000-0000-4000-8000-000000000000>",
        "Content-Type: application/http; msgtype=response",
        f"Content-Length: {len(response)}",
    )  # fmt: skip
    with gzip.open(path, "wb") as file:
        file.write("\r\n".join([*head, "", ""]).encode() + response + b"\r\n\r\n")


def stages(root: str) -> tuple[dict[str, float], int, float]:
    """({stage: CPU milliseconds per document that reaches the stage}, pages, MB of HTML).

    Each stage is called as in the job, but without the sandbox.
    """
    configuration.parse(configuration.Flags(("pipelines/web.gin",), ("INPUT_ROOT = ''", "OUTPUT = ''")))
    job = web.Job()
    seconds, reached = collections.Counter(), collections.Counter()

    def timed(name, function, *arguments):
        started = time.process_time()
        result = function(*arguments)
        seconds[name] += time.process_time() - started
        reached[name] += 1
        return result

    steps = [("extract", job.extract), ("language", job.identify)]
    steps += [(rule.name, functions.FilterFunction(rule) if hasattr(rule, "check") else rule) for rule in job.filters]
    for _, step in steps:
        functions.prepare(step)
    language.identify("warm")
    source, num_pages, size, rows = web_source.WebSource("web_job", root, ("**",)), 0, 0, []
    for uri in source.files():
        elements = source.read(uri)
        while (element := timed("read", next, elements, None)) is not None:
            if not isinstance(element, Document):
                continue
            num_pages, size = num_pages + 1, size + len(element.bytes)
            timed("decode (part of extract)", charset.decode_html, element.bytes, "")
            for name, step in steps:
                element = timed(name, functions.apply, name, step, element)
                if not isinstance(element, Document):
                    break
            rows.append(timed("pack", encode_element, element, False)[1])
    with tempfile.TemporaryDirectory() as folder:
        started = time.process_time()
        write_shard(folder, 0, 1, rows)
        seconds["write"], reached["write"] = time.process_time() - started, len(rows)
    return {name: round(1000 * seconds[name] / reached[name], 3) for name in seconds}, num_pages, size / 1e6


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="a folder of WARC files")
    parser.add_argument("--peer-python", default="", help="an interpreter that has datatrove")
    parser.add_argument("--repeat", type=int, default=6)
    parser.add_argument("--slow-repeat", type=int, default=1, help="for datatrove, and for Castor with Trafilatura")
    parser.add_argument("--rounds", type=int, default=3, help="each takes every side once; the median of a side counts")
    parser.add_argument("--trafilatura", action="store_true", help="measure Castor with Trafilatura too")
    arguments = parser.parse_args()
    by_stage, num_pages, megabytes = stages(arguments.root)
    result = {
        "benchmark": "web_job",
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
        "pages": num_pages,
        "html_mb": round(megabytes, 1),
        "stages_ms": by_stage,
    }
    with (
        tempfile.TemporaryDirectory() as root,
        tempfile.TemporaryDirectory() as slow_root,
        tempfile.TemporaryDirectory() as one,
    ):
        write_one_page(os.path.join(one, "one.warc.gz"))
        link(arguments.root, root, arguments.repeat)
        link(arguments.root, slow_root, arguments.slow_repeat)
        size, slow_size = (
            (num_pages * repeat, megabytes * repeat) for repeat in (arguments.repeat, arguments.slow_repeat)
        )
        with_trafilatura = (*SAME_RULES, "html.Extract.extractor='trafilatura'")
        sides = {
            "castor": lambda: castor(root, one, "web_fineweb", SAME_RULES, *size),
            "castor_default_recipe": lambda: castor(root, one, "web", (), *size),
        }
        if arguments.trafilatura:
            sides["castor_trafilatura"] = lambda: castor(slow_root, one, "web_fineweb", with_trafilatura, *slow_size)
            result["trafilatura"] = importlib.metadata.version("trafilatura")
        if arguments.peer_python:
            sides["datatrove"] = lambda: datatrove(arguments.peer_python, slow_root, one, *slow_size)
        rounds = [{name: side() for name, side in sides.items()} for _ in range(arguments.rounds)]
    for name in sides:
        of_rounds = sorted((told[name] for told in rounds), key=lambda told: told["ms_a_page_running"])
        result[name] = {
            **of_rounds[len(of_rounds) // 2],
            "ms_a_page_running_of_rounds": [told[name]["ms_a_page_running"] for told in rounds],
        }
    if peer := result.get("datatrove"):
        for own in (result[name] for name in sides if name != "datatrove"):
            own["times_datatrove_of"] = {
                web_source: round(peer["ms_a_page_of"][web_source] / own["ms_a_page_of"][web_source], 2)
                for web_source in SIZES
            }
            own["times_datatrove_running"] = round(peer["ms_a_page_running"] / own["ms_a_page_running"], 2)
    print(json.dumps(result, ensure_ascii=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
