"""Beam's command-line options, checked, and the runner they name."""

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence

from castor.tasks.errors import ConfigurationError


def parse(beam_args: Sequence[str]):
    """(PipelineOptions, runner) of Beam's command-line options. Raises ConfigurationError for an option that Beam does not know."""
    from apache_beam.options import pipeline_options
    from apache_beam.runners.portability.fn_api_runner import FnApiRunner

    parser = pipeline_options._BeamArgumentParser(allow_abbrev=False)
    for options_class in pipeline_options.PipelineOptions.__subclasses__():
        options_class._add_argparse_args(parser)
    known, unknown = parser.parse_known_args(list(beam_args))
    if unknown:
        raise ConfigurationError(
            f"{' '.join(unknown)}: known neither to castor data nor to Beam.",
            "Configuration goes by --gin.NAME=VALUE, Beam's options by Beam's names.",
        )
    options = pipeline_options.PipelineOptions(list(beam_args))
    name = known.runner
    runner = FnApiRunner() if name in (None, "DirectRunner", "FnApiRunner") else name
    return options, runner


@contextlib.contextmanager
def workers_import_as_here() -> Iterator[None]:
    """While Beam starts worker processes: they search the working directory for modules only if this process does.

    Beam starts them with `python -m`, which puts the working directory first. There a user's own folder `castor/`, or a file named like a
    library, would be found instead of what the job was configured with.
    """
    name = "PYTHONSAFEPATH"
    if name in os.environ or "" in sys.path or os.getcwd() in sys.path:
        yield
        return
    os.environ[name] = "1"
    try:
        yield
    finally:
        del os.environ[name]
