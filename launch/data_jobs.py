"""Data jobs by name, and their configuration from gin flags, for `castor data`, `castor launch` and recipes."""

import difflib
import gc
import importlib

from castor.tasks import configuration
from castor.tasks.configuration import Flags
from castor.tasks.errors import ConfigurationError

JOBS = ("web", "code", "image", "audio", "video", "vocabulary", "tokenize", "quality-train", "replay")


def configure(name: str, flags: Flags):
    """Parses gin flags and returns the configured job.

    name: one of `JOBS`.
    flags: gin files and bindings; without files, pipelines/NAME.gin is read.

    Raises ConfigurationError for unknown jobs, macros and bindings, and for unbound required macros.
    """
    if name not in JOBS:
        close = difflib.get_close_matches(name, JOBS, n=1)
        raise ConfigurationError(
            f"unknown data job {name!r}.", f"Did you mean {close[0]}?" if close else f"The jobs are {', '.join(JOBS)}."
        )
    # Importing Beam creates hundreds of thousands of permanent objects, which the collector would visit again and
    # again.
    gc.disable()
    try:
        configuration.parse(flags.or_files(f"pipelines/{name}.gin"))
        _check_required()
        return make(name)
    finally:
        gc.freeze()
        gc.enable()


def make(name: str):
    """The job `name` with its parameters from the parsed gin configuration."""
    if name == "replay":
        from castor.pipelines.execution import replay

        return replay.make_job()
    return importlib.import_module(f"castor.pipelines.{name.replace('-', '_')}").Job()


def _check_required() -> None:
    """Raises ConfigurationError for an unbound macro that the user must set (`OUTPUT = %gin.REQUIRED`)."""
    import gin

    try:
        gin.config.find_missing_overrides_hook(gin.config._CONFIG)
    except ValueError as error:
        name = str(error).split("/")[0].split(" ")[0]
        raise ConfigurationError(
            f"gin macro {name} is not set.", f"Bind it in a gin file or on the command line: --gin.{name}='\"...\"'."
        ) from error
