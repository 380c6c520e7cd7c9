"""Memory, predicted step time and MFU of every model of the family on pod slices, from the TPU compiler, without a TPU.

    # compiles the rows that FOLDER lacks; Ctrl-C loses nothing
    python benchmarks/tpu/pod_scale.py --rows=FOLDER
    # only rows whose name contains the text
    python benchmarks/tpu/pod_scale.py --rows=FOLDER --only=nano2
    # also analyses the same compiled program with another program
    python benchmarks/tpu/pod_scale.py --rows=FOLDER --judge=PROGRAM
    # rewrites the table from existing rows; compiles nothing
    python benchmarks/tpu/pod_scale.py --rows=FOLDER --table=docs/measurements/pod_slices.md

A row is a member of the family (runs/MEMBER.gin, or models/MEMBER.gin with runs/pod.gin) at a length on a topology, on
the run's mesh or the mesh in MESHES. Tokens per step are those of the run, or one row per batch shard of the mesh if
that is more. The row reports the first of `settings` that fits with room to spare. --prefix: words put before each
compilation, such as "nice -n 10". Prints one JSON line per row.

--judge: a program that is called as `PROGRAM HLO.txt --chip C --topology T --model-flops-per-chip F --brief` and prints
JSON with step_seconds.cycles.as_scheduled. The table shows its number next to Castor's.
"""

import argparse
import dataclasses
import gzip
import itertools
import json
import os
import pathlib
import platform
import re
import subprocess
import sys
import tempfile
import time

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
GIN = REPOSITORY / "gin"
TOKENS = {
    "tiny": 2**20,
    "small": 2**20,
    "1b": 2**21,
    "nano1": 2**22,
    "nano2": 2**22,
    "pro": 2**23,
    "ultra": 2**24,
}  # of a step, as the runs have
CHIPS = {"v5e:16x16": 256, "v5p:8x8x8": 512, "v5p:8x16x16": 2048, "v5p:16x16x16": 4096, "v4:16x16x16": 4096}
# Slices that do not use the run's own mesh, which is made for smaller chips. Models without a run are replicated on
# every chip.
MESHES = {
    **{
        (member, topology, length): {"data": -1}
        for member in ("tiny", "small")
        for topology in CHIPS
        for length in (2048, 4096, 8192)
    },
    **{("pro", "v5p:8x8x8", length): {"fsdp": 512} for length in (2048, 4096, 8192)},
    ("pro", "v5p:8x8x8", 32768): {"fsdp": 128, "context": 4},
    ("pro", "v5e:16x16", 32768): {"fsdp": 16, "context": 4, "sequence": 4},
}
VOCABULARY = {"tiny": 32768, "small": 32768}  # of models whose gin files leave the size to the data
# Usable share of the memory: closer to the limit, the compiler no longer overlaps transfers with matrix products.
ROOM = 0.95
ATTEMPTS = 3  # settings to try before the one that needs least memory
BEGIN, END = "<!-- benchmarks/tpu/pod_scale.py: begin -->", "<!-- end -->"


@dataclasses.dataclass(frozen=True)
class Row:
    member: str
    topology: str
    length: int
    slices: int = 1
    whole_loss: bool = False  # logits of all tokens at once, to show what the chunks save

    @property
    def name(self) -> str:
        topology = f"{self.slices}x{self.topology.replace(':', '_')}"
        return f"{self.member}_{topology}_{self.length}{'_whole_loss' * self.whole_loss}"

    @property
    def chips(self) -> int:
        return self.slices * CHIPS[self.topology]

    @property
    def files(self) -> list[str]:
        run = f"runs/{self.member}.gin"
        files = [run] if (GIN / run).is_file() else [f"models/{self.member}.gin", "runs/pod.gin"]
        files += ["runs/context_32k.gin"] if self.length == 32768 else []
        compiler = f"compiler/{self.topology.split(':')[0]}.gin"
        return files + [compiler if (GIN / compiler).is_file() else "compiler/v5e.gin"]


