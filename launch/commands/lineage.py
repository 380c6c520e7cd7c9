"""`castor tasks lineage`: traces a training step to its documents, and a document to the steps that train on it."""

import argparse
import dataclasses
import json
import sys

from castor.launch import terminal, training_runs

_MACROS = {
    "mixture": "MIXTURE_OR_TASK_NAME",
    "tasks_dir": "TASKS_DIR",
    "batch_size": "BATCH_SIZE",
    "lengths": "TASK_FEATURE_LENGTHS",
    "seed": "RANDOM_SEED",
    "packing": "PACKING",
    "steps": "TRAIN_STEPS",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of lineage."""
    group = parser.add_argument_group(
        "lineage",
        "for a run: --model_dir, or the gin files and bindings of castor train; "
        "for one cache: PATH, --batch_size and --length",
    )
    group.add_argument(
        "--model_dir",
        metavar="DIR",
        help="MODEL_DIR of a run; mixture, lengths, batch size and seed are those of its latest start",
    )
    group.add_argument(
        "--tasks_dir", metavar="DIR", help="folder in which task names are looked up (default: the macro TASKS_DIR)"
    )
    group.add_argument("--step", metavar="S", type=int, help="the training step, from 0")
    group.add_argument("--row", metavar="R", type=int, help="show only this row of the global batch")
    group.add_argument(
        "--document", metavar="ID", help="instead of --step: show the steps, rows and epochs that contain this document"
    )
    group.add_argument(
        "--steps",
        metavar="N",
        type=int,
        help="search N steps of the run (default: TRAIN_STEPS, or the first epoch)",
    )
    group.add_argument(
        "--batch_size", metavar="B", type=int, help="rows of the global batch (default: the macro BATCH_SIZE)"
    )
    group.add_argument("--length", metavar="L", type=int, help="tokens per row (default: TASK_FEATURE_LENGTHS)")
    group.add_argument("--seed", metavar="N", type=int, help="seed of the data order (default: RANDOM_SEED, or 0)")
    group.add_argument(
        "--packing",
        metavar="METHOD",
        help="packing method: best_fit, first_fit or concat_and_split (default: PACKING, or best_fit)",
    )
    group.add_argument("--json", action="store_true", help="print one JSON object per span instead of a table")


def run(arguments: argparse.Namespace, flags) -> int:
    """Prints the spans of a batch, or the occurrences of a document. Returns 1 if no cache has the document."""
    from castor.tasks.errors import ConfigurationError

    if (arguments.step is None) == (arguments.document is None):
        raise ConfigurationError(
            "castor tasks lineage needs a step or a document.",
            "Give --step=S or --document=ID.",
        )
    batches, steps = _batches(arguments, flags)
    if arguments.document is not None:
        return _document_lineage(arguments, batches, steps)
    rows = batches.lineage(arguments.step)
    if arguments.row is not None:
        if not 0 <= arguments.row < len(rows):
            raise ConfigurationError(f"the batch has no row {arguments.row}.", f"It has rows 0 to {len(rows) - 1}.")
        rows = [rows[arguments.row]]
    spans = [span for row in rows for span in row]
    if arguments.json:
        for span in spans:
            print(json.dumps(dataclasses.asdict(span)))
        return 0
    table = terminal.table(
        ">row", ">segment", "in the row", "domain", ">epoch", "document", ">record", "tokens", "source"
    )
    for s in spans:
        place, tokens = f"{s.row_start}-{s.row_stop}", f"{s.start}-{s.stop}"
        table.add_row(
            str(s.row), str(s.segment), place, s.domain, str(s.epoch), s.document, str(s.record), tokens, s.source
        )
    console = terminal.console()
    console.print(table)
    console.print(
        f"step {arguments.step}: {len(rows)} rows of {batches.length} tokens, {len(spans)} spans; "
        f"batches {batches.fingerprint}"
    )
    return 0


def _document_lineage(arguments, batches, steps: int | None) -> int:
    """Prints the spans of a document in the run. Returns 1 if no cache of the mixture has the document."""
    held = {c.name: c.reader.find(arguments.document) for c in batches.components}
    held = {name: record for name, record in held.items() if record is not None}
    if not held:
        print(
            f"castor: no cache of the mixture has document {arguments.document} in split {batches.split}.",
            file=sys.stderr,
        )
        return 1
    found = list(batches.occurrences(arguments.document, steps))
    if arguments.json:
        for occurrence in found:
            print(json.dumps({"step": occurrence.step, **dataclasses.asdict(occurrence.span)}))
        return 0
    table = terminal.table(">step", ">row", ">segment", "in the row", "domain", ">epoch", ">record", "tokens")
    for o in found:
        s = o.span
        place, tokens = f"{s.row_start}-{s.row_stop}", f"{s.start}-{s.stop}"
        table.add_row(str(o.step), str(s.row), str(s.segment), place, s.domain, str(s.epoch), str(s.record), tokens)
    console = terminal.console()
    console.print(table)
    where = ", ".join(f"record {record} of {name}" for name, record in held.items())
    searched = "the first epoch" if steps is None else f"{steps:,} steps"
    left_out = (
        "; the document is on the list of documents to skip"
        if arguments.document in batches.mixture.skip_documents
        else ""
    )
    console.print(
        f"document {arguments.document} ({where}): {len(found)} spans in {searched}{left_out}; "
        f"batches {batches.fingerprint}"
    )
    return 0


def _batches(arguments, flags):
    """(Batches, number of steps or None) of a run or of one cache. Options of the command line take precedence."""
    import gin
    from castor.tasks import configuration
    from castor.tasks.batches.batches import Batches
    from castor.tasks.batches.catalog import resolve_mixture
    from castor.tasks.errors import ConfigurationError

    if len(arguments.paths) > 1:
        raise ConfigurationError(
            "castor tasks lineage takes one path.", "For instance: castor tasks lineage out/tasks/web --step=0"
        )
    described = {}
    if arguments.model_dir:
        flags = dataclasses.replace(
            flags, files=(training_runs.latest_configuration(arguments.model_dir), *flags.files)
        )
    if flags.files or flags.bindings:
        configuration.parse(flags, skip_unknown=True)
        for name, macro in _MACROS.items():
            value = configuration.macro(macro)
            if isinstance(value, gin.config.ConfigurableReference):
                value = value.scoped_configurable_fn()
            if value is not None:
                described[name] = value
    given = {
        "mixture": arguments.paths[0] if arguments.paths else None,
        "batch_size": arguments.batch_size,
        "lengths": {"targets": arguments.length} if arguments.length is not None else None,
        "seed": arguments.seed,
        "tasks_dir": arguments.tasks_dir,
        "packing": arguments.packing,
        "steps": arguments.steps,
    }
    described |= {name: value for name, value in given.items() if value is not None}
    for name, remedy in (
        ("mixture", "Give --model_dir=DIR, the run's gin files, or the PATH of a cache."),
        ("batch_size", "Give --model_dir=DIR, the run's gin files, or --batch_size=B."),
        ("lengths", "Give --model_dir=DIR, the run's gin files, or --length=L."),
    ):
        if name not in described:
            raise ConfigurationError(f"lineage needs {_MACROS[name]}, on which the batches of a run depend.", remedy)
    mixture = resolve_mixture(described["mixture"], described.get("tasks_dir"))
    mixture = dataclasses.replace(
        mixture, components=dict(sorted(mixture.components.items()))
    )  # the order that training uses
    batches = Batches(
        mixture,
        described["batch_size"],
        described["lengths"],
        described.get("seed", 0),
        split=arguments.split,
        packing=described.get("packing", "best_fit"),
        progress=terminal.Progress("counting packed rows"),
    )
    return batches, described.get("steps")
