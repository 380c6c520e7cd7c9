"""Exports a task cache to files for other trainers and tools: one file per shard, in cache order, and a manifest.

    {split}-SSSSS-of-NNNNN.arrayrecord   the tf.train.Example bytes of each record; group_size:1 for random reads
    {split}-SSSSS-of-NNNNN.parquet       columns id, source and one per feature: list<int32|int64|float32>. A feature of
                                         higher rank is list<fixed_size_list<...>>, so the schema has its shape.
                                         Compressed with zstd, in bounded row groups
    manifest.json                        kind "export", format, content fingerprint, counts and SHA-256 per file

The bytes depend only on the cache and on the version of the library that writes the format. Files are completed in
STAGING, which the globs of readers do not match, and are published together. A stopped run resumes: an existing file
is kept if its SHA-256 is right. Memory does not grow with the cache.
"""

import dataclasses
import difflib
import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from castor.tasks.cache import layout
from castor.tasks.cache import reader as cache_reader
from castor.tasks.cache.features import feature_shape
from castor.tasks.cache.manifest import Manifest, load_manifest
from castor.tasks.errors import CacheError, CastorError, ConfigurationError
from castor.tasks.storage import lock, storage

FORMATS = ("arrayrecord", "parquet")
VERSION = 1
MANIFEST = "manifest.json"
STAGING = ".export"
ROW_GROUP_BYTES, ROW_GROUP_RECORDS = 32 << 20, 1 << 16
"""A row group ends with the record that reaches this number of uncompressed bytes or this number of records."""

_PLAN = "plan.json"
_MADE_FROM = {"cache_sha256": "sha256", "cache_lineage_sha256": "lineage_sha256"}
_ARRAYRECORD_OPTIONS = "group_size:1,zstd:3"
_ZSTD_LEVEL = 3
_SHARDS_PER_READER = 16  # a reader keeps every shard that it has read mapped
_RECORDS_PER_PROGRESS = 1024  # records between calls of `advance`
_AGAIN = "Run the same command again: finished files are kept."


@dataclasses.dataclass(frozen=True)
class Export:
    """A finished export.

    directory: directory of the files.

    manifest: content of its manifest.json.

    written: number of files that this run wrote.

    kept: number of files of the requested splits that an earlier run had written.
    """

    directory: str
    manifest: Mapping[str, Any]
    written: int
    kept: int


def export(
    cache_dir: str,
    output: str,
    to: str,
    splits: Sequence[str] = (),
    advance: Callable[[int], None] = lambda records: None,
) -> Export:
    """Exports splits of a cache and returns once the manifest is written.

    cache_dir: directory of the cache.

    output: directory of the export.

    to: one of FORMATS.

    splits: splits to export; empty for all. Splits of earlier exports stay.

    advance: called with the number of further finished records.

    Raises CacheError for a damaged cache, a cache that is replaced during the export, and a full disk. Raises
    ConfigurationError for an unknown format or split, a missing library, and an `output` with other content than an
    export of this cache in this format.
    """
    cache_dir, output = os.fspath(cache_dir), os.fspath(output)
    if to not in FORMATS:
        close = difflib.get_close_matches(str(to), FORMATS, n=1)
        remedy = f"Did you mean {close[0]}?" if close else f"The formats are {', '.join(FORMATS)}."
        raise ConfigurationError(f"export format {to!r} is unknown.", remedy)
    manifest = load_manifest(cache_dir)
    splits = list(dict.fromkeys(splits)) or list(manifest.splits)
    for split in splits:
        manifest.shards(split)
    write = {"arrayrecord": _write_arrayrecord, "parquet": _write_parquet}[to]
    _check_writable(to, manifest)
    plan = {
        "kind": "export",
        "format": to,
        "version": VERSION,
        "name": manifest.name,
        "content_fingerprint": manifest.content_fingerprint,
    }
    if storage.exists(output) and not storage.is_directory(output):
        raise ConfigurationError(f"{output} is a file.", "Name a directory as --output.")
    try:
        with lock.hold(output, "--output") as held:
            return _run(manifest, output, plan, _earlier(output, plan, cache_dir), splits, write, advance, held)
    except CastorError:
        raise
    except OSError as error:
        raise CacheError(
            f"the export of {cache_dir} to {output} stopped: {error}.", f"Check the cause (is the disk full?). {_AGAIN}"
        ) from error


