"""`castor train --plan`: plans a training run from a compute budget, with published scaling laws."""

import argparse

from castor.launch import abstract_runs, terminal
from castor.tasks.configuration import Flags
from castor.tasks.errors import CacheError, ConfigurationError

MFU = 0.5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "planning",
        "--plan trains nothing. The budget is --flops, or --topology and --days at --mfu, or else the cost of\n"
        "TRAIN_STEPS. The plan shows the compute-optimal size and tokens by four published laws; the tokens, steps\n"
        "and days of MODEL with that budget and at its own optimum; and the epochs of each component of the mixture,\n"
        "computed from the manifests of its caches and all stages of its weights.\n"
        "  castor train --plan --gin_file=runs/ultra.gin --topology=v5p:16x16x16 --num_slices=2 --days=100\n"
        "  castor train --plan --gin_file=runs/nano2.gin --gin_file=mixtures/five.gin \\\n"
        "    --gin.TASKS_DIR='\"tasks\"' --flops=1e22",
    )
    group.add_argument("--plan", action="store_true", help="plan instead of training")
    group.add_argument("--flops", metavar="C", help="budget in FLOPs, e.g. 1e24")
    group.add_argument("--days", metavar="D", help="budget in days on the chips of --topology")
    group.add_argument(
        "--mfu",
        type=float,
        default=MFU,
        metavar="SHARE",
        help="model FLOPs utilization, as a share of the chips' peak (default %(default)s)",
    )


def run(arguments: argparse.Namespace, flags: Flags) -> int:
    import dataclasses

    from castor.tasks.mixing.schedule import BatchSizes
    from castor.train.compiler import plan
    from castor.train.model.decoder import count_parameters

    config = abstract_runs.configure(flags)
    mixture, missing = _mixture(config)
    manifests = mixture.manifests() if mixture else {}
    model = config.model
    if not model.vocab_size:
        size = arguments.vocab_size or max((manifest.vocabulary["size"] for manifest in manifests.values()), default=0)
        if not size:
            raise ConfigurationError(
                "Transformer.vocab_size = 0 means that of the task caches, but none are configured.",
                "Give --vocab_size=N.",
            )
        model = dataclasses.replace(model, vocab_size=size)
    sizes, length = BatchSizes.of(config.batch_size), config.lengths["targets"]
    parameters = count_parameters(model)
    per_token = plan.flops_per_token(parameters, model.layers, model.heads, model.head_dim, length)
    own_tokens = sizes.position(config.train_steps) * length
    cluster = _cluster(arguments)
    budget, origin = _budget(arguments, cluster, own_tokens * per_token, config.train_steps)

    console = terminal.console()
    console.print(f"Budget: {budget:.3g} FLOPs, {origin}.")
    console.print(_laws(budget))
    trainings = {"with the budget": budget / per_token, f"for TRAIN_STEPS = {config.train_steps:,}": own_tokens}
    trainings |= {f"optimal by {law.name}": law.of_parameters(parameters).tokens for law in plan.LAWS}
    console.print(
        f"MODEL has {_billions(parameters)} parameters and takes {per_token:.3g} FLOPs per token, "
        f"including attention over {length:,} tokens."
    )
    console.print(_trainings(trainings, parameters, per_token, sizes, length, cluster, arguments.mfu))
    if mixture is None:
        console.print(f"Epochs of the mixture are unknown: {missing}")
        return 0
    steps = plan.steps_for(budget / per_token, sizes, length)
    held = {name: manifest.tokens("train") for name, manifest in manifests.items()}
    rows = plan.component_epochs(mixture.weights(manifests), held, sizes, length, steps)
    _show_epochs(console, rows, steps)
    return 0


def _mixture(config):
    """(The run's mixture, "") or (None, the reason why there is none)."""
    from castor import tasks

    if not abstract_runs.has_mixture(config):
        return (
            None,
            "MIXTURE_OR_TASK_NAME is not bound; bind it, e.g. with --gin_file=mixtures/five.gin, and bind TASKS_DIR.",
        )
    try:
        return tasks.resolve_mixture(config.mixture, config.tasks_dir), ""
    except CacheError as error:
        return None, " ".join(str(error).split())


