"""The file layout of a task cache. writer.py writes caches, reader.py reads them.

    info.{split}.json  stats.{split}.json  COMPLETED          as SeqIO 0.0.20 writes them
    {split}.tfrecord-SSSSS-of-NNNNN                           tf.train.Example records
    {split}.tfrecord-SSSSS-of-NNNNN.idx                       npy with one row per record (index.py)
    {split}.tfrecord-SSSSS-of-NNNNN.tokens                    `targets` again as a flat array (token_file.py)
    lineage/{split}-SSSSS-of-NNNNN.parquet                    document id and source of each record
    manifest.json                                             written last; readers trust nothing else (manifest.py)
    plans/                                                    packing plans stored by readers; not part of the cache

The hash of a record selects its shard (`hashing.shard_of`), and a shard is sorted by (hash, id), so the files depend
only on the seed and the documents. The manifest has the SHA-256 of all files above it in the list, and a checksum of
itself.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from castor.tasks.errors import CacheError
from castor.tasks.storage import storage

MANIFEST = "manifest.json"
COMPLETED = "COMPLETED"
PLANS_FOLDER = "plans"
STAGING_PREFIX = ".staging-"
REMAKE = "Remake the cache with castor data tokenize."
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.]*\Z")
_SHARD_FILE = re.compile(r"[A-Za-z0-9_]+\.tfrecord-\d{5}-of-\d{5}\Z")
_OWN_FILE = re.compile(
    r"([A-Za-z0-9_]+\.tfrecord-\d+-of-\d+(\.idx|\.tokens)?|(info|stats)\.[A-Za-z0-9_]+\.json|COMPLETED|manifest\.json"
    r"|lineage/[A-Za-z0-9_]+-\d+-of-\d+\.parquet)\Z"
)


def shard_file(split: str, shard: int, num_shards: int) -> str:
    """The name of a shard's TFRecord file. The .idx and token files append `.idx` and `.tokens`."""
    return f"{split}.tfrecord-{shard:05d}-of-{num_shards:05d}"


def lineage_file(split: str, shard: int, num_shards: int) -> str:
    """The path of a shard's lineage file, relative to the cache."""
    return f"lineage/{split}-{shard:05d}-of-{num_shards:05d}.parquet"


def shard_paths(manifest: Mapping[str, Any]) -> list[str]:
    """All files of the shards in a manifest, relative to the cache: TFRecord, .idx, lineage and token files."""
    paths = []
    for split, value in manifest["splits"].items():
        for number, shard in enumerate(value["shards"]):
            paths += [shard["file"], shard["file"] + ".idx", lineage_file(split, number, len(value["shards"]))]
            if shard.get("token_file"):
                paths.append(shard["file"] + ".tokens")
    return paths


def list_paths(directory: str) -> list[str]:
    """The files of a cache, relative to it, one folder deep, without hidden files and plans."""
    if storage.is_remote(directory):  # a single listing: each query of one name would be a request to the bucket
        parts = [path.split("/") for path in storage.walk(directory)]
        return sorted(
            "/".join(p)
            for p in parts
            if len(p) <= 2 and p[0] != PLANS_FOLDER and not any(part.startswith(".") for part in p)
        )
    names = []
    for name in storage.list_files(directory):
        if name.startswith(".") or name == PLANS_FOLDER:
            continue
        if storage.is_directory(storage.join(directory, name)):
            inside = storage.list_files(storage.join(directory, name))
            names.extend(f"{name}/{inner}" for inner in inside if not inner.startswith("."))
        else:
            names.append(name)
    return names


def is_own_file(name: str) -> bool:
    """Whether a file of this name, relative to its directory, belongs to a cache, this one or an older one."""
    return bool(_OWN_FILE.match(name))


def looks_like_cache(names: Iterable[str]) -> bool:
    """Whether a directory with these entries was written as a cache, complete or not."""
    return any(name.startswith(STAGING_PREFIX) or name == COMPLETED or _SHARD_FILE.match(name) for name in names)


def check_names(names: Iterable[str]) -> None:
    """Raises CacheError for an invalid name of a task or a split."""
    for name in names:
        if not isinstance(name, str) or not _NAME.match(name):
            raise CacheError(f"{name!r} cannot name a task or split.", "Use letters, digits, underscores and dots.")
