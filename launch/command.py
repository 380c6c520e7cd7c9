"""The `castor` command: the table of subcommands, their dispatch, and errors as one line.

A subcommand is a module with `add_arguments(parser)` and `run(arguments, flags) -> int`. The module is imported only
when the subcommand runs, so that `castor --help` is fast. `arguments.rest` holds the options that the parser does not
know (Beam's), and `flags` the gin flags.
"""

import argparse
import dataclasses
import importlib
import os
import sys
import textwrap
import traceback
from collections.abc import Sequence

from castor.launch import exit_codes


@dataclasses.dataclass(frozen=True)
class Subcommand:
    """One row of the table of subcommands.

    name: the word after `castor`.
    module: module with `add_arguments` and `run`.
    summary: one line for `castor --help`.
    gin_files: shipped gin files of the subcommand, listed by its --help.
    examples: three command lines, shown by its --help.
    extra: the extra that installs the libraries of the subcommand.
    takes_rest: whether unknown options are passed on (to Beam).
    """

    name: str
    module: str
    summary: str
    gin_files: tuple[str, ...]
    examples: tuple[str, str, str]
    extra: str
    takes_rest: bool = False


SUBCOMMANDS = (
    Subcommand(
        "demo",
        "castor.launch.commands.demo",
        "run the whole pipeline on a small generated corpus, offline",
        ("recipes/demo.gin",),
        ("castor demo", "castor demo --output=/tmp/castor-demo", "castor demo --gin.TRAIN_STEPS=50"),
        "all",
    ),
    Subcommand(
        "run",
        "castor.launch.commands.run",
        "run a recipe: stages from raw files to a trained model; stages that are up to date are skipped",
        ("recipes/real.gin", "recipes/demo.gin"),
        (
            "castor run gin/recipes/real.gin --gin.CORPORA='\"corpora\"' --gin.OUTPUT='\"out\"'",
            "castor run gin/recipes/real.gin --only=web,vocabulary",
            "castor run gin/recipes/real.gin --dry_run",
        ),
        "all",
    ),
    Subcommand(
        "data",
        "castor.launch.commands.data",
        "run a Beam data job: web, code, image, audio, video, vocabulary, tokenize, quality-train or replay; "
        "or explain why a document was kept or rejected",
        tuple(f"pipelines/{job}.gin" for job in ("web", "code", "image", "audio", "video", "vocabulary", "tokenize")),
        (
            "castor data web --gin.INPUT_ROOT='\"crawl\"' --gin.INPUTS='[\"*.warc.gz\"]' "
            "--gin.OUTPUT='\"corpora/web\"'",
            "castor data tokenize --gin.CORPUS='\"corpora/web\"' --gin.VOCABULARY='\"vocabulary\"' "
            "--gin.OUTPUT='\"tasks/web\"'",
            "castor data image --gin_file=my_image.gin --direct_running_mode=multi_processing --direct_num_workers=2",
        ),
        "data",
        takes_rest=True,
    ),
    Subcommand(
        "launch",
        "castor.launch.commands.launch",
        "run a data job on local worker processes, Prism, Flink or Dataflow; "
        "or run training as several local processes",
        tuple(f"pipelines/{job}.gin" for job in ("web", "code", "image", "audio", "video", "vocabulary", "tokenize")),
        (
            "castor launch flink --local web --gin.INPUT_ROOT='\"crawl\"' --gin.OUTPUT='\"corpora/web\"'",
            "castor launch local --hosts=4 --devices_per_host=2 train --gin_file=my_run.gin "
            '--gin.MESH=\'{"data": 4, "tensor": 2}\'',
            "castor launch dataflow web --gin_file=my_web.gin --project=P --region=R --temp_location=gs://B/tmp "
            "--sdk_container_image=IMAGE",
        ),
        "data",
        takes_rest=True,
    ),
    Subcommand(
        "tasks",
        "castor.launch.commands.tasks",
        "list, show, verify, preview and export task caches, and trace batches back to documents",
        ("mixtures/five.gin",),
        (
            "castor tasks list out/tasks",
            "castor tasks verify out/tasks/web",
            "castor tasks preview out/tasks/image --output=preview.html",
        ),
        "data",
    ),
    Subcommand(
        "train",
        "castor.launch.commands.train",
        "train a model on a mixture of task caches",
        (
            "runs/pretrain.gin",
            *(f"models/{name}.gin" for name in ("tiny", "small")),
            *(f"runs/{name}.gin" for name in ("1b", "nano1", "nano2", "pro", "ultra", "context_32k")),
            *(f"optimizers/{name}.gin" for name in ("wsd", "adafactor", "adamw_bfloat16", "mup")),
        ),
        (
            "castor train --gin_file=models/tiny.gin --gin_file=runs/pretrain.gin --gin_file=mixtures/five.gin "
            "--gin.MODEL_DIR='\"model\"'",
            "castor train --gin_file=my_run.gin --gin.TRAIN_STEPS=1000 --gin.BATCH_SIZE=32",
            'castor train --gin_file=my_run.gin --cpu_devices=8 --gin.MESH=\'{"data": 2, "fsdp": 2, "tensor": 2}\'',
        ),
        "train",
    ),
    Subcommand(
        "compile",
        "castor.launch.commands.compile",
        "compile the training step for a TPU slice without a TPU: memory, traffic and predicted step time; "
        "or search for the best mesh",
        ("runs/pretrain.gin", "models/small.gin", "models/1b.gin"),
        (
            "castor compile --gin_file=models/1b.gin --gin_file=runs/pretrain.gin --topology=v5e:16x16 "
            "--gin.MESH='{\"fsdp\": 256}' --gin.BATCH_SIZE=256",
            "castor compile --gin_file=runs/pro.gin --topology=v5p:8x8x8 --num_slices=2 --output=pro",
            "castor compile --gin_file=runs/nano2.gin --topology=v5e:16x16 --search --budget_minutes=60",
        ),
        "train",
    ),
    Subcommand(
        "evaluate",
        "castor.launch.commands.evaluate",
        "evaluate a checkpoint: held-out loss by domain, SeqIO metrics, multiple choice",
        ("runs/pretrain.gin",),
        (
            "castor evaluate --model_dir=model",
            "castor evaluate --model_dir=model --step=1000",
            "castor evaluate --model_dir=model --gin.EVAL_STEPS=50",
        ),
        "train",
    ),
    Subcommand(
        "infer",
        "castor.launch.commands.infer",
        "continue text, draw images, caption images, score answers: single prompts, a file, or a conversation",
        ("runs/pretrain.gin",),
        (
            "castor infer --model_dir=model --interactive",
            "castor infer --model_dir=model --prompts=prompts.jsonl --output=answers.jsonl --top_p=0.9",
            "castor infer --model_dir=model --draw='a red square' --output=drawn.png",
        ),
        "train",
    ),
    Subcommand(
        "export",
        "castor.launch.commands.export_huggingface",
        "export a checkpoint as a Gemma model (safetensors and tokenizer) for Hugging Face transformers",
        (),
        (
            "castor export --model_dir=model --output=exported",
            "castor export --model_dir=model --step=1000 --dtype=bfloat16 --output=exported",
            "castor export --model_dir=model --max_shard_gb=2 --output=exported",
        ),
        "train",
    ),
    Subcommand(
        "import",
        "castor.launch.commands.import_huggingface",
        "import a Hugging Face Gemma model, or a castor export, as a MODEL_DIR",
        (),
        (
            "castor import --from=exported --model_dir=model",
            "castor import --from=gemma --vocabulary=vocabulary --model_dir=model",
            "castor import --from=gemma --model_dir=model && castor train --warm_start=model --gin_file=my_run.gin "
            "--gin.MODEL_DIR='\"next\"'",
        ),
        "train",
    ),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line and returns its exit code (see `castor.launch.exit_codes`).

    argv: arguments after `castor`; None for those of this process.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    show_trace = "--traceback" in argv
    argv = [a for a in argv if a != "--traceback"]
    from castor.tasks.errors import CastorError

    try:
        return _dispatch(argv)
    except CastorError as error:
        if show_trace:
            traceback.print_exc()
        print(f"castor: error: {' '.join(str(error).split())}", file=sys.stderr)
        return exit_codes.BAD_USE
    except KeyboardInterrupt:
        print("castor: interrupted; run the same command again to continue.", file=sys.stderr)
        return exit_codes.INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _dispatch(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="castor",
        description="Castor turns raw web, code, image, audio and video files into a trained multimodal decoder. "
        "Every batch is a function of (mixture, seed, step).",
        epilog="castor SUBCOMMAND --help lists the subcommand's gin files and shows examples.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="store_true", help="print the version")
    subparsers = parser.add_subparsers(dest="subcommand", metavar="SUBCOMMAND")
    for known in SUBCOMMANDS:
        subparsers.add_parser(known.name, help=known.summary, add_help=False)
    if not argv or argv[0] in ("-h", "--help"):
        parser.print_help()
        return 0
    if argv[0] == "--version":
        print(f"castor {version()}")
        return 0
    row = next((r for r in SUBCOMMANDS if r.name == argv[0]), None)
    if row is None:
        import difflib

        from castor.tasks.errors import CastorError

        close = difflib.get_close_matches(argv[0], [r.name for r in SUBCOMMANDS], n=1)
        raise CastorError(
            f"unknown subcommand {argv[0]!r}.", f"Did you mean castor {close[0]}?" if close else "See castor --help."
        )
    return _run(row, argv[1:])


def _run(row: Subcommand, argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog=f"castor {row.name}",
        description=row.summary[0].upper() + row.summary[1:] + ".",
        epilog=_gin_files_and_examples(row),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--traceback", action="store_true", help="show the stack trace of an error")
    try:
        return _parse_and_run(row, argv, parser)
    except Exception as error:
        from castor.launch import extras
        from castor.tasks.errors import ConfigurationError

        if (found := extras.remedy(error, row.extra)) is None:
            raise
        requirement, remedy = found
        raise ConfigurationError(f"castor {row.name} needs {requirement}, which is not installed:", remedy) from error


def _parse_and_run(row: Subcommand, argv: list[str], parser: argparse.ArgumentParser) -> int:
    module = importlib.import_module(row.module)
    module.add_arguments(parser)
    if any(a in ("-h", "--help") for a in argv):
        parser.print_help()
        return 0
    from castor.tasks.configuration import split_flags
    from castor.tasks.errors import ConfigurationError

    flags, plain = split_flags(argv)
    arguments, rest = parser.parse_known_args(plain)
    if rest and not row.takes_rest:
        raise ConfigurationError(
            f"castor {row.name}: unknown arguments: {' '.join(rest)}.", f"See castor {row.name} --help."
        )
    arguments.rest = rest
    try:
        return module.run(arguments, flags) or 0
    except RuntimeError as error:
        if str(error).startswith("Required bindings for"):
            first = str(error).splitlines()[0]
            raise ConfigurationError(
                f"gin: {first}.", "Bind them in a gin file or on the command line with --gin.NAME=VALUE."
            ) from error
        raise


def _gin_files_and_examples(row: Subcommand) -> str:
    examples = "\n".join(f"  {line}" for line in row.examples)
    if not row.gin_files:
        return f"examples:\n{examples}"
    files = textwrap.fill(", ".join(row.gin_files), 100, initial_indent="  ", subsequent_indent="  ")
    return (
        "gin flags: --gin_file=FILE, --gin.NAME=VALUE (strings need quotes: --gin.NAME='\"text\"'), "
        "--gin_search_paths=DIR\n\n"
        f"gin files:\n{files}\n\nexamples:\n{examples}"
    )


def version() -> str:
    """The version of the installed distribution; '0 (checkout)' if Castor is not installed."""
    import importlib.metadata

    try:
        return importlib.metadata.version("castor")
    except importlib.metadata.PackageNotFoundError:
        return "0 (checkout)"


if __name__ == "__main__":
    sys.exit(main())
