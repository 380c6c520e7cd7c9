"""`castor compile`: the training step through the real TPU compiler, for any slice, on a machine without a TPU.

It needs the configuration of `castor train` and no task cache: the vocabulary's size and the rows come from gin or from the command line. Says
whether the step fits the chip's memory, what passes between chips, and how long it takes by the compiler's own estimates; as a table, a JSON
file and a page. `--search` tries meshes, remat policies and ways to take the batch, and writes the best as a gin file (launch/commands/mesh_search.py).
"""

import argparse
import dataclasses
import json
import pathlib
import sys

from castor.tasks import configuration
from castor.tasks.configuration import Flags
from castor.tasks.errors import ConfigurationError
from castor.tasks.storage import storage

GIN_FILES = ("models/tiny.gin", "runs/pretrain.gin")
PLACEHOLDERS = {
    "MIXTURE_OR_TASK_NAME": "castor-compile",
    "MODEL_DIR": "castor-compile",
}  # of what the compiler does not ask
DOMAINS = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--topology", metavar="CHIP:SHAPE", required=True, help="a slice: v5e:16x16, v5p:8x8x8, v4:16x16x16, v6e:16x16"
    )
    parser.add_argument(
        "--num_slices",
        type=int,
        default=1,
        metavar="N",
        help="slices of this shape, joined by the data-centre network (default 1)",
    )
    parser.add_argument(
        "--vocab_size", type=int, metavar="N", help="rows of the embedding, where gin leaves them to the task caches"
    )
    parser.add_argument(
        "--domains",
        type=int,
        default=DOMAINS,
        metavar="N",
        help=f"domains whose losses are told apart (default {DOMAINS})",
    )
    parser.add_argument(
        "--output",
        default="castor-compile",
        metavar="DIR",
        help="folder of report.json and report.html (default castor-compile)",
    )
    parser.add_argument(
        "--keep_hlo", action="store_true", help="keep the compiled program beside the report: step.hlo.txt"
    )
    mesh_search = parser.add_argument_group("search")
    mesh_search.add_argument(
        "--search", action="store_true", help="try meshes, remat policies and ACCUMULATE; write the best as best.gin"
    )
    mesh_search.add_argument(
        "--budget_minutes", type=float, default=30.0, metavar="M", help="time for the search (default 30)"
    )


def run(arguments: argparse.Namespace, flags: Flags) -> int:
    from castor.train.compiler import aot

    aot.quiet()
    if arguments.search:
        from castor.launch.commands import mesh_search

        return mesh_search.run(arguments, flags)
    from castor.tasks.storage import lock
    from castor.train.compiler.chips import Topology

    topology = Topology.of(arguments.topology, arguments.num_slices)
    planned = plan(flags.or_files(*GIN_FILES))
    print(f"compiling for {topology.num_slices} x {topology.name}: one to a few minutes", file=sys.stderr, flush=True)
    with lock.hold(arguments.output, "--output") as held:
        report, text = compile_run(planned, topology, arguments.vocab_size, arguments.domains)
        held.check()
        write(report, arguments.output, text if arguments.keep_hlo else None)
    show(report, arguments.output)
    return 0 if report["fits"] else 1


def plan(flags: Flags):
    """The `train.loop.Run` of a configuration; what only training needs may be unbound."""
    from castor.launch.commands.train import make_run

    configuration.parse(flags)
    unbound = tuple(f"{name} = {value!r}" for name, value in PLACEHOLDERS.items() if configuration.macro(name) is None)
    return make_run(dataclasses.replace(flags, bindings=(*unbound, *flags.bindings)))


def compile_run(run, topology, vocab_size: int | None, domains: int) -> tuple[dict, str | None]:
    """Compiles a run's step: (what train.aot.report says of it, the program's text, None where it does not fit)."""
    from castor.train.compiler import aot

    trainer, rows, length = make_trainer(run, topology, vocab_size, domains)
    try:
        compiled = aot.compile_step(trainer, rows, length)
    except aot.DoesNotFit as error:
        return aot.refusal(trainer, topology, rows, length, error), None
    return aot.report(trainer, topology, rows, length, compiled), compiled.text


def make_trainer(run, topology, vocab_size: int | None, domains: int):
    """(Trainer of the described devices, rows, length). Of a table of batch sizes the largest is taken."""
    from castor.tasks.mixing.schedule import BatchSizes
    from castor.train.compiler import aot
    from castor.train.partitioning import Partitioner

    trainer, length = fit(run, Partitioner.create(run.mesh, aot.devices(topology)), vocab_size, domains)
    return trainer, max(BatchSizes.of(run.batch_size).sizes), length


def fit(run, partitioner, vocab_size: int | None, domains: int):
    """(Trainer of a mesh, length of a row), checked as `castor train` checks them, without data."""
    run.check_rows(partitioner)
    length = run.lengths.get("targets")
    if not length:
        raise ConfigurationError(
            f"TASK_FEATURE_LENGTHS = {dict(run.lengths)} has no 'targets'.", "Bind {'targets': L}, the tokens of a row."
        )
    partitioner.check_divides({"TASK_FEATURE_LENGTHS['targets']": ("residual_length", length)})
    model = dataclasses.replace(run.model, vocab_size=vocab_size or run.model.vocab_size or vocabulary_size(run))
    model.check_mesh(partitioner)
    return run.trainer(model, partitioner, domains), length


def vocabulary_size(run) -> int:
    if run.vocabulary:
        from castor import tasks

        return tasks.Vocabulary.load(run.vocabulary).vocab_size
    raise ConfigurationError(
        "Transformer.vocab_size is 0, which takes the size of the vocabulary of the task caches, and none are read here.",
        "Give --vocab_size=N, or bind VOCABULARY to the vocabulary's folder.",
    )


def write(report: dict, folder: str, text: str | None = None) -> None:
    """report.json and report.html, and step.hlo.txt where its text is given."""
    from castor.launch.reports import compile_report

    path = pathlib.Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    if text is not None:
        (path / "step.hlo.txt").write_text(text, encoding="utf-8")
    (path / "report.html").write_text(compile_report.render(report), encoding="utf-8")
    storage.write_json_atomic(str(path / "report.json"), report)


def read(path: pathlib.Path) -> dict | None:
    """A report that was written before; None where there is none that is whole."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def show(report: dict, folder: str) -> None:
    """The report on the terminal."""
    from castor.launch import terminal
    from castor.launch.reports import compile_report

    console = terminal.console()
    for title, columns, rows in compile_report.tables(report):
        table = terminal.table(*columns)
        for row in rows:
            table.add_row(*row)
        console.print(title, style="bold")
        console.print(table)
    console.print(compile_report.verdict(report))
    console.print(f"{folder}/report.html and {folder}/report.json")
