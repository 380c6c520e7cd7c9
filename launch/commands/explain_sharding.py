"""`castor train --explain_sharding`: shows how every array of the train state is sharded, and its memory per chip.

The devices are those of --topology (no TPU or libtpu needed), of --cpu_devices, or of this machine.
"""

import argparse
import math

from castor.launch import abstract_runs, terminal
from castor.tasks.configuration import Flags

GIB = 2**30


def add_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("before training (these options train nothing and need no device)")
    group.add_argument(
        "--explain_sharding",
        action="store_true",
        help="print every array of the train state: shape, sharding, bytes per chip",
    )
    group.add_argument(
        "--topology",
        metavar="CHIP:SHAPE",
        help="TPU slice, e.g. v5e:16x16 (with --explain_sharding or --plan)",
    )
    group.add_argument("--num_slices", type=int, default=1, metavar="N", help="number of slices (default 1)")
    group.add_argument(
        "--vocab_size", type=int, metavar="N", help="vocabulary size, if gin takes it from the task caches"
    )


def run(arguments: argparse.Namespace, flags: Flags) -> int:
    from castor.train.compiler import sharding_report

    config = abstract_runs.configure(flags)
    partitioner, topology = _partitioner(arguments, config.mesh)
    train_step, length = abstract_runs.train_step(config, partitioner, arguments.vocab_size, domains=1)
    rows = abstract_runs.largest_batch(config)
    show(train_step, sharding_report.state(train_step), sharding_report.activations(train_step, rows, length), topology)
    return 0


def _partitioner(arguments: argparse.Namespace, mesh):
    """(Partitioner of the selected devices, their topology or None)."""
    from castor.train.partitioning import Partitioner

    if arguments.topology:
        from castor.train.compiler.chips import Topology

        topology = Topology.of(arguments.topology, arguments.num_slices)
        return Partitioner.abstract(mesh, topology.size, topology.num_slices), topology
    if arguments.cpu_devices:
        return Partitioner.abstract(mesh, arguments.cpu_devices), None
    return Partitioner.create(mesh), None


def show(train_step, state, activations, topology) -> None:
    """Prints the sharding of the train state and the memory per chip.

    train_step: the run's TrainStep.
    state: rows of `sharding_report.state`.
    activations: rows of `sharding_report.activations`, the largest first.
    topology: the TPU slices; None for the devices of this machine.
    """
    from castor.train.compiler.sharding_report import totals
    from castor.train.model.decoder import count_parameters

    console, mesh = terminal.console(), train_step.partitioner.mesh
    where = (
        f"{topology.name}{f' x {topology.num_slices} slices' if topology.num_slices > 1 else ''}, " if topology else ""
    )
    axes = " x ".join(f"{axis} {size}" for axis, size in mesh.shape.items() if size > 1) or "1 device"
    console.print(f"{count_parameters(train_step.model):,} parameters on {where}{mesh.size:,} device(s): {axes}")
    for kind in ("parameters", "optimizer"):
        _table(console, kind, [row for row in state if row.kind == kind])
    _table(console, "activations (of one microbatch)", activations)

    summed = totals([*state, *activations[:1]])
    summed["gradients"] = summed["parameters"]  # float32 and sharded like the parameters
    table = terminal.table("per chip", ">GiB", ">share of HBM", "")
    notes = {
        "gradients": "like the parameters, during part of the step",
        "activations": f"{activations[0].name} only; others are temporary",
    }
    for kind in ("parameters", "optimizer", "gradients", "activations"):
        table.add_row(kind, f"{summed[kind][1] / GIB:.3f}", _share(summed[kind][1], topology), notes.get(kind, ""))
    total = sum(local for _, local in summed.values())
    table.add_row(
        "total",
        f"{total / GIB:.3f}",
        _share(total, topology),
        f"of {topology.chip.hbm / GIB:.0f} GiB" if topology else "",
    )
    console.print(table)
    whole = [row for row in state if row.whole and row.total > 1 and mesh.size > 1]
    if whole:
        size = sum(row.local for row in whole)
        console.print(
            f"{len(whole)} array(s) of the state are replicated on every device, {size / 2**20:.2f} MiB in total: "
            "no rule shards their axes."
        )
    console.print("For the compiler's own scratch memory and the peak, run castor compile.")


def _table(console, title: str, rows) -> None:
    table = terminal.table(title, "shape", "dtype", "axes", "sharded by", ">MiB", ">MiB per chip", ">copies")
    for row in rows:
        axes, cut = (", ".join(name or "-" for name in names) for names in (row.axes, row.cut))
        shape = " x ".join(map(str, row.shape)) or "scalar"
        table.add_row(row.name, shape, row.dtype, axes, cut, _mib(row.total), _mib(row.local), str(row.copies))
    table.add_section()
    count = sum(math.prod(row.shape) for row in rows)
    table.add_row(
        "sum",
        f"{count:,} numbers",
        "",
        "",
        "",
        _mib(sum(row.total for row in rows)),
        _mib(sum(row.local for row in rows)),
        "",
    )
    console.print(table)


def _mib(size: int) -> str:
    return f"{size / 2**20:,.2f}" if size >= 2**13 else f"{size / 2**20:.5f}"


def _share(size: int, topology) -> str:
    return f"{size / topology.chip.hbm:.1%}" if topology else ""