def _cluster(arguments: argparse.Namespace):
    """The chips of --topology, or None."""
    from castor.train.compiler.plan import Cluster

    if not arguments.topology:
        return None
    from castor.train.compiler.chips import Topology

    topology = Topology.of(arguments.topology, arguments.num_slices)
    return Cluster(topology.size, topology.chip.peak, arguments.mfu)


def _budget(arguments: argparse.Namespace, cluster, own: float, steps: int) -> tuple[float, str]:
    """(Budget in FLOPs, the source of that number)."""
    from castor.train.compiler.plan import count

    if arguments.flops and arguments.days:
        raise ConfigurationError(
            "--flops and --days both set the budget.",
            "Give one of them; with --flops, --topology shows the days needed.",
        )
    if arguments.days:
        if cluster is None:
            raise ConfigurationError("--days needs --topology.", "Give the chips, e.g. --topology=v5p:8x8x8.")
        days = count(arguments.days, "--days")
        origin = f"{cluster.chips:,} chips of {arguments.topology} for {days:g} days at an MFU of {cluster.mfu:g}"
        return cluster.flops(days), origin
    if arguments.flops:
        return count(arguments.flops, "--flops"), "from --flops"
    return own, f"the cost of TRAIN_STEPS = {steps:,} (to change it, give --flops, or --topology and --days)"


def _laws(budget: float):
    from castor.train.compiler import plan

    table = terminal.table("compute-optimal by", ">parameters", ">tokens", ">tokens per parameter", ">loss")
    for law in plan.LAWS:
        best = law.optimum(budget)
        loss = f"{law.loss(best.parameters, best.tokens):.3f}" if isinstance(law, plan.ParametricLaw) else ""
        table.add_row(
            law.name, _billions(best.parameters), _billions(best.tokens), f"{best.tokens / best.parameters:.1f}", loss
        )
    return table


def _trainings(trainings, parameters: int, per_token: float, sizes, length: int, cluster, mfu: float):
    from castor.train.compiler import plan
    from castor.train.compiler.chips import CHIPS

    alone = {f">{name} chip-days at MFU {mfu:g}": plan.Cluster(1, CHIPS[name].peak, mfu) for name in ("v5e", "v5p")}
    days = {f">days on {cluster.chips:,} chips": cluster} if cluster else alone
    table = terminal.table(
        "MODEL trained", ">tokens", ">tokens per parameter", ">steps", ">FLOPs", *days, ">loss (Besiroglu et al.)"
    )
    for name, tokens in trainings.items():
        flops, steps = tokens * per_token, plan.steps_for(tokens, sizes, length) if tokens else 0
        loss = f"{plan.BESIROGLU.loss(parameters, tokens):.3f}" if tokens else ""
        times = [f"{of.days(flops):,.1f}" for of in days.values()]
        table.add_row(name, _billions(tokens), f"{tokens / parameters:.1f}", f"{steps:,}", f"{flops:.3g}", *times, loss)
    return table


def _show_epochs(console, rows, steps: int) -> None:
    from castor.train.compiler.plan import FRESH_EPOCHS

    table = terminal.table(
        f"component, over {steps:,} steps", ">tokens", ">share of rows", ">tokens trained on", ">epochs"
    )
    for row in rows:
        table.add_row(
            row.name, _billions(row.cache_tokens), f"{row.share:.1%}", _billions(row.run_tokens), f"{row.epochs:,.3g}"
        )
    console.print(table)
    repeated = [row.name for row in rows if row.epochs > FRESH_EPOCHS]
    if repeated:
        console.print(
            f"{', '.join(repeated)}: more than {FRESH_EPOCHS} epochs, beyond which repeated tokens lose value "
            "(arXiv 2305.16264)."
        )


def _billions(number: float) -> str:
    """Formats a number with three digits and a unit: 3.23 billion."""
    for size, unit in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million")):
        if number >= size:
            return f"{number / size:.3g} {unit}" if number < 1000 * size else f"{number / size:,.0f} {unit}"
    return f"{number:,.0f}"
