"""`castor tasks ACTION`: lists, shows, verifies, previews, exports and traces task caches."""

import argparse
import json
import os
import sys

from castor.launch import terminal
from castor.launch.commands import lineage

ACTIONS = ("list", "show", "verify", "preview", "lineage", "export")
DEFAULT_DIRECTORY = "."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the action, its paths and its options."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = (
        "List, show, verify, preview and export task caches, and trace training steps to documents.\n\n"
        "  list DIR       the caches under a directory, including unfinished ones: records, tokens, vocabulary\n"
        "  show CACHE     all facts about one cache: splits, lengths, features, vocabulary, document funnel\n"
        "  verify PATH    check every byte against the manifest and name each corrupt, truncated, missing or stale\n"
        "                 file; exit code 1 if there are any\n"
        "  preview CACHE  decode records to text, pictures, spectrograms, sound and frames in one HTML page\n"
        "  lineage        the documents and token ranges in the batch of a step (--step), or the steps that train\n"
        "                 on a document (--document), for a run or for one cache\n"
        "  export CACHE   write the records as ArrayRecord (Grain, TFDS) or Parquet (pandas, DuckDB, Hugging Face\n"
        "                 datasets)"
    )
    parser.add_argument("action", metavar="ACTION", help=f"one of {', '.join(ACTIONS)}")
    parser.add_argument("paths", metavar="PATH", nargs="*", help="a cache, or a directory of caches (list, verify)")
    parser.add_argument(
        "--split", help="split to preview or trace (default: train) or to export (default: every split)"
    )
    parser.add_argument("--quick", action="store_true", help="verify: check only names and sizes, not contents")
    preview = parser.add_argument_group("preview")
    preview.add_argument(
        "--output", metavar="FILE", help="page to write (default: preview.html); for export, the output directory"
    )
    preview.add_argument(
        "--count",
        metavar="N",
        type=int,
        default=8,
        help="number of records to show, spread over the split (default: 8)",
    )
    preview.add_argument("--record", metavar="I", type=int, action="append", help="show this record; can be repeated")
    preview.add_argument(
        "--vocabulary", metavar="DIR", help="vocabulary directory (default: the one recorded in the cache)"
    )
    lineage.add_arguments(parser)
    export = parser.add_argument_group(
        "export",
        "CACHE --to=FORMAT --output=DIR writes one file per shard, with records in the cache's order. manifest.json,\n"
        "with counts and SHA-256, is written last, and DIR shows nothing before the export is complete. An\n"
        "interrupted export resumes; a repeated one keeps every file that is still correct.\n"
        "arrayrecord: the tf.train.Example bytes of each record, for random access. Install castor[arrayrecord].\n"
        "  Read with\n"
        "  grain.sources.ArrayRecordDataSource(sorted(glob.glob('DIR/train-*.arrayrecord')))\n"
        "parquet: columns id, source and one per feature. Read with\n"
        "  pandas.read_parquet('DIR/train-00000-of-00008.parquet'),\n"
        "  duckdb.sql(\"from 'DIR/train-*.parquet'\") or\n"
        "  datasets.load_dataset('DIR'), which fails on a split without records (see --split)",
    )
    export.add_argument("--to", metavar="FORMAT", help="output format: arrayrecord or parquet")


def run(arguments: argparse.Namespace, flags) -> int:
    """Runs the action. Returns 0, or 1 if verify found problems or lineage did not find the document."""
    import difflib

    from castor.tasks.errors import ConfigurationError

    actions = {
        "list": _list,
        "show": _show,
        "verify": _verify,
        "preview": _preview,
        "lineage": lineage.run,
        "export": _export,
    }
    if arguments.action not in actions:
        close = difflib.get_close_matches(arguments.action, ACTIONS, n=1)
        raise ConfigurationError(
            f"unknown action {arguments.action!r} of castor tasks.",
            f"Did you mean {close[0]}?" if close else f"The actions are {', '.join(ACTIONS)}.",
        )
    if arguments.action != "export":
        arguments.split = arguments.split or "train"
    return actions[arguments.action](arguments, flags)


# ----------------------------------------------------------------------------------------------------------- list, show


def _list(arguments, flags) -> int:
    from castor.tasks.batches import catalog
    from castor.tasks.errors import CacheError

    table = terminal.table("name", "modality", ">records", ">tokens", ">MB", "splits", "vocabulary", "state")
    for directory in arguments.paths or [DEFAULT_DIRECTORY]:
        if not os.path.isdir(directory):
            raise CacheError(
                f"directory {directory} does not exist.",
                "Give the directory of the task caches, e.g. out/tasks.",
            )
        found = catalog.find_caches(directory)
        if not found:
            raise CacheError(f"there is no task cache under {directory}.", "Create one with castor data tokenize.")
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
    terminal.console().print(table)
    return 0


def _show(arguments, flags) -> int:
    import numpy as np

    from castor.tasks.cache.manifest import load_manifest
    from castor.tasks.cache.reader import CacheReader

    console = terminal.console()
    for directory in _paths(arguments, "castor tasks show out/tasks/web"):
        manifest = load_manifest(directory)
        console.print(f"{manifest.name}: {manifest.modality} task at {directory}", style="bold")
        facts = terminal.table("fact", "value")
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
        splits = terminal.table("split", ">shards", ">records", ">tokens", ">MB", ">shortest", ">median", ">longest")
        for split in manifest.splits:
            lengths = (
                CacheReader(directory, split).lengths("targets") if "targets" in manifest.features else np.zeros(0)
            )
            spread = [f"{int(v):,}" for v in np.quantile(lengths, [0, 0.5, 1])] if len(lengths) else ["", "", ""]
            size = sum(shard["bytes"] for shard in manifest.shards(split)) / 1e6
            tokens = manifest.tokens(split) if "targets" in manifest.features else 0
            splits.add_row(
                split,
                str(len(manifest.shards(split))),
                f"{manifest.records(split):,}",
                f"{tokens:,}",
                f"{size:.1f}",
                *spread,
            )
        console.print(splits)
        if manifest.data.get("funnel"):
            funnel = terminal.table("documents", ">count")
            for name, count in _flat(manifest.data["funnel"]):
                funnel.add_row(name, f"{count:,}" if isinstance(count, int) else str(count))
            console.print(funnel)
    return 0


