"""Writes a task cache atomically: `begin`, `write_shard` for each shard in any number of processes, `fill_shards`,
`build_manifest`, `commit`.

Until `commit`, all files are in a staging directory that readers ignore.
"""

import io
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from castor.tasks import hashing
from castor.tasks.cache import layout, records
from castor.tasks.cache.features import DTYPES, Record, checked_features, feature_shape, is_token_feature
from castor.tasks.cache.index import PACKING, count_blocks, count_rows, index_dtype, index_header
from castor.tasks.cache.manifest import FORMAT, ShardEntry, manifest_checksum, read_manifest, seqio_info, seqio_stats
from castor.tasks.cache.token_file import encode_tokens, token_dtype
from castor.tasks.errors import CacheError
from castor.tasks.storage import storage

_EOS_ID, _PAD_ID = 1, 0
_AGAIN = "Run the job again."


def begin(output_dir: str) -> str:
    """Creates a new staging directory in `output_dir`, removes those of killed runs, and returns its path."""
    storage.makedirs(output_dir)
    for name in storage.list_files(output_dir):
        if name.startswith(layout.STAGING_PREFIX):
            storage.remove_tree(storage.join(output_dir, name))
    staging = storage.join(output_dir, layout.STAGING_PREFIX + uuid.uuid4().hex)
    storage.makedirs(staging)
    return staging


def write_shard(
    staging_dir: str,
    split: str,
    shard: int,
    num_shards: int,
    records_: Iterable[Record],
    features: Mapping[str, Mapping[str, Any]],
    *,
    seed: int,
) -> ShardEntry:
    """Writes one shard with its .idx, token and lineage files under their final names in `staging_dir`.

    Writing a shard again replaces its files by the same bytes.

    staging_dir: staging directory from `begin`.

    split: name of the split.

    shard: index of the shard.

    num_shards: shards of the split.

    records_: records of the shard in any order; they are sorted here by (record_hash(seed, id), id).

    features: name -> {"dtype", "rank"[, "shape"]}, see features.py.

    seed: shuffle seed of the cache.

    Raises CacheError for a record of another shard, a repeated id, and a feature that differs from its declaration.
    """
    layout.check_names([split])
    features = checked_features(features)
    order = sorted(
        ((hashing.record_hash(seed, record.id), record.id, record) for record in records_), key=_by_hash_and_id
    )
    storage.makedirs(storage.join(staging_dir, "lineage"))
    name = layout.shard_file(split, shard, num_shards)
    index = np.zeros(len(order), dtype=index_dtype(features))
    totals = {kind: dict.fromkeys(features, 0) for kind in ("tokens", "content", "longest")}
    previous = None
    tokens = _TokenWriter(storage.join(staging_dir, name + ".tokens"), [record for _, _, record in order], features)
    with storage.HashingWriter(storage.join(staging_dir, name)) as file, tokens:
        for row, (key, document_id, record) in enumerate(order):
            if document_id == previous:
                raise CacheError(
                    f"document {document_id} ({record.source}) appears twice in split {split}.",
                    "Deduplicate the corpus by id first.",
                )
            if hashing.shard_of(key, num_shards) != shard:
                raise CacheError(
                    f"document {document_id} ({record.source}) does not belong to shard {shard} of {num_shards} "
                    f"under seed {seed}."
                )
            previous = document_id
            arrays = _checked_arrays(record, features)
            index["offset"][row] = file.bytes_written
            for feature, array in arrays.items():
                index[feature][row] = len(array)
                content = (
                    int(np.count_nonzero((array != _EOS_ID) & (array != _PAD_ID)))
                    if is_token_feature(features[feature])
                    else 0
                )
                totals["tokens"][feature] += len(array)
                totals["content"][feature] += content
                totals["longest"][feature] = max(totals["longest"][feature], content)
            file.write(records.frame(records.encode_example(arrays)))
            tokens.write(arrays)
        sha256, size = file.hexdigest(), file.bytes_written
    return ShardEntry(
        split=split,
        shard=shard,
        num_shards=num_shards,
        records=len(order),
        bytes=size,
        sha256=sha256,
        idx_sha256=_write(
            storage.join(staging_dir, name + ".idx"), index_header(index.dtype, len(index)) + index.tobytes()
        ),
        lineage_sha256=_write(
            storage.join(staging_dir, layout.lineage_file(split, shard, num_shards)),
            _lineage([record for _, _, record in order]),
        ),
        tokens=totals["tokens"],
        content_tokens=totals["content"],
        longest=totals["longest"],
        rows=count_rows(index, features),
        blocks=count_blocks(index, features),
        token_file=tokens.entry(),
    )