@dataclasses.dataclass(frozen=True)
class Setting:
    """One setting to try.

    Rows of the batch, sizes of mesh axes (None: the run's), remat (None: the model's) and number of microbatches.
    """

    rows: int
    mesh: dict[str, int] | None = None
    remat: str | None = None
    accumulate: int = 1


def rows() -> list[Row]:
    """All rows, most important first, because they take hours."""
    large = [Row("ultra", "v4:16x16x16", length) for length in (8192, 4096, 2048)] + [
        Row("ultra", "v5p:16x16x16", 2048, 2)
    ]
    large += [Row("ultra", "v5p:8x16x16", 8192, 2)]
    long = [Row(member, topology, 32768) for member in ("nano2", "pro") for topology in ("v5e:16x16", "v5p:8x8x8")]
    wide = [
        Row(member, topology, length)
        for length in (8192, 2048, 4096)
        for member in ("nano2", "pro", "nano1", "1b", "small")
        for topology in ("v5e:16x16", "v5p:8x8x8")
    ]
    rest = [Row("ultra", "v5p:8x8x8", length) for length in (8192, 4096, 2048)] + [Row("ultra", "v5e:16x16", 2048)]
    tiny = [Row("tiny", topology, length) for length in (2048, 4096, 8192) for topology in ("v5e:16x16", "v5p:8x8x8")]
    whole = [dataclasses.replace(row, whole_loss=True) for row in long[:2]]
    return wide[:4] + large[:1] + long + whole + wide[4:10] + large[1:] + wide[10:] + rest + tiny


def settings(row: Row) -> list[Setting]:
    """Remat policies and numbers of microbatches on the run's mesh, fastest first.

    The order is that of the rough cost model of `castor compile --search`. A row with the whole loss tries the same
    settings.
    """
    from castor.launch import abstract_runs
    from castor.tasks.configuration import Flags
    from castor.train.compiler import mesh_search
    from castor.train.compiler.chips import Topology
    from castor.train.model.decoder import REMAT_POLICIES
    from castor.train.partitioning import Partitioner

    mesh = MESHES.get((row.member, row.topology, row.length))
    run = abstract_runs.configure(Flags(tuple(row.files), (f"TASK_FEATURE_LENGTHS = {{'targets': {row.length}}}",)))
    model = dataclasses.replace(run.model, vocab_size=run.model.vocab_size or VOCABULARY[row.member])
    topology = Topology.of(row.topology, row.slices)
    partitioner = Partitioner.abstract(mesh or run.mesh, topology.size, topology.num_slices)
    rough = mesh_search.CostModel(run, model, topology, partitioner, row.length)
    rows, found = batch_rows(row, partitioner.size("batch")), []
    for remat, parts in itertools.product(mesh_search.predictable(REMAT_POLICIES), mesh_search.MICROBATCHES):
        if rows % (partitioner.size("batch") * parts) == 0:
            size = rough.bytes(rows, parts, remat, model.loss_chunk)
            found.append((rough.seconds(rows, parts, remat), size, Setting(rows, mesh, remat, parts)))
    ladder = []
    for each in sorted(found, key=lambda each: each[:2]):  # slower settings only if they need less memory
        if each[1] <= min([topology.chip.usable, *(0.95 * size for _, size, _ in ladder)]):
            ladder.append(each)
    least = min(found, key=lambda each: (each[1], each[0]))
    return [setting for *_, setting in [*ladder[:ATTEMPTS], *([least] if least not in ladder[:ATTEMPTS] else [])]]


