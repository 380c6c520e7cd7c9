"""`castor data JOB`: one Beam job, configured by gin, with Beam's own options passed through; `castor data replay`; `castor data explain`."""

import argparse

from castor.launch import data_jobs
from castor.launch.commands import explain
from castor.tasks.errors import ConfigurationError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the name of the job; everything that is neither gin's nor Castor's goes to Beam."""
    parser.add_argument("job", metavar="JOB", help=f"one of {', '.join(data_jobs.JOBS)}; or explain")
    explain.add_arguments(parser)


def run(arguments: argparse.Namespace, flags) -> int:
    """Runs the job. Its gin file is pipelines/JOB.gin unless --gin_file names others."""
    if arguments.job == "explain":
        return explain.run(arguments)
    if foreign := explain.given(arguments):
        raise ConfigurationError(
            f"{' '.join(foreign)}: known neither to castor data {arguments.job} nor to Beam.", "Only explain takes it."
        )
    job = data_jobs.configure(arguments.job, flags)
    from castor.pipelines.execution import launcher

    launcher.run(job, arguments.rest)
    return 0