class _TokenWriter:
    """Writes the token file of a shard, if its targets are ids of TOKEN_DTYPES."""

    def __init__(self, path: str, records_: Sequence[Record], features: Mapping[str, Mapping[str, Any]]):
        self._file, self._dtype = None, None
        if "targets" in features and is_token_feature(features["targets"]):
            arrays = [np.asarray(record.features.get("targets", ())) for record in records_]
            ends = [(int(array.min()), int(array.max())) for array in arrays if array.size and array.dtype.kind in "iu"]
            if min((low for low, _ in ends), default=0) >= 0:
                self._dtype = token_dtype(max((high for _, high in ends), default=0))
        if self._dtype:
            self._file = storage.HashingWriter(path)

    def __enter__(self) -> "_TokenWriter":
        if self._file:
            self._file.__enter__()
        return self

    def write(self, arrays: Mapping[str, np.ndarray]) -> None:
        if self._file:
            self._file.write(encode_tokens(arrays["targets"], self._dtype))

    def __exit__(self, *error) -> None:
        if self._file:
            self._file.__exit__(*error)

    def entry(self) -> dict[str, Any]:
        """The manifest entry of the token file; empty if there is none."""
        if not self._file:
            return {}
        return {"dtype": self._dtype, "bytes": self._file.bytes_written, "sha256": self._file.hexdigest()}


def fill_shards(
    staging_dir: str,
    entries: Iterable[ShardEntry],
    splits: Mapping[str, int],
    features: Mapping[str, Mapping[str, Any]],
    *,
    seed: int,
) -> list[ShardEntry]:
    """Writes empty shards where no record fell, and returns all entries in order.

    staging_dir: staging directory from `begin`.

    entries: entries of the written shards.

    splits: split -> number of shards.

    features: name -> declaration, see features.py.

    seed: shuffle seed of the cache.
    """
    entries = {(e.split, e.shard): e for e in entries}
    for split, num_shards in splits.items():
        for shard in range(num_shards):
            if (split, shard) not in entries:
                entries[split, shard] = write_shard(staging_dir, split, shard, num_shards, (), features, seed=seed)
    return [entries[key] for key in sorted(entries)]


