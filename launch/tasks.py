"""`castor tasks ACTION`: look at task caches, check them, export them, and trace training steps to documents and documents to steps."""

import argparse
import dataclasses
import json
import os
import sys

ACTIONS = ("list", "show", "verify", "preview", "lineage", "export")
DEFAULT_DIRECTORY = "."

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
    """Adds the action, what it acts on, and its options."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = (
        "Look at task caches, check them, export them, and trace training steps to documents and documents to steps.\n\n"
        "  list DIR       the caches under a directory, half-written ones included: records, tokens, vocabulary\n"
        "  show CACHE     one cache in full: splits, lengths, features, vocabulary, the funnel of its documents\n"
        "  verify PATH    every byte against the manifest; names each flipped, cut, missing or stale file; exit code 1 if there is any\n"
        "  preview CACHE  records decoded back to text, pictures, spectrograms, sound and frames, in one HTML page\n"
        "  lineage        which documents, and which of their tokens, are in the batch of a step (--step), or at which steps a document\n"
        "                 comes (--document): of a run, or of a cache\n"
        "  export CACHE   its records as ArrayRecord (Grain, TFDS) or Parquet (pandas, DuckDB, Hugging Face datasets), for other trainers"
    )
    parser.add_argument("action", metavar="ACTION", help=f"one of {', '.join(ACTIONS)}")
    parser.add_argument("paths", metavar="PATH", nargs="*", help="a cache, or a directory of caches (list, verify)")
    parser.add_argument("--split", help="split to preview or trace (default: train), or to export (default: every split)")
    parser.add_argument("--quick", action="store_true", help="verify: names and sizes only, read no content")
    preview = parser.add_argument_group("preview")
    preview.add_argument("--output", metavar="FILE", help="the page to write (default: preview.html); of export, its directory")
    preview.add_argument("--count", metavar="N", type=int, default=8, help="records to show, spread over the split (default: 8)")
    preview.add_argument("--record", metavar="I", type=int, action="append", help="show this record; may be given several times")
    preview.add_argument("--vocabulary", metavar="DIR", help="the vocabulary directory, if it is not where the cache says")
    lineage = parser.add_argument_group(
        "lineage",
        "of a run: its --model_dir, or its gin files and bindings as to castor train; of one cache: PATH, --batch_size and --length",
    )
    lineage.add_argument(
        "--model_dir", metavar="DIR", help="a run's folder: takes mixture, lengths, batch size and seed from its latest start"
    )
    lineage.add_argument("--tasks_dir", metavar="DIR", help="where task names are looked up (default: the macro TASKS_DIR)")
    lineage.add_argument("--step", metavar="S", type=int, help="the training step, from 0")
    lineage.add_argument("--row", metavar="R", type=int, help="one row of the global batch only")
    lineage.add_argument("--document", metavar="ID", help="instead of --step: the steps, rows and epochs that see this document")
    lineage.add_argument("--steps", metavar="N", type=int, help="how many steps of the run are meant (default: the macro TRAIN_STEPS)")
    lineage.add_argument("--batch_size", metavar="B", type=int, help="rows of the global batch (default: the macro BATCH_SIZE)")
    lineage.add_argument("--length", metavar="L", type=int, help="tokens of a row (default: TASK_FEATURE_LENGTHS)")
    lineage.add_argument("--seed", metavar="N", type=int, help="of the data order (default: RANDOM_SEED, or 0)")
    lineage.add_argument("--packing", metavar="METHOD", help="best_fit, first_fit or concat_and_split (default: PACKING, or best_fit)")
    lineage.add_argument("--json", action="store_true", help="one JSON object a span instead of a table")
    export = parser.add_argument_group(
        "export",
        "CACHE --to=FORMAT --output=DIR: one file a shard, records in the cache's order, and manifest.json with counts and SHA-256 last.\n"
        "Nothing is visible in DIR before all is written; stopped, it goes on where it was; run again, it keeps what is right.\n"
        "arrayrecord: each record's tf.train.Example bytes, for random access; needs pip install 'castor[arrayrecord]'; read with\n"
        "  grain.sources.ArrayRecordDataSource(sorted(glob.glob('DIR/train-*.arrayrecord')))\n"
        "parquet: columns id, source and each feature; read with pandas.read_parquet('DIR/train-00000-of-00008.parquet'),\n"
        "  duckdb.sql(\"from 'DIR/train-*.parquet'\") or datasets.load_dataset('DIR'), which wants no split without records (see --split)",
    )
    export.add_argument("--to", metavar="FORMAT", help="arrayrecord or parquet")


def run(arguments: argparse.Namespace, flags) -> int:
    """Runs the action. Returns 0, or 1 where verify found problems."""
    import difflib

    from tasks.errors import ConfigurationError

    actions = {"list": _list, "show": _show, "verify": _verify, "preview": _preview, "lineage": _lineage, "export": _export}
    if arguments.action not in actions:
        close = difflib.get_close_matches(arguments.action, ACTIONS, n=1)
        raise ConfigurationError(
            f"castor tasks has no action {arguments.action!r}.",
            f"Did you mean {close[0]}?" if close else f"There are {', '.join(ACTIONS)}.",
        )
    if arguments.action != "export":
        arguments.split = arguments.split or "train"
    return actions[arguments.action](arguments, flags)


# ---------------------------------------------------------------------------------------------------------------- list, show


def _list(arguments, flags) -> int:
    from tasks import catalog
    from tasks.errors import CacheError

    table = _table("name", "modality", ">records", ">tokens", ">MB", "splits", "vocabulary", "state")
    for directory in arguments.paths or [DEFAULT_DIRECTORY]:
        if not os.path.isdir(directory):
            raise CacheError(f"there is no directory {directory}.", "Name the directory that holds the task caches, such as out/tasks.")
        found = catalog.find_caches(directory)
        if not found:
            raise CacheError(f"there is no task cache under {directory}.", "Make one with castor data tokenize.")
        for item in found:
            if item.manifest is None:
                table.add_row(item.name, "", "", "", "", "", "", item.problem, style="red")
                continue
            m = item.manifest
            size = sum(shard["bytes"] for split in m.splits for shard in m.shards(split))
            table.add_row(
                item.name,
                m.modality,
                f"{sum(m.records(s) for s in m.splits):,}",
                f"{sum(m.tokens(s) for s in m.splits if 'targets' in m.features):,}",
                f"{size / 1e6:.1f}",
                ", ".join(f"{s} {m.records(s):,}" for s in m.splits),
                str(m.vocabulary.get("fingerprint", ""))[:12],
                "ready",
            )
    _console().print(table)
    return 0


def _show(arguments, flags) -> int:
    import numpy as np

    from tasks.cache import load_manifest
    from tasks.cache_reader import CacheReader

    console = _console()
    for directory in _paths(arguments, "castor tasks show out/tasks/web"):
        manifest = load_manifest(directory)
        console.print(f"{manifest.name}: {manifest.modality} task at {directory}", style="bold")
        facts = _table("fact", "value")
        facts.add_row("fingerprint", manifest.fingerprint)
        facts.add_row("code fingerprint", str(manifest.data.get("code_fingerprint", "")))
        facts.add_row("content fingerprint", manifest.content_fingerprint)
        facts.add_row("shuffled with seed", str(manifest.seed))
        for key, value in sorted(manifest.vocabulary.items()):
            facts.add_row(f"vocabulary {key}", str(value))
        for name, spec in sorted(manifest.features.items()):
            facts.add_row(f"feature {name}", f"{spec['dtype']}, rank {spec['rank']}")
        for key, value in sorted(manifest.data.get("inputs", {}).items()):
            facts.add_row(f"input {key}", json.dumps(value) if not isinstance(value, str) else value)
        console.print(facts)
        splits = _table("split", ">shards", ">records", ">tokens", ">MB", ">shortest", ">median", ">longest")
        for split in manifest.splits:
            lengths = CacheReader(directory, split).lengths("targets") if "targets" in manifest.features else np.zeros(0)
            spread = [f"{int(v):,}" for v in np.quantile(lengths, [0, 0.5, 1])] if len(lengths) else ["", "", ""]
            size = sum(shard["bytes"] for shard in manifest.shards(split)) / 1e6
            tokens = manifest.tokens(split) if "targets" in manifest.features else 0
            splits.add_row(split, str(len(manifest.shards(split))), f"{manifest.records(split):,}", f"{tokens:,}", f"{size:.1f}", *spread)
        console.print(splits)
        if manifest.data.get("funnel"):
            funnel = _table("documents", ">count")
            for name, count in _flat(manifest.data["funnel"]):
                funnel.add_row(name, f"{count:,}" if isinstance(count, int) else str(count))
            console.print(funnel)
    return 0


def _flat(value, prefix: str = "") -> list[tuple[str, object]]:
    """A nested table as (path, leaf) rows."""
    if isinstance(value, dict):
        return [row for key, inner in value.items() for row in _flat(inner, f"{prefix} {key}".strip())]
    return [(prefix, value)]


# ---------------------------------------------------------------------------------------------------------------- verify


def _verify(arguments, flags) -> int:
    from tasks import catalog, storage
    from tasks.verify import verify

    console, bad = _console(), 0
    for path in _paths(arguments, "castor tasks verify out/tasks"):
        directories = [item.directory for item in catalog.find_caches(path)] or [path]
        for directory in directories:
            problems = verify(directory, deep=not arguments.quick)
            for problem in problems:
                console.print(f"{storage.join(directory, problem.file)}: {problem.kind}: {problem.message}", style="red", soft_wrap=True)
            bad += bool(problems)
            console.print(
                f"{directory}: {'sound' if not problems else f'{len(problems)} problems'}", style="green" if not problems else "bold red"
            )
    return 1 if bad else 0


# ---------------------------------------------------------------------------------------------------------------- preview


def _preview(arguments, flags) -> int:
    from tasks import preview, storage
    from tasks.cache_reader import CacheReader
    from tasks.catalog import find_vocabulary
    from tasks.errors import ConfigurationError, VocabularyError
    from tasks.vocabulary import Vocabulary

    (directory,) = _paths(arguments, "castor tasks preview out/tasks/image --output=preview.html", most=1)
    reader = CacheReader(directory, arguments.split)
    records = arguments.record if arguments.record is not None else preview.choose(len(reader), max(0, arguments.count))
    for record in records:
        if not 0 <= record < len(reader):
            raise ConfigurationError(
                f"{directory} has no record {record} in split {arguments.split}.", f"It has records 0 to {len(reader) - 1}."
            )
    vocabulary = None
    try:
        vocabulary = Vocabulary.load(arguments.vocabulary or find_vocabulary(reader.manifest))
    except VocabularyError as error:
        if arguments.vocabulary:
            raise
        print(f"castor: {error} The page shows ids; name the directory with --vocabulary=DIR to decode them.", file=sys.stderr)
    if vocabulary is not None and vocabulary.fingerprint != reader.manifest.vocabulary.get("fingerprint"):
        raise VocabularyError(f"{arguments.vocabulary} is not the vocabulary of cache {directory}.", "Name the one it was tokenized with.")
    page = preview.render(reader, records, vocabulary)
    output = arguments.output or "preview.html"
    storage.write_bytes_atomic(output, page.encode("utf-8", "replace"))
    print(f"{output}: {len(records)} records of {directory}, split {arguments.split}")
    return 0


# ---------------------------------------------------------------------------------------------------------------- lineage


def _lineage(arguments, flags) -> int:
    from tasks.errors import ConfigurationError

    if (arguments.step is None) == (arguments.document is None):
        raise ConfigurationError(
            "castor tasks lineage needs a step or a document.", "Say which batch with --step=S, or which document with --document=ID."
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
    table = _table(">row", ">segment", "in the row", "domain", ">epoch", "document", ">record", "tokens", "source")
    for s in spans:
        place, tokens = f"{s.row_start}-{s.row_stop}", f"{s.start}-{s.stop}"
        table.add_row(str(s.row), str(s.segment), place, s.domain, str(s.epoch), s.document, str(s.record), tokens, s.source)
    console = _console()
    console.print(table)
    console.print(f"step {arguments.step}: {len(rows)} rows of {batches.length} tokens, {len(spans)} spans; batches {batches.fingerprint}")
    return 0


def _document_lineage(arguments, batches, steps: int | None) -> int:
    """Prints where a document comes. Returns 1 if no cache has it."""
    from tasks.errors import ConfigurationError

    if steps is None:
        raise ConfigurationError("lineage of a document needs the number of steps to look at.", "Bind TRAIN_STEPS, or give --steps=N.")
    held = {c.name: c.reader.find(arguments.document) for c in batches.components}
    held = {name: record for name, record in held.items() if record is not None}
    if not held:
        print(f"castor: no cache of the mixture has document {arguments.document} in split {batches.split}.", file=sys.stderr)
        return 1
    found = list(batches.occurrences(arguments.document, steps))
    if arguments.json:
        for occurrence in found:
            print(json.dumps({"step": occurrence.step, **dataclasses.asdict(occurrence.span)}))
        return 0
    table = _table(">step", ">row", ">segment", "in the row", "domain", ">epoch", ">record", "tokens")
    for o in found:
        s = o.span
        place, tokens = f"{s.row_start}-{s.row_stop}", f"{s.start}-{s.stop}"
        table.add_row(str(o.step), str(s.row), str(s.segment), place, s.domain, str(s.epoch), str(s.record), tokens)
    console = _console()
    console.print(table)
    where = ", ".join(f"record {record} of {name}" for name, record in held.items())
    left_out = "; it is on the list of documents to skip" if arguments.document in batches.mixture.skip_documents else ""
    console.print(
        f"document {arguments.document} ({where}): {len(found)} spans in {steps:,} steps{left_out}; batches {batches.fingerprint}"
    )
    return 0


def _batches(arguments, flags):
    """(Batches, number of steps or None) of a run's gin files, of one cache, or of a cache in a run's settings; what the command line says
    wins."""
    import gin

    from tasks import configuration
    from tasks.batches import Batches
    from tasks.catalog import resolve_mixture
    from tasks.errors import ConfigurationError

    described = {}
    if arguments.model_dir:
        flags = dataclasses.replace(flags, files=(_latest_configuration(arguments.model_dir), *flags.files))
    if flags.files or flags.bindings:
        configuration.parse(flags, skip_unknown=True)
        for name, macro in _MACROS.items():
            value = configuration.macro(macro)
            if isinstance(value, gin.config.ConfigurableReference):
                value = value.scoped_configurable_fn()
            if value is not None:
                described[name] = value
    given = {
        "mixture": _paths(arguments, "castor tasks lineage out/tasks/web --step=0", most=1)[0] if arguments.paths else None,
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
            raise ConfigurationError(f"lineage needs the {_MACROS[name]} of the run: a batch is a function of it.", remedy)
    mixture = resolve_mixture(described["mixture"], described.get("tasks_dir"))
    mixture = dataclasses.replace(mixture, components=dict(sorted(mixture.components.items())))  # as a run has it
    batches = Batches(
        mixture,
        described["batch_size"],
        described["lengths"],
        described.get("seed", 0),
        split=arguments.split,
        packing=described.get("packing", "best_fit"),
        progress=Progress("counting packed rows"),
    )
    return batches, described.get("steps")


def _latest_configuration(model_dir: str) -> str:
    """The operative gin configuration of a run's latest start, as castor train keeps it."""
    from tasks import storage
    from tasks.errors import ConfigurationError

    folder = storage.join(model_dir, "config")
    names = [name for name in storage.list_files(folder) if name.endswith(".gin")]
    if not names:
        raise ConfigurationError(
            f"{model_dir} holds no run: there is no configuration in {folder}.", "Name the MODEL_DIR of a training run."
        )
    return storage.join(folder, names[-1])


