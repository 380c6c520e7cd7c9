"""The RunConfig of a training run, from gin files on the command line or from the configuration kept in MODEL_DIR."""

import dataclasses
import tempfile

from castor.tasks import configuration
from castor.tasks.configuration import Flags
from castor.tasks.errors import ConfigurationError
from castor.tasks.storage import storage
from castor.train import model_dir as model_dirs

GIN_FILES = ("models/tiny.gin", "runs/pretrain.gin")
"""The gin files of `castor train` if the command line names none."""

_REQUIRED = {
    "MODEL": "Add a model's gin file, e.g. --gin_file=models/tiny.gin.",
    "MIXTURE_OR_TASK_NAME": "Bind a mixture, the name of a task in TASKS_DIR, or the directory of a task cache.",
    "MODEL_DIR": "Bind the folder of the run: --gin.MODEL_DIR='\"model\"'.",
}


def configure(flags: Flags):
    """Parses gin flags and returns the `castor.train.run.RunConfig`.

    Imports JAX, so call `devices.start_jax` first.

    Raises ConfigurationError for unbound macros and unknown names.
    """
    from castor.train.run import RunConfig

    configuration.parse(flags)
    missing = [name for name in _REQUIRED if configuration.macro(name) is None]
    if not missing:
        return RunConfig()
    files = ", ".join(flags.files)
    if not any("train.loop.Run." in text for text in configuration.texts(flags.files, flags.search_paths)):
        raise ConfigurationError(f"{files} does not bind train.loop.Run.", "Add --gin_file=runs/pretrain.gin.")
    raise ConfigurationError(
        f"gin macro {missing[0]} is not bound in {files} or on the command line.", _REQUIRED[missing[0]]
    )


def with_bindings(flags: Flags, *bindings: str) -> Flags:
    """The flags plus `bindings`, which take precedence."""
    return dataclasses.replace(flags, bindings=(*flags.bindings, *bindings))


def of_model_dir(model_dir: str, flags: Flags) -> Flags:
    """Flags for an existing run: MODEL_DIR is bound to `model_dir`.

    Flags without a gin file get the latest configuration kept in `model_dir`.
    """
    flags = dataclasses.replace(flags, bindings=(f"MODEL_DIR = {model_dir!r}", *flags.bindings))
    if flags.files:
        return flags
    return flags.or_files(latest_configuration(model_dir))


def latest_configuration(model_dir: str) -> str:
    """Local path of the latest configuration in MODEL_DIR; a file in a bucket is copied to a temporary file."""
    path = model_dirs.latest_configuration(model_dir)
    if not storage.is_remote(path):
        return path
    with tempfile.NamedTemporaryFile(prefix="castor-", suffix=".gin", delete=False) as copy:
        copy.write(storage.read_bytes(path))
    return copy.name
