"""`castor export`: writes a checkpoint as a folder that `transformers` loads. See docs/interoperability.md."""

import argparse

from castor.launch import devices
from castor.tasks.configuration import Flags
from castor.tasks.errors import ConfigurationError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model_dir", metavar="DIR", help="MODEL_DIR of a castor train run")
    parser.add_argument("--step", type=int, metavar="N", help="checkpoint (default: the latest)")
    parser.add_argument("--output", metavar="DIR", help="new folder for transformers' from_pretrained(DIR)")
    parser.add_argument(
        "--dtype",
        default="float32",
        choices=("float32", "bfloat16"),
        help="dtype of the weights (default %(default)s)",
    )
    parser.add_argument(
        "--vocabulary", metavar="DIR", help="vocabulary folder (default: the one recorded in MODEL_DIR)"
    )
    parser.add_argument(
        "--max_shard_gb", type=float, default=5.0, metavar="GB", help="largest weights file in GB (default %(default)s)"
    )


def run(arguments: argparse.Namespace, flags: Flags) -> int:
    for name in ("model_dir", "output"):
        if getattr(arguments, name) is None:
            raise ConfigurationError(
                f"castor export needs --{name}.", "For example: castor export --model_dir=model --output=exported"
            )
    if arguments.max_shard_gb <= 0:
        raise ConfigurationError(f"--max_shard_gb={arguments.max_shard_gb}.", "Give a positive number.")
    devices.start_jax_on_host()
    from castor.train.huggingface.export_checkpoint import export_checkpoint

    step, files = export_checkpoint(
        arguments.model_dir,
        arguments.output,
        arguments.step,
        arguments.vocabulary,
        arguments.dtype,
        int(arguments.max_shard_gb * 1e9),
    )
    print(f"checkpoint {step} of {arguments.model_dir} -> {arguments.output}: {', '.join(files)}")
    return 0
