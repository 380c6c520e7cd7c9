"""Runs a job: builds the Beam pipeline, waits for the runner, commits. On failure the output stays as it was before."""

import os
import time
from collections.abc import Sequence
from typing import Any

from castor.pipelines.core import lists
from castor.pipelines.corpus.layout import MANIFEST
from castor.pipelines.execution import progress
from castor.pipelines.execution.beam_options import parse, workers_import_as_here
from castor.pipelines.execution.job import BaseJob
from castor.pipelines.execution.staging import new_staging
from castor.tasks.errors import ConfigurationError
from castor.tasks.storage import lock, storage

_READ_FIELDS = ("input_root", "replay_of", "corpus", "corpora", "vocabulary", "reference", "sample")


def up_to_date(job: BaseJob) -> bool:
    """True if the output exists, is complete, and was made from the current inputs, configuration and code."""
    try:
        manifest = storage.read_json(storage.join(job.output, MANIFEST))
        return manifest.get("fingerprint") == job.fingerprint()
    except (OSError, ValueError, AttributeError):
        return False


def run(job: BaseJob, beam_args: Sequence[str] = (), quiet: bool = False) -> dict[str, Any]:
    """Runs a job and returns the manifest of its output.

    job: the job to run.
    beam_args: Beam's command-line options. The default runner is FnApiRunner. DirectRunner also means FnApiRunner here,
      because Beam would resolve the name to a binary that it downloads.
    quiet: print neither progress nor the funnel.

    Raises CorpusError or another CastorError if the job fails; the output is then unchanged. Raises LockError, before
    any change, if another process writes the output.
    """
    options, runner = parse(beam_args)
    job.code()  # before the work: takes the code's fingerprint, and rejects an invalid configuration
    _refuse_own_input(job)
    started = time.monotonic()
    with lock.hold(job.output, "OUTPUT") as held:
        import apache_beam as beam

        lists.forget()
        staging = new_staging(job.output)
        try:
            pipeline = beam.Pipeline(runner=runner, options=options)
            job.build(pipeline, staging)
            with progress.shown(job.name, quiet), progress.without_noise():
                with workers_import_as_here():
                    progress.wait(pipeline.run)
            held.check()
            manifest = job.finish(staging)
        finally:
            storage.remove_tree(staging)
    if not quiet:
        progress.report(job.name, manifest["funnel"], [*job.report(manifest), job.output], time.monotonic() - started)
    return manifest


def _refuse_own_input(job: BaseJob) -> None:
    """Raises ConfigurationError if the output is one of the inputs: a commit would replace the input."""
    output = _resolved(job.output)
    for name in _READ_FIELDS:
        read = getattr(job, name, None) or ()
        if output in map(_resolved, [read] if isinstance(read, (str, os.PathLike)) else read):
            raise ConfigurationError(
                f"OUTPUT {job.output} is an input of the job ({name}) and would be replaced.", "Choose another OUTPUT."
            )


def _resolved(path: str) -> str:
    return storage.normal(path) if storage.is_remote(path) else os.path.realpath(path)