def _run(manifest, output: str, plan, earlier, splits: Sequence[str], write, advance, held: lock.Held) -> Export:
    staging = storage.join(output, STAGING)
    storage.makedirs(staging)
    storage.write_json_atomic(storage.join(staging, _PLAN), plan)
    entries, staged, written = {split: [] for split in splits}, [], 0
    reader, reads = None, 0
    for split in splits:
        known = {entry.get("file"): entry for entry in earlier.get(split, {}).get("files", ())}
        for shard, shard_entry in enumerate(manifest.shards(split)):
            name = export_file(split, shard, len(manifest.shards(split)), plan["format"])
            entry, directory = _finished(name, shard_entry, known.get(name), output, staging)
            if entry is None:
                if reader is None or reader.split != split or reads == _SHARDS_PER_READER:
                    reader, reads = _reader(manifest, split), 0
                entry, directory = _write_shard(reader, shard, shard_entry, name, staging, write, advance), staging
                reads, written = reads + 1, written + 1
            else:
                advance(shard_entry["records"])
            entries[split].append(entry)
            if directory == staging:
                staged.append(name)
    held.check()
    for name in staged:
        storage.rename(storage.join(staging, name), storage.join(output, name))
    data = _manifest(manifest, plan, {**earlier, **{split: _counted(files) for split, files in entries.items()}})
    storage.write_json_atomic(storage.join(output, MANIFEST), data)
    storage.remove_tree(staging)
    return Export(output, data, written, sum(map(len, entries.values())) - written)


def export_file(split: str, shard: int, num_shards: int, to: str) -> str:
    """Name of the exported file of a shard."""
    return f"{split}-{shard:05d}-of-{num_shards:05d}.{to}"


# ------------------------------------------------------------------------------------------------- earlier exports


def _earlier(output: str, plan: Mapping[str, Any], cache_dir: str) -> dict[str, Any]:
    """The splits in an earlier export of the same cache in the same format; empty if there is none or it was stopped.

    Raises ConfigurationError if `output` has other content.
    """
    for path in (storage.join(output, MANIFEST), storage.join(output, STAGING, _PLAN)):
        if storage.exists(path):
            try:
                found = storage.read_json(path)
                different = [key for key in plan if key != "name" and found.get(key) != plan[key]]
                splits = found.get("splits", {})
                if not different and all(
                    isinstance(entry, dict) for split in splits.values() for entry in split["files"]
                ):
                    return splits
            except (ValueError, OSError, AttributeError, KeyError, TypeError):
                found, different = {}, ["kind"]
            raise ConfigurationError(_refusal(output, found, (different or ["kind"])[0], cache_dir), _elsewhere(output))
    if any(not name.startswith(".") for name in storage.list_files(output)):
        raise ConfigurationError(f"{output} is not empty and has no export of {cache_dir}.", _elsewhere(output))
    return {}


def _refusal(output: str, found: Mapping[str, Any], key: str, cache_dir: str) -> str:
    if key == "kind":
        kind = f"a {found['kind']}" if found.get("kind") else "a manifest.json"
        return f"{output} has {kind}, not an export of {cache_dir}."
    if key == "content_fingerprint":
        return f"{output} has an export of {found.get('name')}, and the content of {cache_dir} is different now."
    return f"{output} has an export with {key} {found.get(key)}."


def _elsewhere(output: str) -> str:
    return f"Name another --output, or remove {output} first."


def _finished(
    name: str, shard_entry: Mapping[str, Any], known: Mapping[str, Any] | None, output: str, staging: str
) -> tuple[Any, str]:
    """(entry, directory) of a shard's exported file if it is complete and made from this shard; else (None, "")."""
    try:
        known = storage.read_json(storage.join(staging, name + ".json"))
    except (ValueError, OSError):
        pass
    for directory in (staging, output) if known else ():
        path = storage.join(directory, name)
        if storage.exists(path) and (entry := _entry(name, shard_entry, path)) == known:
            return entry, directory
    return None, ""


def _entry(name: str, shard_entry: Mapping[str, Any], path: str) -> dict[str, Any]:
    """The manifest entry of an exported file."""
    return {
        "file": name,
        "records": shard_entry["records"],
        "tokens": dict(shard_entry["tokens"]),
        "bytes": storage.size(path),
        "sha256": storage.sha256(path),
        **{key: shard_entry[field] for key, field in _MADE_FROM.items()},
    }


# ------------------------------------------------------------------------------------------------- one file


def _write_shard(
    reader, shard: int, shard_entry: Mapping[str, Any], name: str, staging: str, write, advance
) -> dict[str, Any]:
    """Writes a shard's file into the staging directory, then its entry, which marks the file as complete."""
    path = storage.join(staging, name)
    unfinished = storage.join(staging, f".{name}.{uuid.uuid4().hex}.tmp")  # concurrent runs do not mix
    try:
        write(unfinished, reader, shard, shard_entry, advance)
        source = storage.join(reader.directory, shard_entry["file"])
        if storage.sha256(source) != shard_entry["sha256"]:
            raise CacheError(
                f"{source} differs from its SHA-256 in the manifest.",
                f"Run castor tasks verify {reader.directory} for details.",
            )
        entry = _entry(name, shard_entry, unfinished)
        storage.rename(unfinished, path)
    except BaseException:
        storage.remove(unfinished)
        raise
    storage.write_json_atomic(path + ".json", entry)
    return entry


