"""`castor compile --search`: compiles the most promising ways to train on a slice, one after the other, and writes the best as a gin file.

Each way is compiled by a `castor compile` of its own, so that a compiler that dies takes nothing with it, Ctrl-C stops at once, and every result is
a report that can be read. Results stay on disk as they come: the same command goes on where it was stopped, and with a longer budget goes further.
"""

import argparse
import dataclasses
import pathlib
import subprocess
import sys
import time

from castor.launch import terminal
from castor.launch.commands import compile as compile_lib
from castor.launch.reports import compile_report
from castor.tasks import fingerprint
from castor.tasks.configuration import Flags
from castor.tasks.errors import ConfigurationError
from castor.tasks.storage import lock

SHOWN = 10


def run(arguments: argparse.Namespace, flags: Flags) -> int:
    from castor.train.compiler import aot, mesh_search
    from castor.train.compiler.chips import Topology
    from castor.train.model.decoder import REMAT_POLICIES

    topology = Topology.of(arguments.topology, arguments.num_slices)
    aot.devices(topology)  # the slice exists and there is a compiler
    flags = flags.or_files(*compile_lib.GIN_FILES)
    planned = compile_lib.plan(flags)
    model = dataclasses.replace(
        planned.model,
        vocab_size=arguments.vocab_size or planned.model.vocab_size or compile_lib.vocabulary_size(planned),
    )
    ways = mesh_search.candidates(planned, model, topology, mesh_search.timed(REMAT_POLICIES))
    if not ways:
        raise ConfigurationError(
            f"no way to cut this model and a batch of {planned.batch_size} rows over {topology.size} chips may fit.",
            "Take more chips or a larger batch.",
        )
    folder = pathlib.Path(arguments.output)
    reports = folder / f"search-{_fingerprint(planned, model, topology)}"
    with lock.hold(folder, "--output"):
        return _search(ways, reports, arguments, flags)


def _search(ways, reports: pathlib.Path, arguments: argparse.Namespace, flags: Flags) -> int:
    reports.mkdir(parents=True, exist_ok=True)
    print(
        f"{len(ways):,} ways may fit; the quickest by a rough model are compiled for {arguments.budget_minutes:g} minutes.",
        file=sys.stderr,
    )
    results = try_ways(ways, reports, _command(arguments, flags), arguments.budget_minutes * 60)
    return _tell(ways, results, reports.parent, flags, arguments)


def try_ways(ways, reports: pathlib.Path, command: list[str], budget: float) -> dict[str, dict]:
    """Name -> report of every way that was compiled, now or before. Ends when the budget (seconds) is spent."""
    ends = time.monotonic() + budget
    results = {
        path.parent.name: report for path in sorted(reports.glob("*/report.json")) if (report := compile_lib.read(path))
    }
    for number, way in enumerate(ways):
        if way.name in results or hopeless(way, ways, results):
            continue
        if time.monotonic() >= ends:
            print(
                f"The budget is spent; {len(results)} ways were compiled. The same command goes on from there.",
                file=sys.stderr,
            )
            break
        began = time.monotonic()
        report = compile_way(way, reports / way.name, command, max(60.0, ends - time.monotonic()))
        if report is None:
            continue
        results[way.name] = report
        said = compile_report.verdict(report)
        print(f"{number + 1}: {way.name} ({time.monotonic() - began:.0f} s): {said}", file=sys.stderr, flush=True)
    return results


def compile_way(way, folder: pathlib.Path, command: list[str], limit: float) -> dict | None:
    """The report of one way, from a process of its own; None where that did not end well or in time, which is said."""
    bindings = [f"--gin_bindings={line}" for line in way.bindings]
    try:
        line = [*command, *bindings, f"--output={folder}"]
        done = subprocess.run(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        print(f"{way.name}: not compiled within the budget", file=sys.stderr)
        return None
    report = compile_lib.read(folder / "report.json") if done.returncode in (0, 1) else None
    if report is None:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        print(f"{way.name}: {last[:300]}", file=sys.stderr)
    return report


def hopeless(way, ways, results: dict[str, dict]) -> bool:
    """Whether a way of the same mesh that asks for less memory did not fit."""
    refused = [other for other in ways if other.name in results and not results[other.name]["fits"]]
    return any(other.mesh == way.mesh and other.bytes <= way.bytes for other in refused)


def best_of(results: dict[str, dict]) -> str | None:
    """The name of the quickest that fits."""
    fitting = [name for name, report in results.items() if report["fits"]]
    return min(fitting, key=lambda name: (results[name]["step"]["seconds"], name), default=None)


def _tell(ways, results: dict[str, dict], folder: pathlib.Path, flags: Flags, arguments) -> int:
    console = terminal.console()
    table = terminal.table("way", ">GiB", ">step", ">MFU", ">waited for", "fits")
    ranked = sorted(
        results.items(), key=lambda item: (not item[1]["fits"], item[1].get("step", {}).get("seconds", 0.0))
    )
    for name, report in ranked[:SHOWN]:
        step = report.get("step")
        told = (step["seconds"], step["mfu"], step["exposed_seconds"]) if step else ()
        times = (
            (compile_report.seconds(told[0]), f"{told[1]:.3f}", compile_report.seconds(told[2]))
            if told
            else ("-", "-", "-")
        )
        table.add_row(name, compile_report.gib(report["memory"]["peak"]), *times, "yes" if report["fits"] else "no")
    console.print(table)
    name = best_of(results)
    if name is None:
        console.print("None of the ways that were compiled fits.")
        return 1
    way = next(way for way in ways if way.name == name)
    report = results[name]
    compile_lib.write(report, str(folder))
    (folder / "best.gin").write_text(_gin(way, report, flags, arguments), encoding="utf-8")
    console.print(compile_report.verdict(report))
    console.print(f"{folder}/best.gin, after the other gin files, trains so; {folder}/report.html tells more.")
    return 0


def _gin(way, report: dict, flags: Flags, arguments) -> str:
    files = " ".join(f"--gin_file={name}" for name in flags.files)
    head = [
        f"The best that castor compile --search found for {files}",
        f"on {arguments.num_slices} x {arguments.topology}. {compile_report.title(report)}.",
        compile_report.verdict(report),
        "A prediction of the TPU compiler's cycles, not a measurement.",
    ]
    return "".join(f"# {line}\n" for line in head) + "\n" + "".join(f"{line}\n" for line in way.bindings)


def _command(arguments: argparse.Namespace, flags: Flags) -> list[str]:
    """This command line for one way."""
    command = [
        sys.executable,
        "-P",
        "-m",
        "castor.launch.command",
        "compile",
        f"--topology={arguments.topology}",
        f"--num_slices={arguments.num_slices}",
    ]
    command += [f"--vocab_size={arguments.vocab_size}"] if arguments.vocab_size else []
    command += [f"--domains={arguments.domains}", *(f"--gin_file={name}" for name in flags.files)]
    command += [f"--gin_search_paths={path}" for path in flags.search_paths]
    return command + [f"--gin_bindings={line}" for line in flags.bindings]


def _fingerprint(run, model, topology) -> str:
    """Of all that a result depends on beside the way itself: the run, the code that is compiled and the code that reads it, the compiler."""
    import importlib.metadata

    code = fingerprint.of_code("castor.train.step", "castor.train.compiler.predict", "castor.train.compiler.aot")
    facts = [repr(part) for part in (model, sorted(run.lengths.items()), run.batch_size, run.optimizer, topology)]
    return fingerprint.of_json([*facts, code, importlib.metadata.version("libtpu")])[:12]
