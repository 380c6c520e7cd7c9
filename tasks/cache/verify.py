"""Is a task cache exactly what was written? Names every file that is not, and why.

The quick check looks at names and sizes. The deep check, the default, reads every byte: checksums of all files, the CRC of every record,
and that sidecar, lineage, order, token counts and vocabulary range say what the records say. It never stops at the first problem.
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
    """One thing wrong with one file. kind: missing, stale, cut, checksum, record, sidecar, tokens, lineage, order, vocabulary, stats,
    manifest."""

    file: str
    kind: str
    message: str

    def __str__(self) -> str:
        return f"{self.file}: {self.kind}: {self.message}"


def verify(directory: str, deep: bool = True) -> list[Problem]:
    """All problems of a cache, sorted by file; empty if it is sound. directory: of one cache. deep: read every byte."""
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
    seen: dict[tuple[str, str], int] = {}
    for problem in problems:
        count = seen[problem.file, problem.kind] = seen.get((problem.file, problem.kind), 0) + 1
        if count <= _MAX_PER_FILE:
            yield problem
    for (file, kind), count in seen.items():
        if count > _MAX_PER_FILE:
            yield Problem(file, kind, f"~ and {count - _MAX_PER_FILE} more of this kind")


def _manifest(manifest: Manifest) -> Iterator[Problem]:
    if manifest.data.get("checksum") != manifest_checksum(manifest.data):
        yield Problem(layout.MANIFEST, "checksum", "it is not as it was written: its own checksum differs")
    for split in manifest.splits:
        for name, expected in (
            (f"info.{split}.json", seqio_info(manifest.data, split)),
            (f"stats.{split}.json", seqio_stats(manifest.shards(split), manifest.features)),
        ):
            path = storage.join(manifest.directory, name)
            if storage.exists(path):
                text = json.dumps(expected, sort_keys=True, indent=2) + "\n"
                if storage.read_bytes(path) != text.encode():
                    yield Problem(name, "stats", "it does not say what the manifest says")
    completed = storage.join(manifest.directory, layout.COMPLETED)
    if storage.exists(completed) and storage.size(completed):
        yield Problem(layout.COMPLETED, "checksum", "it should be empty")


def _presence(manifest: Manifest) -> Iterator[Problem]:
    expected = set(manifest.paths())
    present = set(layout.list_paths(manifest.directory))
    for name in sorted(expected - present):
        yield Problem(name, "missing", "the manifest lists it; make the cache again with castor data tokenize")
    for name in sorted(present - expected - {layout.MANIFEST}):
        yield Problem(name, "stale", "the manifest does not list it; remove it")
    for name in storage.list_files(manifest.directory):
        if name.startswith(layout.STAGING_PREFIX):
            yield Problem(name, "stale", "a killed run left it (or one is writing now); the next run removes it")


def _shard(manifest: Manifest, split: str, number: int, shard: Mapping[str, Any], deep: bool) -> Iterator[Problem]:
    directory, name = manifest.directory, shard["file"]
    path, index_name = storage.join(directory, name), name + ".idx"
    lineage_name = layout.lineage_file(split, number, len(manifest.shards(split)))
    sound = storage.exists(path)
    if sound and storage.size(path) != shard["bytes"]:
        yield Problem(
            name,
            "cut" if storage.size(path) < shard["bytes"] else "checksum",
            f"{storage.size(path)} bytes; the manifest says {shard['bytes']}",
        )
    tokens = shard.get("token_file") or {}
    tokens_path = storage.join(directory, name + ".tokens")
    if tokens and storage.exists(tokens_path) and storage.size(tokens_path) != tokens["bytes"]:
        kind = "cut" if storage.size(tokens_path) < tokens["bytes"] else "checksum"
        yield Problem(name + ".tokens", kind, f"{storage.size(tokens_path)} bytes; the manifest says {tokens['bytes']}")
    index = lineage = None
    if storage.exists(storage.join(directory, index_name)):
        try:
            index = cache_reader.load_index(storage.join(directory, index_name), manifest.features, shard["records"])
        except CacheError as error:
            yield Problem(index_name, "sidecar", str(error))
    if not deep:
        return
    if sound:
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
    if sound:
        stored = storage.map_bytes(tokens_path) if tokens and storage.exists(tokens_path) else None
        yield from _records(manifest, shard, storage.map_bytes(path), index, stored)


def _checksum(directory: str, name: str, expected: str) -> Iterator[Problem]:
    path = storage.join(directory, name)
    if storage.exists(path) and storage.sha256(path) != expected:
        yield Problem(name, "checksum", "its SHA-256 is not the manifest's: the file was changed or damaged")


def _order(manifest: Manifest, split: str, number: int, name: str, ids: list[str]) -> Iterator[Problem]:
    """Ids must be in the order, and in the shard, that the seed gives them."""
    shards, previous = len(manifest.shards(split)), None
    for row, document in enumerate(ids):
        try:
            place = hashing.record_hash(manifest.seed, document)
        except (ValueError, TypeError):
            yield Problem(name, "lineage", f"row {row}: {document!r} is no document id")
            continue
        if hashing.shard_of(place, shards) != number:
            yield Problem(name, "order", f"row {row}: document {document} belongs to another shard")
        if previous is not None and (place, document) <= previous:
            yield Problem(name, "order", f"row {row}: document {document} stands out of order or twice")
        previous = (place, document)


def _block_counts(manifest: Manifest, shard: Mapping[str, Any], index: np.ndarray) -> Iterator[Problem]:
    """What the manifest says of a shard's blocks must be what its sidecar gives, where it was counted as it would be now."""
    if manifest.data.get("packing") != PACKING:
        return
    for table, expected in (
        ("rows", count_rows(index, manifest.features)),
        ("blocks", count_blocks(index, manifest.features)),
    ):
        for key, found in sorted(shard.get(table, {}).items()):
            if found != expected.get(key):
                yield Problem(shard["file"], "stats", f"{table} of {key} are not what the sidecar gives")


def _records(
    manifest: Manifest,
    shard: Mapping[str, Any],
    data: np.ndarray,
    index: np.ndarray | None,
    stored: np.ndarray | None,
) -> Iterator[Problem]:
    """What the records say must be what sidecar, file of tokens and manifest say of them. stored: bytes of the file of tokens."""
    name, place = shard["file"], 0
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
            if stored[place : place + len(expected)].tobytes() != expected:
                yield Problem(name + ".tokens", "tokens", f"record {count} has other tokens there, or a wrong checksum")
            place += len(expected)
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
                    f"record {count}: tokens from {array.min()} to {array.max()}; the vocabulary ends at {size - 1}",
                )
        count += 1
    if count != shard["records"]:
        yield Problem(name, "record", f"{count} records; the manifest says {shard['records']}")
    for feature, total in tokens.items():
        if total != shard["tokens"][feature]:
            yield Problem(name, "stats", f"{total} of {feature} in all; the manifest says {shard['tokens'][feature]}")
