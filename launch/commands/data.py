"""`castor data JOB`: one Beam job, configured by gin, with Beam's own options passed through; `castor data replay`; `castor data explain`."""

import argparse
import difflib
import gc

from castor.launch.commands import explain

JOBS = ("web", "code", "image", "audio", "video", "vocabulary", "tokenize", "quality-train", "replay")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the name of the job; everything that is neither gin's nor ours goes to Beam."""
    parser.add_argument("job", metavar="JOB", help=f"one of {', '.join(JOBS)}; or explain")
    explain.add_arguments(parser)


def run(arguments: argparse.Namespace, flags) -> int:
    """Runs the job. Its gin file is pipelines/JOB.gin unless --gin_file names others."""
    from castor.tasks.errors import ConfigurationError

    if arguments.job == "explain":
        return explain.run(arguments)
    if foreign := explain.given(arguments):
        raise ConfigurationError(
            f"{' '.join(foreign)}: known neither to castor data {arguments.job} nor to Beam.", "Only explain takes it."
        )
    gc.disable()  # Beam's import makes objects by the hundred thousand, which stay: the collector would go through them each time
    try:
        job = configure(arguments.job, flags)
    finally:
        gc.freeze()
        gc.enable()
    from castor.pipelines.execution import launcher

    launcher.run(job, arguments.rest)
    return 0


def configure(name: str, flags):
    """The job `name` as gin files and flags say. Raises ConfigurationError for a job, macro or binding that there is not."""
    from castor.tasks import configuration
    from castor.tasks.errors import ConfigurationError

    if name not in JOBS:
        close = difflib.get_close_matches(name, JOBS, n=1)
        raise ConfigurationError(
            f"no data job {name!r}.", f"Did you mean {close[0]}?" if close else f"The jobs are {', '.join(JOBS)}."
        )
    configuration.parse(flags.or_files(f"pipelines/{name}.gin"))
    _check_required()
    return make_job(name)


def _check_required() -> None:
    """Raises ConfigurationError for a macro that its gin file leaves to the user (`OUTPUT = %gin.REQUIRED`) and nobody has bound."""
    import gin
    from castor.tasks.errors import ConfigurationError

    try:
        gin.config.find_missing_overrides_hook(gin.config._CONFIG)
    except ValueError as error:
        name = str(error).split("/")[0].split(" ")[0]
        raise ConfigurationError(
            f"gin macro {name} is not set.", f"Bind it in a gin file or on the command line: --gin.{name}='\"...\"'."
        ) from error


def make_job(name: str):
    """The job of that name as gin configures it."""
    import importlib

    if name == "replay":
        from castor.pipelines.execution import replay

        return replay.make_job()
    return importlib.import_module(f"castor.pipelines.{name.replace('-', '_')}").Job()