def build_manifest(
    *,
    name: str,
    modality: str,
    entries: Iterable[ShardEntry],
    features: Mapping[str, Mapping[str, Any]],
    seed: int,
    vocabulary: Mapping[str, Any],
    funnel: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
    fingerprint: str = "",
    code_fingerprint: str = "",
    inputs: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The manifest of a cache, without its checksum and extra files, which `commit` adds.

    name: name of the task.

    modality: modality of the documents.

    entries: entries of all shards.

    features: name -> declaration, see features.py.

    seed: shuffle seed of the cache.

    vocabulary: fingerprint, path and size of the vocabulary.

    funnel: counts of documents by stage of the job.

    config: configuration of the job.

    fingerprint: fingerprint of inputs, configuration and code.

    code_fingerprint: fingerprint of the code alone.

    inputs: inputs of the job.

    Raises CacheError if a split lacks a shard (see `fill_shards`) and for an invalid name.
    """
    splits: dict[str, dict[str, Any]] = {}
    counts: dict[str, int] = {}
    for entry in sorted(entries, key=_by_split_and_shard):
        split = splits.setdefault(entry.split, {"shards": [], "records": 0})
        if entry.shard != len(split["shards"]) or entry.shard >= entry.num_shards:
            raise CacheError(
                f"cache {name!r}: split {entry.split} lacks shard {len(split['shards'])} of {entry.num_shards} shards."
            )
        counts[entry.split] = entry.num_shards
        split["records"] += entry.records
        split["shards"].append(
            {
                "file": entry.file,
                "records": entry.records,
                "bytes": entry.bytes,
                "sha256": entry.sha256,
                "idx_sha256": entry.idx_sha256,
                "lineage_sha256": entry.lineage_sha256,
                "tokens": dict(entry.tokens),
                "content_tokens": dict(entry.content_tokens),
                "longest": dict(entry.longest),
                "rows": dict(entry.rows),
                "blocks": dict(entry.blocks),
                "token_file": dict(entry.token_file),
            }
        )
    for split, value in splits.items():
        if len(value["shards"]) != counts[split]:
            raise CacheError(f"cache {name!r}: split {split} has {len(value['shards'])} shards of {counts[split]}.")
    layout.check_names([name, *splits])
    return {
        "kind": "cache",
        "format": FORMAT,
        "name": name,
        "modality": modality,
        "splits": splits,
        "packing": dict(PACKING),
        "features": checked_features(features),
        "seed": seed,
        "vocabulary": dict(vocabulary),
        "funnel": dict(funnel or {}),
        "config": dict(config or {}),
        "fingerprint": fingerprint,
        "code_fingerprint": code_fingerprint,
        "inputs": dict(inputs or {}),
    }


def commit(staging_dir: str, output_dir: str, manifest: Mapping[str, Any]) -> None:
    """Publishes the staged shards as the cache at `output_dir` and replaces an older cache there.

    The order makes the commit atomic. First the old cache is invalidated (manifest, COMPLETED, info files) and its
    plans are removed. Then the staged files move in and stale files are removed. The manifest is written last. A
    process killed at any point leaves either a complete cache, or a directory that neither Castor nor SeqIO accepts
    as one.

    staging_dir: staging directory from `begin`. Files other than shards (a data card) are published too, and the
    manifest lists them under "files" with their SHA-256.

    output_dir: directory of the cache.

    manifest: manifest from `build_manifest`.

    Raises CacheError if a staged shard is missing or has another size than in the manifest.
    """
    manifest = dict(manifest)
    shard_files = set(layout.shard_paths(manifest))
    staged = set(layout.list_paths(staging_dir))
    if missing := sorted(shard_files - staged):
        raise CacheError(f"staging directory {staging_dir} lacks {missing[0]}.", _AGAIN)
    for split in manifest["splits"].values():
        for shard in split["shards"]:
            if storage.size(storage.join(staging_dir, shard["file"])) != shard["bytes"]:
                raise CacheError(f"staged shard {shard['file']} does not have {shard['bytes']} bytes.", _AGAIN)
    manifest["files"] = {name: storage.sha256(storage.join(staging_dir, name)) for name in sorted(staged - shard_files)}
    manifest["checksum"] = manifest_checksum(manifest)

    invalidate(output_dir)
    storage.remove_tree(storage.join(output_dir, layout.PLANS_FOLDER))
    for name in sorted(staged):
        if "/" in name:
            storage.makedirs(storage.join(output_dir, name.rpartition("/")[0]))
    storage.move(staging_dir, output_dir, sorted(staged))
    for name in layout.list_paths(output_dir):
        if layout.is_own_file(name) and name not in staged:
            storage.remove(storage.join(output_dir, name))
    for split, value in manifest["splits"].items():
        statistics = seqio_stats(value["shards"], manifest["features"])
        storage.write_json_atomic(storage.join(output_dir, f"info.{split}.json"), seqio_info(manifest, split), indent=2)
        storage.write_json_atomic(storage.join(output_dir, f"stats.{split}.json"), statistics, indent=2)
    storage.remove_tree(staging_dir)
    storage.write_bytes_atomic(storage.join(output_dir, layout.COMPLETED), b"")
    storage.write_json_atomic(storage.join(output_dir, layout.MANIFEST), manifest)


def invalidate(output_dir: str) -> None:
    """Removes the files that make a directory a cache: manifest first, then COMPLETED, info files and listed extra
    files.
    """
    extra: list[str] = []
    try:
        extra = list(read_manifest(output_dir).data.get("files", {}))
    except CacheError:
        pass
    names = storage.list_files(output_dir)
    for name in (
        layout.MANIFEST,
        layout.COMPLETED,
        *(n for n in names if n.startswith("info.") and n.endswith(".json")),
        *extra,
    ):
        storage.remove(storage.join(output_dir, name))


def _by_hash_and_id(item):
    return item[:2]


def _by_split_and_shard(entry: ShardEntry):
    return entry.split, entry.shard


def _checked_arrays(record: Record, features: Mapping[str, Mapping[str, Any]]) -> dict[str, np.ndarray]:
    if set(record.features) != set(features):
        raise CacheError(
            f"document {record.id} ({record.source}) has features {sorted(record.features)}; "
            f"the task declares {sorted(features)}."
        )
    arrays = {}
    for name, spec in features.items():
        array = np.asarray(record.features[name])
        dtype = np.dtype(DTYPES[spec["dtype"]])
        integer = dtype.kind == "i"
        empty_list = array.size == 0 and array.ndim == 1
        fits = empty_list or (array.dtype.kind in "iub" if integer else array.dtype.kind == "f")
        widths = feature_shape(spec)[1:]
        if (
            not fits
            or array.ndim != spec["rank"]
            or any(w is not None and w != g for w, g in zip(widths, array.shape[1:]))
        ):
            raise CacheError(
                f"document {record.id} ({record.source}): feature {name!r} is {array.dtype}{list(array.shape)}; "
                f"the task declares {spec}."
            )
        if (
            integer
            and array.size
            and not np.iinfo(dtype).min <= int(array.min()) <= int(array.max()) <= np.iinfo(dtype).max
        ):
            raise CacheError(
                f"document {record.id} ({record.source}): feature {name!r} has values outside the range of {dtype}."
            )
        arrays[name] = array.astype(dtype)
    return arrays


def _lineage(records_: Sequence[Record]) -> bytes:
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.table(
        {
            "id": pyarrow.array([r.id for r in records_], pyarrow.string()),
            "source": pyarrow.array([r.source.encode("utf-8", "replace").decode() for r in records_], pyarrow.string()),
        }
    )
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def _write(path: str, data: bytes) -> str:
    with storage.HashingWriter(path) as file:
        file.write(data)
        return file.hexdigest()
