"""What a task cache is: the names of its files. writer.py makes one, reader.py reads it.

    info.{split}.json  stats.{split}.json  COMPLETED          as SeqIO 0.0.20 writes them
    {split}.tfrecord-SSSSS-of-NNNNN                           tf.train.Example records
    {split}.tfrecord-SSSSS-of-NNNNN.idx                       npy with one row per record (index.py)
    {split}.tfrecord-SSSSS-of-NNNNN.tokens                    `targets` again, ready to be used (token_file.py)
    lineage/{split}-SSSSS-of-NNNNN.parquet                    id and source of the document of each record
    manifest.json                                             written last; readers trust nothing else (manifest.py)
    plans/                                                    what readers have worked out from all that; no part of the cache

A record's shard is cut from its hash (`hashing.shard_of`) and a shard is sorted by (hash, id), so what is written depends on the seed and
the documents alone. The manifest holds the SHA-256 of the files above it and a checksum of itself.
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
REMAKE = "Make it again with castor data tokenize."
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.]*\Z")
_SHARD_FILE = re.compile(r"[A-Za-z0-9_]+\.tfrecord-\d{5}-of-\d{5}\Z")
_OWN_FILE = re.compile(
    r"([A-Za-z0-9_]+\.tfrecord-\d+-of-\d+(\.idx|\.tokens)?|(info|stats)\.[A-Za-z0-9_]+\.json|COMPLETED|manifest\.json"
    r"|lineage/[A-Za-z0-9_]+-\d+-of-\d+\.parquet)\Z"
)


def shard_file(split: str, shard: int, num_shards: int) -> str:
    """Name of a shard's TFRecord file; its sidecar is this with `.idx`, its tokens are in this with `.tokens`."""
    return f"{split}.tfrecord-{shard:05d}-of-{num_shards:05d}"


def lineage_file(split: str, shard: int, num_shards: int) -> str:
    """Name of a shard's lineage file, relative to the cache."""
    return f"lineage/{split}-{shard:05d}-of-{num_shards:05d}.parquet"


def shard_paths(manifest: Mapping[str, Any]) -> list[str]:
    """Every shard, sidecar and lineage file of a manifest, relative to the cache."""
    paths = []
    for split, value in manifest["splits"].items():
        for number, shard in enumerate(value["shards"]):
            paths += [shard["file"], shard["file"] + ".idx", lineage_file(split, number, len(value["shards"]))]
            if shard.get("token_file"):
                paths.append(shard["file"] + ".tokens")
    return paths


def list_paths(directory: str) -> list[str]:
    """Names of the files of a cache, relative to it, one folder deep, without hidden ones and without plans."""
    if storage.is_remote(directory):  # where each look at a name is a question to a bucket
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
    """True if a file of this name, relative to its directory, belongs to some cache, this one or an older one."""
    return bool(_OWN_FILE.match(name))


def looks_like_cache(names: Iterable[str]) -> bool:
    """True if a directory with entries of these names was written as a cache, whole or not."""
    return any(name.startswith(STAGING_PREFIX) or name == COMPLETED or _SHARD_FILE.match(name) for name in names)


def check_names(names: Iterable[str]) -> None:
    """Raises CacheError for what cannot name a task or a split."""
    for name in names:
        if not isinstance(name, str) or not _NAME.match(name):
            raise CacheError(f"{name!r} cannot name a task or split.", "Use letters, digits, underscores and dots.")
