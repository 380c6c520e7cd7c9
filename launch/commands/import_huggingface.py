"""`castor import`: turns a Hugging Face Gemma model or a `castor export` into a MODEL_DIR.

See docs/interoperability.md.
"""

import argparse

from castor.launch import devices
from castor.tasks.configuration import Flags
from castor.tasks.errors import ConfigurationError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--from",
        dest="source",
        metavar="DIR",
        help="folder with config.json and *.safetensors; pickled weights are never loaded",
    )
    parser.add_argument(
        "--model_dir",
        metavar="DIR",
        help="new MODEL_DIR for castor infer and castor train --warm_start=DIR",
    )
    parser.add_argument(
        "--vocabulary",
        metavar="DIR",
        help="Castor vocabulary with the model's ids (default: see docs/interoperability.md)",
    )
    parser.add_argument(
        "--dtype",
        default="float32",
        choices=("float32", "bfloat16"),
        help="dtype of matrix products; parameters stay float32 (default %(default)s)",
    )


def run(arguments: argparse.Namespace, flags: Flags) -> int:
    for name, value in (("from", arguments.source), ("model_dir", arguments.model_dir)):
        if value is None:
            raise ConfigurationError(
                f"castor import needs --{name}.", "For example: castor import --from=exported --model_dir=model"
            )
    devices.start_jax_on_host()
    from castor.train.huggingface.import_checkpoint import import_checkpoint

    model, parameters = import_checkpoint(arguments.source, arguments.model_dir, arguments.vocabulary, arguments.dtype)
    print(
        f"{arguments.source} -> {arguments.model_dir}: {parameters:,} parameters, "
        f"vocabulary of {model.vocab_size:,} ids, checkpoint 0"
    )
    return 0
