"""`castor evaluate`: the held-out loss of each domain at a checkpoint, with the configuration that its run kept."""

import argparse

from launch.train import add_device_arguments, make_run, start_jax
from tasks import storage
from tasks.configuration import Flags
from tasks.errors import ConfigurationError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model_dir", metavar="DIR", help="MODEL_DIR of a castor train run; its latest configuration is used unless --gin_file says otherwise")
    parser.add_argument("--step", type=int, metavar="N", help="checkpoint (default: the latest)")
    parser.add_argument("--output", metavar="FILE", help="write the losses as JSON")
    add_device_arguments(parser)


def run(arguments: argparse.Namespace, flags: Flags) -> int:
    start_jax(arguments)
    from train import loop

    made = make_run(with_model_dir(arguments.model_dir, flags))
    step, losses = loop.evaluate(made, arguments.step)
    if not losses:
        raise ConfigurationError(f"no domain has records in the split {made.evaluation.split!r}.", "Tokenize with a share for it: --gin.SPLITS.")
    width = max(map(len, losses))
    print(f"checkpoint {step}, split {made.evaluation.split}, nats a token")
    for name, value in losses.items():
        print(f"  {name:<{width}}  {value:.4f}")
    if arguments.output:
        storage.write_json_atomic(arguments.output, {"step": step, "split": made.evaluation.split, **losses})
    return 0


def with_model_dir(model_dir: str | None, flags: Flags) -> Flags:
    """The flags that read the latest configuration kept in `model_dir`, and point MODEL_DIR at where it is now."""
    if model_dir is None:
        if not flags.files:
            raise ConfigurationError("castor evaluate needs --model_dir.", "Give the MODEL_DIR of a castor train run.")
        return flags
    bindings = (f"MODEL_DIR = {model_dir!r}", *flags.bindings)
    if flags.files:
        return Flags(flags.files, bindings, flags.search_paths)
    folder = storage.join(model_dir, "config")
    kept = [name for name in storage.list_files(folder) if name.endswith(".gin")]
    if not kept:
        raise ConfigurationError(f"{model_dir} holds no run: there is no configuration in {folder}.", "Give the MODEL_DIR of a castor train run.")
    return Flags((storage.join(folder, kept[-1]),), bindings, flags.search_paths)