def _reader(manifest: Manifest, split: str):
    reader = cache_reader.CacheReader(manifest.directory, split)
    if reader.manifest.data != manifest.data:
        raise CacheError(f"cache {manifest.directory} was remade during its export.", "Run the same command again.")
    return reader


def _rows(reader, shard: int) -> range:
    return range(int(reader.starts[shard]), int(reader.starts[shard + 1]))


def _check_writable(to: str, manifest: Manifest) -> None:
    if to == "arrayrecord":
        _array_record_module()
    elif clash := {"id", "source"} & set(manifest.features):
        what = (
            f"cache {manifest.directory} has a feature {clash.pop()!r}, which is a fixed column of the Parquet files."
        )
        raise ConfigurationError(what, "Use --to=arrayrecord.")


def _array_record_module():
    try:
        from array_record.python import array_record_module
    except ImportError as error:
        raise ConfigurationError(
            "export to arrayrecord needs the library array-record.", "Run pip install 'castor[arrayrecord]'."
        ) from error
    return array_record_module


def _write_arrayrecord(path: str, reader, shard: int, shard_entry: Mapping[str, Any], advance) -> None:
    writer = _array_record_module().ArrayRecordWriter(path, _ARRAYRECORD_OPTIONS)
    try:
        rows = _rows(reader, shard)
        for start in range(rows.start, rows.stop, _RECORDS_PER_PROGRESS):
            some = rows[start - rows.start :][:_RECORDS_PER_PROGRESS]
            for record in some:
                writer.write(reader.payload(record))
            advance(len(some))
        writer.close()
    except RuntimeError as error:  # the library reports a full disk only in this way
        raise OSError(" ".join(str(error).split())) from error


def _write_parquet(path: str, reader, shard: int, shard_entry: Mapping[str, Any], advance) -> None:
    import pyarrow
    import pyarrow.parquet

    features = reader.manifest.features
    types = {name: _arrow_type(spec) for name, spec in sorted(features.items())}
    schema = pyarrow.schema({"id": pyarrow.string(), "source": pyarrow.string(), **types})
    path_of_lineage = storage.join(reader.directory, layout.lineage_file(reader.split, shard, reader.num_shards))
    lineage = cache_reader.load_lineage(path_of_lineage, shard_entry["records"], shard_entry["lineage_sha256"])
    with (
        storage.open_write(path) as file,
        pyarrow.parquet.ParquetWriter(
            file, schema, version="2.6", compression="zstd", compression_level=_ZSTD_LEVEL
        ) as writer,
    ):
        group, size, rows = [], 0, _rows(reader, shard)
        for row, record in enumerate(rows, start=1):
            group.append(reader[record])
            size += sum(array.nbytes for array in group[-1].values())
            if size >= ROW_GROUP_BYTES or len(group) == ROW_GROUP_RECORDS or row == len(rows):
                documents = lineage.slice(row - len(group), len(group))
                writer.write_table(_table(documents, group, schema), row_group_size=len(group))
                advance(len(group))
                group, size = [], 0


def _arrow_type(spec: Mapping[str, Any]):
    import pyarrow

    inner = {"int32": pyarrow.int32(), "int64": pyarrow.int64(), "float32": pyarrow.float32()}[spec["dtype"]]
    for width in reversed(feature_shape(spec)[1:]):
        inner = pyarrow.list_(inner, width)
    return pyarrow.list_(inner)


def _table(documents, group: Sequence[Mapping[str, np.ndarray]], schema):
    """The Arrow table of some records. documents: their ids and sources; group: their features."""
    import pyarrow

    columns = [documents["id"], documents["source"]]
    for field in list(schema)[2:]:
        arrays = [features[field.name] for features in group]
        offsets = np.concatenate([[0], np.cumsum([len(array) for array in arrays])]).astype(np.int32)
        columns.append(
            pyarrow.ListArray.from_arrays(offsets, _nested(np.concatenate(arrays), field.type.value_type), field.type)
        )
    return pyarrow.Table.from_arrays(columns, schema=schema)


def _nested(array: np.ndarray, kind):
    """An Arrow array of type `kind` that shares the memory of a numpy array."""
    import pyarrow

    widths, inner = [], kind
    while pyarrow.types.is_fixed_size_list(inner):
        widths, inner = [*widths, inner], inner.value_type
    result = pyarrow.array(array.ravel(), inner)
    for outer in reversed(widths):
        result = pyarrow.FixedSizeListArray.from_arrays(result, type=outer)
    return result


# ------------------------------------------------------------------------------------------------- the manifest


def _counted(files: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    features = files[0]["tokens"]
    tokens = {name: sum(file["tokens"][name] for file in files) for name in features}
    return {"records": sum(file["records"] for file in files), "tokens": tokens, "files": list(files)}


def _manifest(manifest: Manifest, plan: Mapping[str, Any], splits: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **plan,
        "modality": manifest.modality,
        "cache_fingerprint": manifest.fingerprint,
        "features": dict(manifest.features),
        "vocabulary": dict(manifest.vocabulary),
        "splits": dict(splits),
    }
