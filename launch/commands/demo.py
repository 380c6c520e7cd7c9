"""`castor demo`: runs gin/recipes/demo.gin on a small generated corpus, offline."""

import argparse
import dataclasses

from castor.launch.commands.run import add_run_arguments, run_recipe
from castor.tasks import configuration


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", default="castor-demo", help="output folder of the demo (default castor-demo)")
    parser.add_argument("--corpus_only", action="store_true", help="only generate the raw files, in OUTPUT")
    add_run_arguments(parser)


def run(arguments: argparse.Namespace, flags: configuration.Flags) -> int:
    if arguments.corpus_only:
        from castor.launch.recipes.demo_corpus import DemoCorpus

        configuration.parse(flags)
        items = DemoCorpus().make(arguments.output)
        print(", ".join(f"{number} {kind}" for kind, number in items.items()))
        return 0
    bindings = (f"OUTPUT = {arguments.output!r}", *flags.bindings)
    return run_recipe(
        arguments, dataclasses.replace(flags, files=("recipes/demo.gin", *flags.files), bindings=bindings)
    )
