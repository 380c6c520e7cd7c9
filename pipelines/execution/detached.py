"""Detached jobs: submitted with a note that describes the job, and committed from the note when the engine is done.

A launcher commits a job's output after the pipeline: it adds up the shards' entries, checks the funnel, and writes the
manifest last. The staging folder of a detached job holds the note (.pending.json) from which `commit` does the same.
`commit` need not ask the engine whether it is done: each shard's entry is written last, so a job is whole when every
entry is there. `commit` reports the entries that are missing.

`commit` works on a copy of the staging folder and removes the note when the output is whole. A commit that is killed at
any point can therefore be repeated.

The lock on the output is held while a job is submitted and while it is committed. In between, the note keeps other
writers out (staging.new_staging).
"""

import datetime
import socket
from collections.abc import Mapping, Sequence
from typing import Any

from castor.pipelines.execution import beam_options
from castor.pipelines.execution.job import BaseJob
from castor.pipelines.execution.job_config import describe, rebuild
from castor.pipelines.execution.staging import NOTE, copy_into, new_copy, new_staging, staging_folders
from castor.tasks.errors import CorpusError
from castor.tasks.storage import lock, storage


def submit(job: BaseJob, beam_args: Sequence[str]) -> str:
    """Starts a job without waiting for it, and returns the engine's id of the job (empty if the engine has none).

    job: the job to submit.
    beam_args: Beam's command-line options; they choose the engine.

    Raises LockError if another process or another detached job writes the output.
    """
    options, runner = beam_options.parse(beam_args)
    with lock.hold(job.output, "OUTPUT"):
        import apache_beam as beam

        staging = new_staging(job.output)
        try:
            pipeline = beam.Pipeline(runner=runner, options=options)
            job.build(pipeline, staging)
            sent = f"sent from {socket.gethostname()} at {datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M:%S} UTC"
            note = {"job": describe(job), "fingerprint": job.fingerprint(), "id": "", "sent": sent}
            storage.write_json_atomic(storage.join(staging, NOTE), note)
            result = pipeline.run()
            identifier = result.job_id() if callable(getattr(result, "job_id", None)) else ""
            storage.write_json_atomic(storage.join(staging, NOTE), {**note, "id": identifier})
        except BaseException:
            storage.remove_tree(staging)
            raise
    return identifier


def commit(output: str) -> Mapping[str, Any]:
    """Commits the staged output of a detached job under `output`, and returns the manifest.

    Raises CorpusError if there is no such job, if a file is still missing, if the funnel check fails, or if inputs,
    configuration or code have changed since the submission. Raises LockError if another process writes the output.
    """
    with lock.hold(output, "OUTPUT") as held:
        staging = next((s for s in staging_folders(output) if storage.exists(storage.join(s, NOTE))), None)
        if staging is None:
            raise CorpusError(
                f"no detached job has been submitted for {output}.",
                "Submit one: castor launch dataflow JOB ... --submit --detach.",
            )
        note = storage.read_json(storage.join(staging, NOTE))
        job = rebuild(note["job"], output=output)
        if job.fingerprint() != note["fingerprint"]:
            raise CorpusError(
                f"the inputs, configuration or code of {job.name} changed since job {note['id']} was submitted.",
                f"Restore them, or remove {staging} and submit the job again.",
            )
        copied = new_copy(staging)
        held.check()
        try:
            copy_into(copied, staging)
            manifest = job.finish(copied)
        except FileNotFoundError as error:
            raise CorpusError(
                f"job {note['id']} of {job.name} has not written {_original(error.filename, copied, staging)} yet.",
                "Commit when it is done.",
            ) from error
        except CorpusError as error:
            if not storage.list_files(copied):  # finish removed the folder: no commit possible
                _forget(staging)
            raise CorpusError(_original(error.what, copied, staging), error.remedy) from error
        finally:
            storage.remove_tree(copied)
        _forget(staging)
        return manifest


def _original(text: str, copied: str, staging: str) -> str:
    """A message with the path of the staging folder in place of the removed copy."""
    return str(text).replace(copied, staging)


def _forget(staging: str) -> None:
    """Removes the staging folder of a detached job, note first: without a note it counts as a killed run's."""
    storage.remove(storage.join(staging, NOTE))
    storage.remove_tree(staging)
