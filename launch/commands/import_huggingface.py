"""`castor import`: a Gemma model of Hugging Face, or what `castor export` wrote, as a MODEL_DIR. See docs/interoperability.md."""

import argparse

from castor.launch import devices
from castor.tasks.configuration import Flags
from castor.tasks.errors import ConfigurationError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--from",
        dest="source",
        metavar="DIR",
        help="folder with config.json and *.safetensors; pickled weights are never opened",
    )
    parser.add_argument(
        "--model_dir",
        metavar="DIR",
        help="new MODEL_DIR: castor infer reads it, castor train --warm_start=DIR goes on from it",
    )
    parser.add_argument(
        "--vocabulary",
        metavar="DIR",
        help="the Castor vocabulary whose ids the model's are (default: docs/interoperability.md)",
    )
    parser.add_argument(
        "--dtype",
        default="float32",
        choices=("float32", "bfloat16"),
        help="of matrix products; parameters are float32; default %(default)s",
    )


def run(arguments: argparse.Namespace, flags: Flags) -> int:
    for name, value in (("from", arguments.source), ("model_dir", arguments.model_dir)):
        if value is None:
            raise ConfigurationError(
                f"castor import needs --{name}.", "castor import --from=exported --model_dir=model"
            )
    devices.start_jax_on_host()
    from castor.train.huggingface.import_checkpoint import import_checkpoint

    model, parameters = import_checkpoint(arguments.source, arguments.model_dir, arguments.vocabulary, arguments.dtype)
    print(
        f"{arguments.source} -> {arguments.model_dir}: {parameters:,} parameters, vocabulary of {model.vocab_size:,} ids, checkpoint 0"
    )
    return 0
