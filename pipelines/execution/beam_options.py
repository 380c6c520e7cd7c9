"""Beam's command-line options, checked, and the runner that they name."""

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence

from castor.tasks.errors import ConfigurationError


def parse(beam_args: Sequence[str]):
    """(PipelineOptions, runner) of Beam's command-line options. Raises ConfigurationError for an unknown option."""
    from apache_beam.options import pipeline_options
    from apache_beam.runners.portability.fn_api_runner import FnApiRunner

    parser = pipeline_options._BeamArgumentParser(allow_abbrev=False)
    for options_class in pipeline_options.PipelineOptions.__subclasses__():
        options_class._add_argparse_args(parser)
    known, unknown = parser.parse_known_args(list(beam_args))
    if unknown:
        raise ConfigurationError(
            f"{' '.join(unknown)}: not an option of castor data or of Beam.",
            "Write configuration as --gin.NAME=VALUE, and Beam's options with Beam's names.",
        )
    options = pipeline_options.PipelineOptions(list(beam_args))
    name = known.runner
    runner = FnApiRunner() if name in (None, "DirectRunner", "FnApiRunner") else name
    return options, runner


@contextlib.contextmanager
def workers_import_as_here() -> Iterator[None]:
    """While active, worker processes search the working directory for modules only if this process does.

    Beam starts workers with `python -m`, which puts the working directory first in the search path. A folder
    `castor/` there, or a file named like a library, would hide the modules that the job was configured with.
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
