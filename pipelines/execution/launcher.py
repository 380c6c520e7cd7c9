"""Runs a job to its end: builds the Beam pipeline, waits for the runner, commits. The output is afterwards either whole or as it was before."""

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
    """True if the output is there, whole, and made from the inputs, configuration and code as they are now."""
    try:
        manifest = storage.read_json(storage.join(job.output, MANIFEST))
        return manifest.get("fingerprint") == job.fingerprint()
    except (OSError, ValueError, AttributeError):
        return False


def run(job: BaseJob, beam_args: Sequence[str] = (), quiet: bool = False) -> dict[str, Any]:
    """Runs a job to its end and returns the manifest of its output; prints progress and the funnel unless `quiet`.

    `beam_args` are Beam's own options. The runner is FnApiRunner unless another is named; DirectRunner means FnApiRunner too, since Beam's
    own meaning of it is a binary that it downloads. Raises CorpusError or another CastorError; the output is then as it was before. Raises LockError
    where another process writes this output, before anything is touched.
    """
    options, runner = parse(beam_args)
    job.code()  # reads the code as it is now, and raises now for what a manifest cannot carry: both before the work
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
    """Raises ConfigurationError if the job would write its output over its input: a commit replaces what the directory holds."""
    output = _place_of(job.output)
    for name in _READ_FIELDS:
        read = getattr(job, name, None) or ()
        if output in map(_place_of, [read] if isinstance(read, (str, os.PathLike)) else read):
            raise ConfigurationError(
                f"OUTPUT {job.output} is what the job reads ({name}): it would be replaced.", "Choose another OUTPUT."
            )


def _place_of(path: str) -> str:
    return storage.normal(path) if storage.is_remote(path) else os.path.realpath(path)