# ---------------------------------------------------------------------------------------------------------------- export


def _export(arguments, flags) -> int:
    import rich.console
    import rich.progress

    from tasks.cache import load_manifest
    from tasks.errors import ConfigurationError
    from tasks.export import FORMATS, export

    example = "castor tasks export out/tasks/web --to=parquet --output=out/parquet/web"
    (directory,) = _paths(arguments, example, most=1)
    for name, remedy in (("to", f"There are {', '.join(FORMATS)}."), ("output", "Name the directory to write.")):
        if not getattr(arguments, name):
            raise ConfigurationError(f"castor tasks export needs --{name}. {remedy}", f"For instance: {example}")
    manifest = load_manifest(directory)
    splits = (arguments.split,) if arguments.split else manifest.splits
    columns = (
        *rich.progress.Progress.get_default_columns(),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TimeElapsedColumn(),
    )
    console = rich.console.Console(stderr=True)
    with rich.progress.Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        bar = progress.add_task(f"{manifest.name} to {arguments.to}", total=sum(manifest.records(split) for split in splits))
        done = export(directory, arguments.output, arguments.to, splits, advance=lambda records: progress.advance(bar, records))
    facts = [done.manifest["splits"][split] for split in splits]
    size = sum(file["bytes"] for split in facts for file in split["files"]) / 1e6
    print(
        f"{arguments.output}: {sum(split['records'] for split in facts):,} records of {directory} as {arguments.to}, "
        f"{done.written + done.kept} files of {size:.1f} MB, {done.written} written and {done.kept} kept"
    )
    return 0


