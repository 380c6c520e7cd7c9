"""A job whose launcher does not wait: sent off with a note of what it is, and committed from the note when its engine is done.

A job's output is committed by a launcher, after the pipeline: it adds the shards' entries up, checks the funnel, and writes the manifest last.
Detached, the staging folder holds the note (.pending.json) until `commit` does the same from it. Whether the engine is done need not be
asked: each shard's entry is written last, so a job is whole when every entry is there, and `commit` says what is missing where it is not.

The lock on the output is held while a job is sent and while it is committed. In between the note bars other writers (staging.new_staging).
"""

import datetime
import socket
from collections.abc import Mapping, Sequence
from typing import Any

from castor.pipelines.execution import beam_options
from castor.pipelines.execution.job import BaseJob
from castor.pipelines.execution.job_config import describe, rebuild
from castor.pipelines.execution.staging import NOTE, new_staging, staging_folders
from castor.tasks.errors import CorpusError
from castor.tasks.storage import lock, storage


def submit(job: BaseJob, beam_args: Sequence[str]) -> str:
    """Starts a job and returns the engine's name for it, as far as it has one, without waiting.

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
    """Commits what a detached job has staged under `output` and returns the manifest.

    Raises CorpusError if there is no such job, if it has not written everything yet, or if inputs, configuration or code are no longer those it
    was sent with; LockError if another process writes the output.
    """
    with lock.hold(output, "OUTPUT") as held:
        staging = next((s for s in staging_folders(output) if storage.exists(storage.join(s, NOTE))), None)
        if staging is None:
            raise CorpusError(
                f"no detached job has been sent for {output}.",
                "Send it: castor launch dataflow JOB ... --submit --detach.",
            )
        note = storage.read_json(storage.join(staging, NOTE))
        job = rebuild(note["job"], output=output)
        if job.fingerprint() != note["fingerprint"]:
            raise CorpusError(
                f"the inputs, the configuration or the code of {job.name} changed since job {note['id']} was sent.",
                f"Put them back, or remove {staging} and send it again.",
            )
        held.check()
        storage.remove(storage.join(staging, NOTE))
        try:
            return job.finish(staging)
        except FileNotFoundError as error:
            raise CorpusError(
                f"job {note['id']} of {job.name} has not written {error.filename} yet.", "Commit when it is done."
            ) from error
        finally:
            if storage.list_files(staging):  # not committed, and not given up either
                storage.write_json_atomic(storage.join(staging, NOTE), note)
