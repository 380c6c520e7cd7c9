"""Commits a corpus: adds up the shards' entries and makes the staged files the output, the manifest last."""

from typing import Any

from castor.pipelines.core import dead_letters
from castor.pipelines.core.funnel import Funnel, total
from castor.pipelines.corpus.layout import ENTRIES, FAILED, MANIFEST, OTHER_FILES, SHARD_PREFIX
from castor.tasks.errors import CorpusError
from castor.tasks.storage import storage


def read_entries(staging: str, num_shards: int) -> list[dict[str, Any]]:
    """The entries of all shards, in order. Raises CorpusError if an entry is missing."""
    folder = storage.join(staging, ENTRIES)
    names = [f"{shard:05d}.json" for shard in range(num_shards)]
    missing = sorted(set(names) - set(storage.list_files(folder)))
    if missing:
        raise CorpusError(
            f"the pipeline ended without writing {len(missing)} of {num_shards} shards ({folder}).",
            "Run the job again.",
        )
    return [storage.read_json(storage.join(folder, name)) for name in names]


def commit(staging: str, output: str, manifest: dict[str, Any]) -> None:
    """Makes the staged files the content of `output` and writes the manifest last.

    Removes the previous corpus from `output`; other folders in it stay.
    """
    storage.remove(storage.join(output, MANIFEST))
    storage.remove_tree(storage.join(staging, ENTRIES))
    for name in storage.list_files(output):
        if name.startswith(SHARD_PREFIX) or name in OTHER_FILES:
            path = storage.join(output, name)
            storage.remove_tree(path) if storage.is_directory(path) else storage.remove(path)
    storage.move(staging, output, storage.list_files(staging))
    storage.remove_tree(staging)
    storage.write_json_atomic(storage.join(output, MANIFEST), manifest)


def keep_failure(staging: str, output: str) -> str:
    """Moves the dead letters of a failed run to a hidden folder, which the next run removes. Returns the folder."""
    folder = storage.join(output, FAILED)
    storage.remove_tree(folder)
    storage.makedirs(folder)
    if storage.exists(storage.join(staging, dead_letters.FOLDER)):
        storage.rename(storage.join(staging, dead_letters.FOLDER), storage.join(folder, dead_letters.FOLDER))
    storage.remove_tree(staging)
    return folder


def sum_funnels(entries: list[dict[str, Any]]) -> Funnel:
    """The funnel of the whole job, from the entries of its shards."""
    return total(Funnel.from_json(entry["funnel"]) for entry in entries)
