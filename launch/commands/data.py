"""`castor data JOB`: runs one Beam job, configured by gin. Other options are passed on to Beam. Also data explain."""

import argparse

from castor.launch import data_jobs
from castor.launch.commands import explain
from castor.tasks.errors import ConfigurationError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the job's name and the options of explain. Unknown options go to Beam."""
    parser.add_argument("job", metavar="JOB", help=f"one of {', '.join(data_jobs.JOBS)}; or explain")
    explain.add_arguments(parser)


def run(arguments: argparse.Namespace, flags) -> int:
    """Runs the job. Its gin file is pipelines/JOB.gin unless --gin_file names others."""
    if arguments.job == "explain":
        return explain.run(arguments)
    if foreign := explain.given(arguments):
        raise ConfigurationError(
            f"castor data {arguments.job} does not take {' '.join(foreign)}.", "Only castor data explain does."
        )
    job = data_jobs.configure(arguments.job, flags)
    from castor.pipelines.execution import launcher

    launcher.run(job, arguments.rest)
    return 0
