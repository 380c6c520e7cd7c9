"""Verifies a task cache: lists every file that differs from what was written, and how.

The quick check compares names and sizes. The deep check, the default, reads every byte. It compares the checksums of
all files and the CRC of every record. It also compares .idx file, lineage, order, token counts and vocabulary range
with the records. Verification reports all problems, not only the first.
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from castor.tasks import hashing
from castor.tasks.cache import layout, records
from castor.tasks.cache import reader as cache_reader
from castor.tasks.cache.features import feature_shape
from castor.tasks.cache.index import PACKING, count_blocks, count_rows
from castor.tasks.cache.manifest import Manifest, manifest_checksum, read_manifest, seqio_info, seqio_stats
from castor.tasks.cache.token_file import encode_tokens
from castor.tasks.errors import CacheError
from castor.tasks.storage import storage

_MAX_PER_FILE = 5


@dataclasses.dataclass(frozen=True)
class Problem:
    """One problem of one file.

    file: path relative to the cache.

    kind: missing, stale, cut, checksum, record, sidecar, tokens, lineage, order, vocabulary, stats or manifest.

    message: description for the user.
    """

    file: str
    kind: str
    message: str

    def __str__(self) -> str:
        return f"{self.file}: {self.kind}: {self.message}"


def verify(directory: str, deep: bool = True) -> list[Problem]:
    """All problems of a cache, sorted by file; empty for an intact cache.

    directory: directory of the cache.

    deep: whether to read every byte.
    """
    try:
        manifest = read_manifest(directory)
    except CacheError as error:
        return [Problem(layout.MANIFEST, "manifest", str(error))]
    problems = [*_manifest(manifest), *_presence(manifest)]
    for split in manifest.splits:
        for number, shard in enumerate(manifest.shards(split)):
            problems += _limited(_shard(manifest, split, number, shard, deep))
    for name, digest in sorted(manifest.data.get("files", {}).items()):
        problems += _checksum(directory, name, digest) if deep else ()
    return sorted(set(problems), key=_by_file)


def _by_file(problem: Problem):
    return problem.file, problem.kind, problem.message


def _limited(problems: Iterator[Problem]) -> Iterator[Problem]:
    counts: dict[tuple[str, str], int] = {}
    for problem in problems:
        count = counts[problem.file, problem.kind] = counts.get((problem.file, problem.kind), 0) + 1
        if count <= _MAX_PER_FILE:
            yield problem
    for (file, kind), count in counts.items():
        if count > _MAX_PER_FILE:
            yield Problem(file, kind, f"~ and {count - _MAX_PER_FILE} more of this kind")


def _manifest(manifest: Manifest) -> Iterator[Problem]:
    if manifest.data.get("checksum") != manifest_checksum(manifest.data):
        yield Problem(layout.MANIFEST, "checksum", "the manifest's own checksum differs: it was changed after writing")
    for split in manifest.splits:
        for name, expected in (
            (f"info.{split}.json", seqio_info(manifest.data, split)),
            (f"stats.{split}.json", seqio_stats(manifest.shards(split), manifest.features)),
        ):
            path = storage.join(manifest.directory, name)
            if storage.exists(path):
                text = json.dumps(expected, sort_keys=True, indent=2) + "\n"
                if storage.read_bytes(path) != text.encode():
                    yield Problem(name, "stats", "its content differs from the manifest")
    completed = storage.join(manifest.directory, layout.COMPLETED)
    if storage.exists(completed) and storage.size(completed):
        yield Problem(layout.COMPLETED, "checksum", "it should be empty")


def _presence(manifest: Manifest) -> Iterator[Problem]:
    expected = set(manifest.paths())
    present = set(layout.list_paths(manifest.directory))
    for name in sorted(expected - present):
        yield Problem(name, "missing", "the manifest lists it; remake the cache with castor data tokenize")
    for name in sorted(present - expected - {layout.MANIFEST}):
        yield Problem(name, "stale", "the manifest does not list it; remove it")
    for name in storage.list_files(manifest.directory):
        if name.startswith(layout.STAGING_PREFIX):
            yield Problem(name, "stale", "left by a killed run, or in use by a running job; the next run removes it")


def _shard(manifest: Manifest, split: str, number: int, shard: Mapping[str, Any], deep: bool) -> Iterator[Problem]:
    directory, name = manifest.directory, shard["file"]
    path, index_name = storage.join(directory, name), name + ".idx"
    lineage_name = layout.lineage_file(split, number, len(manifest.shards(split)))
    exists = storage.exists(path)
    if exists and storage.size(path) != shard["bytes"]:
        yield Problem(
            name,
            "cut" if storage.size(path) < shard["bytes"] else "checksum",
            f"{storage.size(path)} bytes; the manifest has {shard['bytes']}",
        )
    tokens = shard.get("token_file") or {}
    tokens_path = storage.join(directory, name + ".tokens")
    if tokens and storage.exists(tokens_path) and storage.size(tokens_path) != tokens["bytes"]:
        kind = "cut" if storage.size(tokens_path) < tokens["bytes"] else "checksum"
        yield Problem(name + ".tokens", kind, f"{storage.size(tokens_path)} bytes; the manifest has {tokens['bytes']}")
    index = lineage = None
    if storage.exists(storage.join(directory, index_name)):
        try:
            index = cache_reader.load_index(storage.join(directory, index_name), manifest.features, shard["records"])
        except CacheError as error:
            yield Problem(index_name, "sidecar", str(error))
    if not deep:
        return
    if exists:
        yield from _checksum(directory, name, shard["sha256"])
    if storage.exists(storage.join(directory, index_name)):
        damaged = list(_checksum(directory, index_name, shard["idx_sha256"]))
        yield from damaged
        if index is not None and not damaged:
            yield from _block_counts(manifest, shard, index)
    if storage.exists(storage.join(directory, lineage_name)):
        yield from _checksum(directory, lineage_name, shard["lineage_sha256"])
        try:
            lineage = cache_reader.load_lineage(storage.join(directory, lineage_name), shard["records"])
        except CacheError as error:
            yield Problem(lineage_name, "lineage", str(error))
    if lineage is not None:
        yield from _order(manifest, split, number, lineage_name, lineage["id"].to_pylist())
    if tokens:
        yield from _checksum(directory, name + ".tokens", tokens["sha256"])
    if exists:
        stored = storage.map_bytes(tokens_path) if tokens and storage.exists(tokens_path) else None
        yield from _records(manifest, shard, storage.map_bytes(path), index, stored)


def _checksum(directory: str, name: str, expected: str) -> Iterator[Problem]:
    path = storage.join(directory, name)
    if storage.exists(path) and storage.sha256(path) != expected:
        yield Problem(name, "checksum", "its SHA-256 differs from the manifest: the file was changed or damaged")


def _order(manifest: Manifest, split: str, number: int, name: str, ids: list[str]) -> Iterator[Problem]:
    """Checks that ids are in the shard, and in the order, that the seed gives them."""
    shards, previous = len(manifest.shards(split)), None
    for row, document in enumerate(ids):
        try:
            key = hashing.record_hash(manifest.seed, document)
        except (ValueError, TypeError):
            yield Problem(name, "lineage", f"row {row}: {document!r} is not a document id")
            continue
        if hashing.shard_of(key, shards) != number:
            yield Problem(name, "order", f"row {row}: document {document} belongs to another shard")
        if previous is not None and (key, document) <= previous:
            yield Problem(name, "order", f"row {row}: document {document} is out of order or repeated")
        previous = (key, document)


def _block_counts(manifest: Manifest, shard: Mapping[str, Any], index: np.ndarray) -> Iterator[Problem]:
    """Compares the block counts in the manifest with the .idx file, if they were counted with this packing version."""
    if manifest.data.get("packing") != PACKING:
        return
    for table, expected in (
        ("rows", count_rows(index, manifest.features)),
        ("blocks", count_blocks(index, manifest.features)),
    ):
        for key, found in sorted(shard.get(table, {}).items()):
            if found != expected.get(key):
                yield Problem(shard["file"], "stats", f"{table} of {key} differ from the .idx file")


def _records(
    manifest: Manifest,
    shard: Mapping[str, Any],
    data: np.ndarray,
    index: np.ndarray | None,
    stored: np.ndarray | None,
) -> Iterator[Problem]:
    """Compares the records with .idx file, token file and manifest. stored: bytes of the token file."""
    name, position = shard["file"], 0
    size = int(manifest.vocabulary.get("size", 0) or 0)
    tokens = dict.fromkeys(manifest.features, 0)
    count, reader = 0, records.iterate_records(data, name)
    while True:
        try:
            offset, payload = next(reader)
        except StopIteration:
            break
        except CacheError as error:
            yield Problem(name, "record", f"record {count}: {error.what}")
            return
        try:
            arrays = records.decode_example(payload, f"{name} record {count}")
        except CacheError as error:
            yield Problem(name, "record", error.what)
            arrays = {}
        if index is not None and count < len(index) and int(index["offset"][count]) != offset:
            yield Problem(
                name + ".idx", "sidecar", f"record {count} starts at byte {offset}, not {int(index['offset'][count])}"
            )
        if stored is not None:
            expected = encode_tokens(arrays.get("targets", np.zeros(0, np.int64)), shard["token_file"]["dtype"])
            if stored[position : position + len(expected)].tobytes() != expected:
                yield Problem(name + ".tokens", "tokens", f"record {count} has other tokens or a wrong checksum")
            position += len(expected)
        for feature, spec in manifest.features.items():
            array = arrays.get(feature, np.zeros(0, np.int64))
            width = int(np.prod([w for w in feature_shape(spec)[1:]])) if spec["rank"] > 1 else 1
            length = array.size // max(width, 1)
            tokens[feature] += length
            if index is not None and count < len(index) and int(index[feature][count]) != length:
                yield Problem(
                    name + ".idx",
                    "sidecar",
                    f"record {count} has {length} of {feature}, not {int(index[feature][count])}",
                )
            outside = (
                feature == "targets"
                and size
                and array.size
                and array.dtype.kind == "i"
                and not 0 <= array.min() <= array.max() < size
            )
            if outside:
                yield Problem(
                    name,
                    "vocabulary",
                    f"record {count}: tokens from {array.min()} to {array.max()}; the largest id is {size - 1}",
                )
        count += 1
    if count != shard["records"]:
        yield Problem(name, "record", f"{count} records; the manifest has {shard['records']}")
    for feature, total in tokens.items():
        if total != shard["tokens"][feature]:
            yield Problem(name, "stats", f"{total} of {feature} in total; the manifest has {shard['tokens'][feature]}")
