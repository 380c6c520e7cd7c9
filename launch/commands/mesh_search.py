"""`castor compile --search`: compiles the most promising configurations for a slice and writes the best as a gin file.

Each candidate is compiled in its own `castor compile` process, so that a compiler crash costs one candidate and Ctrl-C
stops at once. Every report is kept on disk: the same command continues where it stopped, and a longer budget searches
further.
"""

import argparse
import pathlib
import subprocess
import sys
import time

from castor.launch import abstract_runs, terminal
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
    aot.devices(topology)  # raises if libtpu is missing or does not support the slice
    config = abstract_runs.configure(flags)
    model = abstract_runs.with_vocabulary_size(config, arguments.vocab_size)
    candidates = mesh_search.candidates(config, model, topology, mesh_search.predictable(REMAT_POLICIES))
    if not candidates:
        raise ConfigurationError(
            f"no mesh can fit this model and a batch of {config.batch_size} rows on {topology.size} chips.",
            "Use more chips or a larger batch.",
        )
    folder = pathlib.Path(arguments.output)
    reports = folder / f"search-{_fingerprint(config, model, topology)}"
    with lock.hold(folder, "--output"):
        return _search(candidates, reports, arguments, flags)


def _search(candidates, reports: pathlib.Path, arguments: argparse.Namespace, flags: Flags) -> int:
    reports.mkdir(parents=True, exist_ok=True)
    print(
        f"{len(candidates):,} configurations may fit; compiling for {arguments.budget_minutes:g} minutes, "
        "the fastest by a rough estimate first.",
        file=sys.stderr,
    )
    results = compile_candidates(candidates, reports, _command(arguments, flags), arguments.budget_minutes * 60)
    return _report(candidates, results, reports.parent, flags, arguments)


def compile_candidates(candidates, reports: pathlib.Path, command: list[str], budget_s: float) -> dict[str, dict]:
    """Compiles candidates until the budget is spent. Returns name -> report, including reports of earlier searches.

    candidates: configurations, the most promising first.
    reports: folder with one subfolder per candidate.
    command: `castor compile` command line without the candidate's bindings.
    budget_s: time budget in seconds.
    """
    deadline = time.monotonic() + budget_s
    results = {
        path.parent.name: report
        for path in sorted(reports.glob("*/report.json"))
        if (report := compile_report.read(path))
    }
    for number, candidate in enumerate(candidates):
        if candidate.name in results or cannot_fit(candidate, candidates, results):
            continue
        if time.monotonic() >= deadline:
            print(
                f"The budget is spent; {len(results)} configurations were compiled. Run the same command to continue.",
                file=sys.stderr,
            )
            break
        start = time.monotonic()
        report = compile_candidate(candidate, reports / candidate.name, command, max(60.0, deadline - time.monotonic()))
        if report is None:
            continue
        results[candidate.name] = report
        seconds, verdict = time.monotonic() - start, compile_report.verdict(report)
        print(f"{number + 1}: {candidate.name} ({seconds:.0f} s): {verdict}", file=sys.stderr, flush=True)
    return results


def compile_candidate(candidate, folder: pathlib.Path, command: list[str], timeout_s: float) -> dict | None:
    """Compiles one candidate in a separate process. Returns its report, or None after printing why there is none.

    candidate: the configuration.
    folder: where the process writes its report.
    command: `castor compile` command line without the candidate's bindings.
    timeout_s: seconds after which the process is killed.
    """
    bindings = [f"--gin_bindings={line}" for line in candidate.bindings]
    try:
        line = [*command, *bindings, f"--output={folder}"]
        done = subprocess.run(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, timeout=timeout_s)
    except subprocess.TimeoutExpired:
        print(f"{candidate.name}: compilation exceeded the budget", file=sys.stderr)
        return None
    report = compile_report.read(folder / "report.json") if done.returncode in (0, 1) else None
    if report is None:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        print(f"{candidate.name}: {last[:300]}", file=sys.stderr)
    return report


def cannot_fit(candidate, candidates, results: dict[str, dict]) -> bool:
    """Whether a candidate with the same mesh and a smaller estimated memory did not fit."""
    refused = [other for other in candidates if other.name in results and not results[other.name]["fits"]]
    return any(other.mesh == candidate.mesh and other.bytes <= candidate.bytes for other in refused)


def fastest(results: dict[str, dict]) -> str | None:
    """The name of the fastest candidate that fits."""
    fitting = [name for name, report in results.items() if report["fits"]]
    return min(fitting, key=lambda name: (results[name]["step"]["seconds"], name), default=None)


def _report(candidates, results: dict[str, dict], folder: pathlib.Path, flags: Flags, arguments) -> int:
    """Prints the ranking and writes best.gin with its report. Returns 1 if nothing fits."""
    console = terminal.console()
    table = terminal.table("configuration", ">GiB", ">step", ">MFU", ">exposed", "fits")
    ranked = sorted(
        results.items(), key=lambda item: (not item[1]["fits"], item[1].get("step", {}).get("seconds", 0.0))
    )
    for name, report in ranked[:SHOWN]:
        step, times = report.get("step"), ("-", "-", "-")
        if step:
            exposed = compile_report.seconds(step["exposed_seconds"])
            times = (compile_report.seconds(step["seconds"]), f"{step['mfu']:.3f}", exposed)
        table.add_row(name, compile_report.gib(report["memory"]["peak"]), *times, "yes" if report["fits"] else "no")
    console.print(table)
    name = fastest(results)
    if name is None:
        console.print("None of the compiled configurations fits.")
        return 1
    best = next(candidate for candidate in candidates if candidate.name == name)
    report = results[name]
    compile_report.write(report, str(folder))
    (folder / "best.gin").write_text(_gin(best, report, flags, arguments), encoding="utf-8")
    console.print(compile_report.verdict(report))
    console.print(f"To train with it, give {folder}/best.gin after the other gin files. Details: {folder}/report.html")
    return 0


def _gin(candidate, report: dict, flags: Flags, arguments) -> str:
    files = " ".join(f"--gin_file={name}" for name in flags.files)
    head = [
        f"Best configuration found by castor compile --search for {files}",
        f"on {arguments.num_slices} x {arguments.topology}. {compile_report.title(report)}.",
        compile_report.verdict(report),
        "Predicted from the TPU compiler's cycle estimates, not measured.",
    ]
    return "".join(f"# {line}\n" for line in head) + "\n" + "".join(f"{line}\n" for line in candidate.bindings)


def _command(arguments: argparse.Namespace, flags: Flags) -> list[str]:
    """The command line that compiles one candidate."""
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


def _fingerprint(config, model, topology) -> str:
    """Hash of all that a report depends on except the candidate: run, compiled code, prediction code, compiler."""
    import importlib.metadata

    code = fingerprint.of_code("castor.train.step", "castor.train.compiler.predict", "castor.train.compiler.aot")
    settings = (model, sorted(config.lengths.items()), config.batch_size, config.optimizer, topology)
    return fingerprint.of_json([*map(repr, settings), code, importlib.metadata.version("libtpu")])[:12]
