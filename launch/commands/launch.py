"""`castor launch ENGINE JOB`: runs a data job on a Beam engine, or a training run as several processes.

    castor launch local --hosts=4 --devices_per_host=2 train ...
        a training run as four processes with two devices each (launch/engines/local_pod.py)
    castor launch local web ...
        two worker processes of Beam's own on this machine
    castor launch prism web ...
        Beam's Prism, started here for this job
    castor launch flink --local web ...
        a Flink cluster (job manager, task managers, job server), started here for this job
    castor launch flink web --flink_master=HOST:PORT ...
        an existing Flink cluster; only the job server is started here
    castor launch dataflow web ... [--submit [--detach]]
        Dataflow: validated here, offline, and submitted only with --submit (launch/engines/dataflow.py)
    castor launch commit OUTPUT
        commits the output of a detached job

A job writes the same bytes on every engine. Engines are fetched on first use (launch/engines/packages.py).
"""

import argparse
import contextlib
from collections.abc import Iterator

from castor.launch import data_jobs
from castor.launch.engines import local_pod
from castor.launch.engines.flink import Flink
from castor.launch.engines.prism import Prism
from castor.launch.engines.processes import Engine
from castor.tasks.errors import ConfigurationError

ENGINES = ("local", "prism", "flink", "dataflow")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds engine, job and their options. Unknown options go to Beam."""
    parser.add_argument("engine", metavar="ENGINE", help=f"one of {', '.join(ENGINES)}; or commit")
    parser.add_argument(
        "job",
        metavar="JOB",
        help=f"one of {', '.join(data_jobs.JOBS)}; with local, also train; with commit, the output directory",
    )
    parser.add_argument("--local", action="store_true", help="flink: start a cluster on this machine for the job")
    parser.add_argument("--flink_master", default="", help="flink: HOST:PORT of a cluster's REST service")
    parser.add_argument(
        "--worker_image", default="", help="flink: container image of the workers (launch/engines/Dockerfile)"
    )
    parser.add_argument(
        "--submit",
        action="store_true",
        help="dataflow: submit the validated job, wait for it and commit its output",
    )
    parser.add_argument(
        "--detach",
        action="store_true",
        help="dataflow, with --submit: do not wait; run castor launch commit OUTPUT when the job is done",
    )
    parser.add_argument("--workers", type=int, default=2, help="local, for data jobs: worker processes (default 2)")
    local_pod.add_arguments(parser)


def run(arguments: argparse.Namespace, flags) -> int:
    """Starts the engine, runs the job and stops the engine. Returns the exit code."""
    if arguments.engine == "commit":
        return _commit(arguments.job)
    if arguments.engine not in ENGINES:
        raise ConfigurationError(f"unknown engine {arguments.engine!r}.", f"The engines are {', '.join(ENGINES)}.")
    if arguments.job in local_pod.JOBS:
        if arguments.engine != "local":
            raise ConfigurationError(
                f"castor launch {arguments.engine} runs only data jobs.",
                "To train, use castor launch local --hosts=N train, or castor train --coordinator on each host.",
            )
        return local_pod.run(arguments, flags)
    job = data_jobs.configure(arguments.job, flags)
    if arguments.engine == "dataflow":
        return _dataflow(job, arguments)
    with _engine(arguments) as engine:
        from castor.pipelines.execution import launcher

        launcher.run(job, [*engine.options, *arguments.rest])
    return 0


def _dataflow(job, arguments: argparse.Namespace) -> int:
    from castor.launch.engines import dataflow
    from castor.pipelines.execution import detached, launcher

    options = dataflow.options(job.name, arguments.rest)
    dataflow.check_paths(job)
    print("\n".join(dataflow.lines(dataflow.translate(job, options))))
    if not arguments.submit:
        print("The job is valid and was not submitted. --submit submits it.")
    elif arguments.detach:
        print(f"Submitted as {detached.submit(job, options)}. When it is done: castor launch commit {job.output}")
    else:
        launcher.run(job, options)
    return 0


def _commit(output: str) -> int:
    from castor.pipelines.core.funnel import Funnel, table
    from castor.pipelines.execution import detached

    manifest = detached.commit(output)
    import rich

    rich.print(table(Funnel.from_json(manifest["funnel"]), f"{manifest['name']}: {output}"))
    return 0


@contextlib.contextmanager
def _engine(arguments: argparse.Namespace) -> Iterator[Engine]:
    if arguments.engine == "local":
        yield Engine(
            "local", "", ("--direct_running_mode=multi_processing", f"--direct_num_workers={arguments.workers}"), None
        )
    elif arguments.engine == "prism":
        with Prism().start() as engine:
            yield engine
    elif arguments.local:
        with Flink().start() as engine:
            yield engine
    else:
        if not arguments.flink_master:
            raise ConfigurationError(
                "castor launch flink: no cluster is given.",
                "Give --flink_master=HOST:PORT, or start a cluster here with --local.",
            )
        named = any(option.startswith("--environment_type") for option in arguments.rest)
        if not arguments.worker_image and not named:
            raise ConfigurationError(
                "castor launch flink: no environment is given for the workers.",
                "Give --worker_image=IMAGE, or Beam's --environment_type.",
            )
        with Flink().connect(arguments.flink_master, arguments.worker_image) as engine:
            yield engine
