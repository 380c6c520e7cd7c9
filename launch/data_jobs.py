"""The data jobs by name, and a job configured from gin flags: what `castor data`, `castor launch` and recipes share."""

import difflib
import gc
import importlib

from castor.tasks import configuration
from castor.tasks.configuration import Flags
from castor.tasks.errors import ConfigurationError

JOBS = ("web", "code", "image", "audio", "video", "vocabulary", "tokenize", "quality-train", "replay")


def configure(name: str, flags: Flags):
    """The job `name` as gin flags describe it; without gin files pipelines/NAME.gin. Raises ConfigurationError for unknown jobs, macros, bindings."""
    if name not in JOBS:
        close = difflib.get_close_matches(name, JOBS, n=1)
        raise ConfigurationError(
            f"no data job {name!r}.", f"Did you mean {close[0]}?" if close else f"The jobs are {', '.join(JOBS)}."
        )
    gc.disable()  # importing Beam makes hundreds of thousands of objects that stay: the collector would visit them again and again
    try:
        configuration.parse(flags.or_files(f"pipelines/{name}.gin"))
        _check_required()
        return make(name)
    finally:
        gc.freeze()
        gc.enable()


def make(name: str):
    """The job of that name with the parameters that gin has parsed."""
    if name == "replay":
        from castor.pipelines.execution import replay

        return replay.make_job()
    return importlib.import_module(f"castor.pipelines.{name.replace('-', '_')}").Job()


def _check_required() -> None:
    """Raises ConfigurationError for a macro that its gin file leaves to the user (`OUTPUT = %gin.REQUIRED`) and that is not bound."""
    import gin

    try:
        gin.config.find_missing_overrides_hook(gin.config._CONFIG)
    except ValueError as error:
        name = str(error).split("/")[0].split(" ")[0]
        raise ConfigurationError(
            f"gin macro {name} is not set.", f"Bind it in a gin file or on the command line: --gin.{name}='\"...\"'."
        ) from error
