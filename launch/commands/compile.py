"""`castor compile`: compiles the training step for any TPU slice with the real compiler, on a machine without a TPU.

The command needs the configuration of `castor train` but no task cache (launch/abstract_runs.py). The report says
whether the step fits in a chip's memory, how much data the chips exchange, and how long a step takes by the compiler's
own estimates. The report is a table, a JSON file and an HTML page. `--search` tries meshes, remat policies and
microbatches, and writes the best as a gin file (launch/commands/mesh_search.py).
"""

import argparse
import sys

from castor.launch import abstract_runs, training_runs
from castor.tasks.configuration import Flags

DOMAINS = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--topology",
        metavar="CHIP:SHAPE",
        required=True,
        help="TPU slice, e.g. v5e:16x16, v5p:8x8x8, v4:16x16x16, v6e:16x16",
    )
    parser.add_argument(
        "--num_slices",
        type=int,
        default=1,
        metavar="N",
        help="number of slices, joined by the data-centre network (default 1)",
    )
    parser.add_argument(
        "--vocab_size", type=int, metavar="N", help="vocabulary size, if gin takes it from the task caches"
    )
    parser.add_argument(
        "--domains",
        type=int,
        default=DOMAINS,
        metavar="N",
        help=f"domains whose losses are reported separately (default {DOMAINS})",
    )
    parser.add_argument(
        "--output",
        default="castor-compile",
        metavar="DIR",
        help="folder for report.json and report.html (default castor-compile)",
    )
    parser.add_argument(
        "--keep_hlo", action="store_true", help="also write the compiled program, step.hlo.txt, into OUTPUT"
    )
    group = parser.add_argument_group("search")
    group.add_argument(
        "--search", action="store_true", help="try meshes, remat policies and ACCUMULATE; write the best as best.gin"
    )
    group.add_argument(
        "--budget_minutes", type=float, default=30.0, metavar="M", help="time budget of the search (default 30)"
    )


def run(arguments: argparse.Namespace, flags: Flags) -> int:
    from castor.train.compiler import aot

    aot.quiet()
    flags = flags.or_files(*training_runs.GIN_FILES)
    if arguments.search:
        from castor.launch.commands import mesh_search

        return mesh_search.run(arguments, flags)
    from castor.launch.reports import compile_report
    from castor.tasks.storage import lock
    from castor.train.compiler.chips import Topology

    topology = Topology.of(arguments.topology, arguments.num_slices)
    config = abstract_runs.configure(flags)
    print(f"compiling for {topology.num_slices} x {topology.name}; this takes minutes", file=sys.stderr, flush=True)
    with lock.hold(arguments.output, "--output") as held:
        report, text = compile_run(config, topology, arguments.vocab_size, arguments.domains)
        held.check()
        compile_report.write(report, arguments.output, text if arguments.keep_hlo else None)
    compile_report.show(report, arguments.output)
    return 0 if report["fits"] else 1


def compile_run(config, topology, vocab_size: int | None, domains: int) -> tuple[dict, str | None]:
    """Compiles a run's step with its largest batch. Returns (report, HLO text); no text if the step does not fit.

    config: the run's RunConfig.
    topology: the TPU slices.
    vocab_size: number of ids; None to take the number from gin or VOCABULARY.
    domains: number of domains whose losses are reported.
    """
    from castor.train.compiler import aot
    from castor.train.partitioning import Partitioner

    partitioner = Partitioner.create(config.mesh, aot.devices(topology))
    train_step, length = abstract_runs.train_step(config, partitioner, vocab_size, domains)
    rows = abstract_runs.largest_batch(config)
    try:
        compiled = aot.compile_step(train_step, rows, length)
    except aot.DoesNotFit as error:
        return aot.refusal(train_step, topology, rows, length, error), None
    return aot.report(train_step, topology, rows, length, compiled), compiled.text