# ---------------------------------------------------------------------------------------------------------------- what they share


def _paths(arguments, example: str, most: int | None = None) -> list[str]:
    from tasks.errors import ConfigurationError

    if not arguments.paths or (most is not None and len(arguments.paths) > most):
        raise ConfigurationError(
            f"castor tasks {arguments.action} takes {'one path' if most == 1 else 'a path'}.", f"For instance: {example}"
        )
    return arguments.paths


class Progress:
    """A progress bar on a terminal, called with (done, total); silent elsewhere, and gone when all is done."""

    def __init__(self, what: str):
        self._what, self._bar = what, None

    def __call__(self, done: int, total: int) -> None:
        if self._bar is None:
            import rich.console
            import rich.progress

            self._bar = rich.progress.Progress(console=rich.console.Console(stderr=True), transient=True, disable=not sys.stderr.isatty())
            self._task = self._bar.add_task(self._what, total=total)
            self._bar.start()
        self._bar.update(self._task, completed=done)
        if done == total:
            self._bar.stop()
            self._bar = None


def _console():
    """A console that never cuts a line when its output goes to a file or a pipe, and takes no text for markup."""
    import rich.console

    return rich.console.Console(markup=False, highlight=False, width=None if sys.stdout.isatty() else 240)


def _table(*columns: str):
    """A rich table; a leading > sets a column to the right. No cell is cut: long ones fold."""
    import rich.box
    import rich.table

    table = rich.table.Table(box=rich.box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column.removeprefix(">"), justify="right" if column.startswith(">") else "left", overflow="fold")
    return table
