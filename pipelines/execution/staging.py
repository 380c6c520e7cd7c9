"""The staging folder of a job: a hidden folder in its output. The pipeline writes into it; the commit empties it."""

import uuid

from castor.tasks.errors import LockError
from castor.tasks.storage import storage

PREFIX = ".staging-"
NOTE = ".pending.json"
"""File in the staging folder of a detached job until its commit (pipelines/execution/detached.py)."""


def new_staging(output: str) -> str:
    """Creates an empty staging folder in `output` and returns its path. Removes those of killed runs.

    The caller holds the lock of `output`. Raises LockError for the staging folder of a detached job: its engine may
    be writing.
    """
    folders = staging_folders(output)
    for folder in folders:
        if storage.exists(storage.join(folder, NOTE)):
            note = storage.read_json(storage.join(folder, NOTE))
            raise LockError(
                f"OUTPUT {output} is being written by detached job {note['id']}, {note.get('sent', 'sent earlier')}.",
                f"When it is done: castor launch commit {output}. To give it up, cancel it and remove {folder}.",
            )
    for folder in folders:
        storage.remove_tree(folder)
    staging = storage.join(output, PREFIX + uuid.uuid4().hex)
    storage.makedirs(staging)
    return staging


def new_copy(staging: str) -> str:
    """Creates an empty folder for a copy of a detached job's staging folder and returns its path.

    Removes the copies that killed commits left. The caller holds the lock of the output.
    """
    output = staging.rpartition("/")[0]
    for folder in staging_folders(output):
        if folder != staging:
            storage.remove_tree(folder)
    copied = storage.join(output, PREFIX + uuid.uuid4().hex)
    storage.makedirs(copied)
    return copied


def copy_into(copied: str, staging: str) -> None:
    """Copies the staged files of a detached job from `staging` to `copied`, without the note."""
    storage.copy(staging, copied, (name for name in storage.walk(staging) if name != NOTE))


def staging_folders(output: str) -> list[str]:
    """Paths of the staging folders in `output`: of killed runs and of detached jobs that are not committed yet."""
    return [storage.join(output, name) for name in storage.list_files(output) if name.startswith(PREFIX)]