def _flat(value, prefix: str = "") -> list[tuple[str, object]]:
    """Flattens a nested table to (path, leaf) rows."""
    if isinstance(value, dict):
        return [row for key, inner in value.items() for row in _flat(inner, f"{prefix} {key}".strip())]
    return [(prefix, value)]


# --------------------------------------------------------------------------------------------------------------- verify


def _verify(arguments, flags) -> int:
    from castor.tasks.batches import catalog
    from castor.tasks.cache.verify import verify
    from castor.tasks.storage import storage

    console, bad = terminal.console(), 0
    for path in _paths(arguments, "castor tasks verify out/tasks"):
        directories = [item.directory for item in catalog.find_caches(path)] or [path]
        for directory in directories:
            problems = verify(directory, deep=not arguments.quick)
            for problem in problems:
                console.print(
                    f"{storage.join(directory, problem.file)}: {problem.kind}: {problem.message}",
                    style="red",
                    soft_wrap=True,
                )
            bad += bool(problems)
            console.print(
                f"{directory}: {'sound' if not problems else f'{len(problems)} problems'}",
                style="green" if not problems else "bold red",
            )
    return 1 if bad else 0


# -------------------------------------------------------------------------------------------------------------- preview


def _preview(arguments, flags) -> int:
    from castor.tasks.batches.catalog import find_vocabulary
    from castor.tasks.cache.reader import CacheReader
    from castor.tasks.errors import ConfigurationError, VocabularyError
    from castor.tasks.integrations import preview
    from castor.tasks.storage import storage
    from castor.tasks.vocabulary.vocabulary import Vocabulary

    (directory,) = _paths(arguments, "castor tasks preview out/tasks/image --output=preview.html", most=1)
    reader = CacheReader(directory, arguments.split)
    records = arguments.record if arguments.record is not None else preview.choose(len(reader), max(0, arguments.count))
    for record in records:
        if not 0 <= record < len(reader):
            raise ConfigurationError(
                f"{directory} has no record {record} in split {arguments.split}.",
                f"It has records 0 to {len(reader) - 1}.",
            )
    vocabulary = None
    try:
        vocabulary = Vocabulary.load(arguments.vocabulary or find_vocabulary(reader.manifest))
    except VocabularyError as error:
        if arguments.vocabulary:
            raise
        print(
            f"castor: {error} The page shows ids; to decode them, give --vocabulary=DIR.",
            file=sys.stderr,
        )
    if vocabulary is not None and vocabulary.fingerprint != reader.manifest.vocabulary.get("fingerprint"):
        raise VocabularyError(
            f"{arguments.vocabulary} is not the vocabulary of cache {directory}.",
            "Give the one with which the cache was tokenized.",
        )
    page = preview.render(reader, records, vocabulary)
    output = arguments.output or "preview.html"
    storage.write_bytes_atomic(output, page.encode("utf-8", "replace"))
    print(f"{output}: {len(records)} records of {directory}, split {arguments.split}")
    return 0


# --------------------------------------------------------------------------------------------------------------- export


def _export(arguments, flags) -> int:
    import rich.console
    import rich.progress

    from castor.tasks.cache.manifest import load_manifest
    from castor.tasks.errors import ConfigurationError
    from castor.tasks.integrations.export import FORMATS, export

    example = "castor tasks export out/tasks/web --to=parquet --output=out/parquet/web"
    (directory,) = _paths(arguments, example, most=1)
    for name, remedy in (("to", f"The formats are {', '.join(FORMATS)}."), ("output", "Give the directory to write.")):
        if not getattr(arguments, name):
            raise ConfigurationError(f"castor tasks export needs --{name}. {remedy}", f"For example: {example}")
    manifest = load_manifest(directory)
    splits = (arguments.split,) if arguments.split else manifest.splits
    columns = (
        *rich.progress.Progress.get_default_columns(),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TimeElapsedColumn(),
    )
    console = rich.console.Console(stderr=True)
    with rich.progress.Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        bar = progress.add_task(
            f"{manifest.name} to {arguments.to}", total=sum(manifest.records(split) for split in splits)
        )
        done = export(
            directory, arguments.output, arguments.to, splits, advance=lambda records: progress.advance(bar, records)
        )
    facts = [done.manifest["splits"][split] for split in splits]
    size = sum(file["bytes"] for split in facts for file in split["files"]) / 1e6
    print(
        f"{arguments.output}: {sum(split['records'] for split in facts):,} records of {directory} as {arguments.to}, "
        f"{done.written + done.kept} files of {size:.1f} MB, {done.written} written and {done.kept} kept"
    )
    return 0


# ------------------------------------------------------------------------------------------------------------ arguments


def _paths(arguments, example: str, most: int | None = None) -> list[str]:
    from castor.tasks.errors import ConfigurationError

    if not arguments.paths or (most is not None and len(arguments.paths) > most):
        raise ConfigurationError(
            f"castor tasks {arguments.action} takes {'one path' if most == 1 else 'a path'}.",
            f"For example: {example}",
        )
    return arguments.paths