def batch_rows(row: Row, cut: int) -> int:
    """Of the batch that the mesh cuts into `cut` parts."""
    return max(TOKENS[row.member] // row.length, cut)


def command(row: Row, setting: Setting, folder: pathlib.Path) -> list[str]:
    bindings = {
        "TASK_FEATURE_LENGTHS": {"targets": row.length},
        "BATCH_SIZE": setting.rows,
        "ACCUMULATE": setting.accumulate,
    }
    if setting.mesh is not None:
        bindings["MESH"] = setting.mesh
    flags = [f"--gin.{name}={value}" for name, value in bindings.items()]
    flags += [f"--gin.train.model.Transformer.remat={setting.remat!r}"] if setting.remat else []
    flags += ["--gin.train.model.Transformer.loss_chunk=0"] if row.whole_loss else []
    flags += [f"--vocab_size={VOCABULARY[row.member]}"] if row.member in VOCABULARY else []
    flags += [f"--gin_file={name}" for name in row.files]
    flags += [f"--topology={row.topology}", f"--num_slices={row.slices}", "--keep_hlo", f"--output={folder}"]
    return [sys.executable, "-P", "-m", "castor.launch.command", "compile", *flags]


def measure(row: Row, judge: str | None, prefix: list[str], rows: pathlib.Path) -> dict:
    """Compiles a row with one setting after the other until one fits with room to spare.

    The program of that setting is stored next to the row, for analysis by other programs.
    """
    attempts, found = [], None
    for setting in settings(row):
        with tempfile.TemporaryDirectory() as scratch:
            folder, began = pathlib.Path(scratch), time.monotonic()
            done = subprocess.run(
                [*prefix, *command(row, setting, folder)], cwd=REPOSITORY, capture_output=True, text=True
            )
            wall = time.monotonic() - began
            if not (folder / "report.json").is_file():
                last = (done.stderr.strip().splitlines() or ["no message"])[-1]
                last = f"the TPU compiler crashes (signal {-done.returncode})" if done.returncode < 0 else last
                attempts.append({"setting": dataclasses.asdict(setting), "error": last[:400], "wall_seconds": wall})
                continue
            report = json.loads((folder / "report.json").read_text())
            said = {
                "setting": dataclasses.asdict(setting),
                "fits": report["fits"],
                "peak": report["memory"]["peak"],
                "wall_seconds": wall,
            }
            attempts.append(said)
            if report["fits"] and (found is None or report["memory"]["peak"] < found["report"]["memory"]["peak"]):
                (rows / f"{row.name}.hlo.gz").write_bytes(gzip.compress((folder / "step.hlo.txt").read_bytes()))
                verdict = ask(judge, folder / "step.hlo.txt", row, report) if judge else None
                found = {
                    "report": {name: value for name, value in report.items() if name not in ("slowest", "loops")},
                    "judge": verdict,
                }
            if report["fits"] and report["memory"]["peak"] <= ROOM * report["memory"]["usable"]:
                break
    return {
        "row": dataclasses.asdict(row),
        "attempts": attempts,
        **(found or {"report": None, "judge": None}),
        "machine": machine(),
    }


def ask(judge: str, program: pathlib.Path, row: Row, report: dict) -> dict | None:
    """The other program's estimate for the same compiled program."""
    chip, shape = row.topology.split(":")
    flags = [
        "--chip",
        "v4m" if chip == "v4" else chip,
        "--topology",
        shape,
        "--model-flops-per-chip",
        str(report["flops"]["model"]),
        "--brief",
    ]
    done = subprocess.run([sys.executable, "-I", judge, str(program), *flags], capture_output=True, text=True)
    if done.returncode:
        return {"error": done.stderr.strip()[-300:]}
    told = json.loads(done.stdout)
    return {
        "seconds": told["step_seconds"]["cycles"]["as_scheduled"],
        "mfu": told["mfu"]["cycles"]["as_scheduled"],
        "warnings": told["warnings"],
    }


def machine() -> str:
    return f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"


# ---------------------------------------------------------------- the table


def table(results: dict[str, dict]) -> str:
    """Markdown: rows that fit with their predicted step times, then rows that do not fit."""
    columns = (
        "model",
        "slice",
        "length",
        "rows, tokens per chip",
        "mesh",
        "remat, microbatches",
        "HBM peak, GiB",
        "step, s",
        "MFU",
    )
    columns += ("other reader: step, s; MFU", "waited for", "compile, s")
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    refused = []
    for row in sorted(rows(), key=_order):
        told = results.get(row.name)
        if told is None:
            continue
        slices = f"{row.slices} x {row.topology}" if row.slices > 1 else row.topology
        if told["report"] is None:
            needs = [attempt["peak"] / 2**30 for attempt in told["attempts"] if attempt.get("peak")]
            errors = [attempt["error"] for attempt in told["attempts"] if "error" in attempt]
            why = f"needs {min(needs):.1f} GiB per chip at best" if needs else errors[-1] if errors else "not compiled"
            refused.append(f"| {row.member}{', whole loss' * row.whole_loss} | {slices} | {row.length:,} | {why} |")
            continue
        report, judge = told["report"], told["judge"]
        memory, step, batch, model = report["memory"], report["step"], report["batch"], report["model"]
        mesh = " ".join(f"{axis} {size}" for axis, size in report["mesh"].items() if size > 1)
        other = f"{judge['seconds']:.3f}; {judge['mfu']:.3f}" if judge and "seconds" in judge else "-"
        lines.append(
            f"| {row.member} | {slices} | {row.length:,} "
            f"| {batch['rows']:,}, {batch['tokens'] // row.chips:,} | {mesh} "
            f"| {model['remat']}, {batch['accumulate']}{', whole loss' * row.whole_loss} "
            f"| {memory['peak'] / 2**30:.1f} of {memory['usable'] / 2**30:.1f} "
            f"| {step['seconds']:.3f} | {step['mfu']:.3f} | {other} "
            f"| {step['exposed_seconds'] / step['seconds']:.0%} | {report['compiler']['seconds']:.0f} |"
        )
    if refused:
        lines += [
            "",
            "What did not fit, with any of the settings that were tried:",
            "",
            "| model | slice | length | why |",
            "|---|---|---|---|",
        ]
        lines += refused
    return "\n".join(lines)


def _order(row: Row) -> tuple:
    return list(TOKENS).index(row.member), list(CHIPS).index(row.topology), row.length


def write_table(path: pathlib.Path, results: dict[str, dict]) -> None:
    """Inserts the table between its markers."""
    text = path.read_text(encoding="utf-8")
    pattern = re.compile(re.escape(BEGIN) + ".*?" + re.escape(END), re.DOTALL)
    path.write_text(pattern.sub(lambda _: f"{BEGIN}\n{table(results)}\n{END}", text), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", required=True, type=pathlib.Path)
    parser.add_argument("--only", default="")
    parser.add_argument("--judge")
    parser.add_argument("--prefix", default="")
    parser.add_argument("--table", type=pathlib.Path)
    arguments = parser.parse_args()
    arguments.rows.mkdir(parents=True, exist_ok=True)
    from castor.train.compiler import aot

    aot.quiet()
    if arguments.table:
        write_table(
            arguments.table, {path.stem: json.loads(path.read_text()) for path in arguments.rows.glob("*.json")}
        )
        return
    for row in rows():
        path = arguments.rows / f"{row.name}.json"
        if arguments.only in row.name and not path.is_file():
            told = measure(row, arguments.judge, arguments.prefix.split(), arguments.rows)
            partial = path.with_suffix(".partial")
            partial.write_text(json.dumps(told, indent=1))
            partial.replace(path)
            step = (told["report"] or {}).get("step", {})
            line = {
                "benchmark": "pod_scale",
                "row": row.name,
                "fits": bool(told["report"]),
                "seconds": step.get("seconds"),
                "mfu": step.get("mfu"),
            }
            print(json.dumps({**line, "judge": told["judge"], "machine": told["machine"]}), flush=True)


if __name__ == "__main__":
    main()
