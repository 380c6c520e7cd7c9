"""The staging folder of a job: a hidden folder inside its output, which the pipeline writes into and a commit empties."""

import uuid

from castor.tasks.errors import ConfigurationError
from castor.tasks.storage import storage

PREFIX = ".staging-"


def new_staging(output: str) -> str:
    """Removes the staging folders of killed runs from `output`, makes an empty one and returns its path."""
    try:
        storage.makedirs(output)
    except OSError as error:
        raise ConfigurationError(
            f"OUTPUT {output} cannot be made a directory: {error.strerror}.", "Choose another."
        ) from error
    for name in storage.list_files(output):
        if name.startswith(PREFIX):
            storage.remove_tree(storage.join(output, name))
    staging = storage.join(output, PREFIX + uuid.uuid4().hex)
    storage.makedirs(staging)
    return staging


def staging_folders(output: str) -> list[str]:
    """Paths of the staging folders in `output`, of runs that were killed or have not been committed yet."""
    return [storage.join(output, name) for name in storage.list_files(output) if name.startswith(PREFIX)]
