"""A training run as gin flags describe it: its RunConfig, from gin files on the command line or from those that a MODEL_DIR keeps."""

import dataclasses
import tempfile

from castor.tasks import configuration
from castor.tasks.configuration import Flags
from castor.tasks.errors import ConfigurationError
from castor.tasks.storage import storage
from castor.train import model_dir as model_dirs

GIN_FILES = ("models/tiny.gin", "runs/pretrain.gin")
"""The gin files of `castor train` where the command line names none."""

_REQUIRED = {
    "MODEL": "--gin_file=models/tiny.gin binds it",
    "MIXTURE_OR_TASK_NAME": "a mixture bound in gin, a task in TASKS_DIR, or the directory of a task cache",
    "MODEL_DIR": "where the run is kept: --gin.MODEL_DIR='\"model\"'",
}


def configure(flags: Flags):
    """The `castor.train.run.RunConfig` of gin files and bindings. Raises ConfigurationError for unbound macros and unknown names.

    Imports JAX: `devices.start_jax` comes before.
    """
    from castor.train.run import RunConfig

    configuration.parse(flags)
    missing = [name for name in _REQUIRED if configuration.macro(name) is None]
    if not missing:
        return RunConfig()
    files = ", ".join(flags.files)
    if not any("train.loop.Run." in text for text in configuration.texts(flags.files, flags.search_paths)):
        raise ConfigurationError(f"{files} binds no train.loop.Run.", "Add --gin_file=runs/pretrain.gin.")
    raise ConfigurationError(
        f"gin macro {missing[0]} is not bound in {files} or on the command line.", f"It is {_REQUIRED[missing[0]]}."
    )


def with_bindings(flags: Flags, *bindings: str) -> Flags:
    """The flags with bindings that win over theirs."""
    return dataclasses.replace(flags, bindings=(*flags.bindings, *bindings))


def of_model_dir(model_dir: str, flags: Flags) -> Flags:
    """The flags with MODEL_DIR bound to `model_dir`, and with the latest configuration kept there where they name no gin file."""
    flags = dataclasses.replace(flags, bindings=(f"MODEL_DIR = {model_dir!r}", *flags.bindings))
    if flags.files:
        return flags
    return flags.or_files(latest_configuration(model_dir))


def latest_configuration(model_dir: str) -> str:
    """A path that gin can read of the latest configuration kept in MODEL_DIR: a file in a bucket is copied to this machine."""
    path = model_dirs.latest_configuration(model_dir)
    if not storage.is_remote(path):
        return path
    with tempfile.NamedTemporaryFile(prefix="castor-", suffix=".gin", delete=False) as copy:
        copy.write(storage.read_bytes(path))
    return copy.name
