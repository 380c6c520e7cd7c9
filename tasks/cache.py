"""The task cache: one directory a task, written in one stroke by `tokenize`, read at random by batches and in order by SeqIO.

    info.{split}.json  stats.{split}.json  COMPLETED          as SeqIO 0.0.20 writes them
    {split}.tfrecord-SSSSS-of-NNNNN                           tf.train.Example records
    {split}.tfrecord-SSSSS-of-NNNNN.idx                       npy of (offset <u8, one <u4 length a feature), a row a record
    lineage/{split}-SSSSS-of-NNNNN.parquet                    id and source of the document of each record
    manifest.json                                             written last; readers trust nothing else

A record's shard is cut from its hash (`hashing.shard_of`) and a shard is sorted by (hash, id), so what is written depends on the seed and
the documents alone. A writer calls `begin`, `write_shard` for each shard (from any number of processes), `fill_shards`,
`build_manifest` and `commit`; until `commit` all lies in a staging directory that no reader looks into.
"""

import bisect
import dataclasses
import io
import re
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from tasks import fingerprint, hashing, records, storage
from tasks.errors import CacheError

FORMAT = 1
MANIFEST = "manifest.json"
COMPLETED = "COMPLETED"
STAGING_PREFIX = ".staging-"
TARGETS = {"targets": {"dtype": "int32", "rank": 1}}
"""The features of an ordinary token cache. A feature of rank above 1 also names its shape: {"dtype", "rank", "shape": [None, 80]}."""

_SEQIO_VERSION = "0.0.20"
_EOS_ID, _PAD_ID = 1, 0
_DTYPES = {"int32": np.int32, "int64": np.int64, "float32": np.float32}
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.]*\Z")
_SHARD_FILE = re.compile(r"(?P<split>[A-Za-z0-9_]+)\.tfrecord-(?P<shard>\d{5})-of-(?P<count>\d{5})\Z")
_OWN_FILE = re.compile(r"([A-Za-z0-9_]+\.tfrecord-\d+-of-\d+(\.idx)?|(info|stats)\.[A-Za-z0-9_]+\.json|COMPLETED|manifest\.json)\Z")
_OWN_LINEAGE_FILE = re.compile(r"[A-Za-z0-9_]+-\d+-of-\d+\.parquet\Z")
_REMAKE = "Make it again with castor data tokenize."


# ---------------------------------------------------------------------------------------------------------------- records and names


@dataclasses.dataclass(frozen=True)
class Record:
    """One example of a task. `id` and `source` are its document's; features are arrays as the task's features declare them."""

    id: str
    source: str
    features: Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class ShardEntry:
    """What the manifest says of one shard. tokens: summed first axes by feature; content_tokens: without
    pad and eos; longest: of one record.
    """

    split: str
    shard: int
    num_shards: int
    records: int
    bytes: int
    sha256: str
    idx_sha256: str
    lineage_sha256: str
    tokens: Mapping[str, int]
    content_tokens: Mapping[str, int]
    longest: Mapping[str, int]

    @property
    def file(self) -> str:
        return shard_file(self.split, self.shard, self.num_shards)


def shard_file(split: str, shard: int, num_shards: int) -> str:
    """Name of a shard's TFRecord file; its sidecar is this with `.idx`."""
    return f"{split}.tfrecord-{shard:05d}-of-{num_shards:05d}"


def lineage_file(split: str, shard: int, num_shards: int) -> str:
    """Name of a shard's lineage file, relative to the cache."""
    return f"lineage/{split}-{shard:05d}-of-{num_shards:05d}.parquet"


def index_dtype(features: Iterable[str]) -> np.dtype:
    """The row of a sidecar: byte offset of the record, then the length (first axis) of each feature, by name."""
    return np.dtype([("offset", "<u8"), *((name, "<u4") for name in sorted(features))])


# ---------------------------------------------------------------------------------------------------------------- writing


def begin(output_dir: str) -> str:
    """Makes a fresh staging directory inside `output_dir` and removes what killed runs left there. Returns its path."""
    storage.makedirs(output_dir)
    for name in storage.list_files(output_dir):
        if name.startswith(STAGING_PREFIX):
            storage.remove_tree(storage.join(output_dir, name))
    staging = storage.join(output_dir, STAGING_PREFIX + uuid.uuid4().hex)
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
    """Writes one shard with its sidecar and lineage under their final names in `staging_dir`; writing it again replaces it by the same
    bytes.

    records_: in any order; sorted here by (record_hash(seed, id), id). features: name -> {"dtype", "rank"[, "shape"]}, see TARGETS.
    Raises CacheError for a record of another shard, an id met twice, or a feature that is missing or of another kind than declared.
    """
    _check_names([split])
    features = _checked_features(features)
    order = sorted(((hashing.record_hash(seed, record.id), record.id, record) for record in records_), key=_by_hash_and_id)
    storage.makedirs(storage.join(staging_dir, "lineage"))
    name = shard_file(split, shard, num_shards)
    index = np.zeros(len(order), dtype=index_dtype(features))
    totals = {kind: dict.fromkeys(features, 0) for kind in ("tokens", "content", "longest")}
    previous = None
    with storage.HashingWriter(storage.join(staging_dir, name)) as file:
        for row, (place, document_id, record) in enumerate(order):
            if document_id == previous:
                raise CacheError(
                    f"document {document_id} ({record.source}) comes twice in split {split}.", "Deduplicate the corpus by id first."
                )
            if hashing.shard_of(place, num_shards) != shard:
                raise CacheError(
                    f"document {document_id} ({record.source}) does not belong to shard {shard} of {num_shards} under seed {seed}."
                )
            previous = document_id
            arrays = _checked_arrays(record, features)
            index["offset"][row] = file.bytes_written
            for feature, array in arrays.items():
                index[feature][row] = len(array)
                content = int(np.count_nonzero((array != _EOS_ID) & (array != _PAD_ID))) if _is_tokens(features[feature]) else 0
                totals["tokens"][feature] += len(array)
                totals["content"][feature] += content
                totals["longest"][feature] = max(totals["longest"][feature], content)
            file.write(records.frame(records.encode_example(arrays)))
        sha256, size = file.hexdigest(), file.bytes_written
    return ShardEntry(
        split=split,
        shard=shard,
        num_shards=num_shards,
        records=len(order),
        bytes=size,
        sha256=sha256,
        idx_sha256=_write(storage.join(staging_dir, name + ".idx"), _npy(index)),
        lineage_sha256=_write(storage.join(staging_dir, lineage_file(split, shard, num_shards)), _lineage([r for _, _, r in order])),
        tokens=totals["tokens"],
        content_tokens=totals["content"],
        longest=totals["longest"],
    )


def fill_shards(
    staging_dir: str, entries: Iterable[ShardEntry], splits: Mapping[str, int], features: Mapping[str, Mapping[str, Any]], *, seed: int
) -> list[ShardEntry]:
    """Writes the empty shards that no record fell into, so that each split has `splits[split]` of them. Returns all entries, in order."""
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
    """The manifest of a cache from its shards. Raises CacheError if a split lacks a shard (see `fill_shards`) or for a bad name."""
    splits: dict[str, dict[str, Any]] = {}
    for entry in sorted(entries, key=_by_split_and_shard):
        split = splits.setdefault(entry.split, {"shards": [], "records": 0})
        if entry.shard != len(split["shards"]) or entry.shard >= entry.num_shards:
            raise CacheError(f"cache {name!r}: split {entry.split} lacks shard {len(split['shards'])} of {entry.num_shards}.")
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
            }
        )
    for split, value in splits.items():
        count = int(_SHARD_FILE.match(value["shards"][0]["file"])["count"])
        if len(value["shards"]) != count:
            raise CacheError(f"cache {name!r}: split {split} has {len(value['shards'])} shards of {count}.")
    _check_names([name, *splits])
    return {
        "kind": "cache",
        "format": FORMAT,
        "name": name,
        "modality": modality,
        "splits": splits,
        "features": _checked_features(features),
        "seed": seed,
        "vocabulary": dict(vocabulary),
        "funnel": dict(funnel or {}),
        "config": dict(config or {}),
        "fingerprint": fingerprint,
        "code_fingerprint": code_fingerprint,
        "inputs": dict(inputs or {}),
    }


def commit(staging_dir: str, output_dir: str, manifest: Mapping[str, Any]) -> None:
    """Makes the staged shards the cache at `output_dir`, replacing what was there.

    The old cache is invalidated first (manifest, COMPLETED, info), then files move in, stale ones go, and the manifest comes last: killed
    at any point, the directory is either a whole cache or, to Castor and to SeqIO, none. Other files in the staging directory (a data
    card) move in too and are listed in the manifest under "files" with their SHA-256.
    """
    manifest = dict(manifest)
    shard_files = set(_shard_paths(manifest))
    staged = set(list_paths(staging_dir))
    if missing := sorted(shard_files - staged):
        raise CacheError(f"staging directory {staging_dir} lacks {missing[0]}.", "Run the job again.")
    for split in manifest["splits"].values():
        for shard in split["shards"]:
            if storage.size(storage.join(staging_dir, shard["file"])) != shard["bytes"]:
                raise CacheError(f"staged shard {shard['file']} is not {shard['bytes']} bytes long.", "Run the job again.")
    manifest["files"] = {name: storage.sha256(storage.join(staging_dir, name)) for name in sorted(staged - shard_files)}
    manifest["checksum"] = checksum(manifest)

    invalidate(output_dir)
    for name in sorted(staged):
        if "/" in name:
            storage.makedirs(storage.join(output_dir, name.rpartition("/")[0]))
        storage.rename(storage.join(staging_dir, name), storage.join(output_dir, name))
    for name in list_paths(output_dir):
        own = _OWN_LINEAGE_FILE.match(name.removeprefix("lineage/")) if name.startswith("lineage/") else _OWN_FILE.match(name)
        if own and name not in staged:
            storage.remove(storage.join(output_dir, name))
    for split, value in manifest["splits"].items():
        storage.write_json_atomic(storage.join(output_dir, f"info.{split}.json"), info(manifest, split), indent=2)
        storage.write_json_atomic(storage.join(output_dir, f"stats.{split}.json"), stats(value["shards"], manifest["features"]), indent=2)
    storage.remove_tree(staging_dir)
    storage.write_bytes_atomic(storage.join(output_dir, COMPLETED), b"")
    storage.write_json_atomic(storage.join(output_dir, MANIFEST), manifest)


def checksum(manifest: Mapping[str, Any]) -> str:
    """Of all a manifest says but this; `castor tasks verify` compares it, so that the manifest too is known to be as it was written."""
    return fingerprint.of_json({key: value for key, value in manifest.items() if key != "checksum"})


def invalidate(output_dir: str) -> None:
    """Takes from a directory what makes it a cache to any reader: manifest first, then COMPLETED, info files and listed extra files."""
    extra: list[str] = []
    try:
        extra = list(load_manifest(output_dir).data.get("files", {}))
    except CacheError:
        pass
    names = storage.list_files(output_dir)
    for name in (MANIFEST, COMPLETED, *(n for n in names if n.startswith("info.") and n.endswith(".json")), *extra):
        storage.remove(storage.join(output_dir, name))


def info(manifest: Mapping[str, Any], split: str) -> dict[str, Any]:
    """What SeqIO reads of a cached split: number of shards, and shape and dtype of each feature."""
    features = {name: {"shape": shape_of(spec), "dtype": spec["dtype"]} for name, spec in manifest["features"].items()}
    return {"num_shards": len(manifest["splits"][split]["shards"]), "features": features, "seqio_version": _SEQIO_VERSION}


def stats(shards: Sequence[Mapping[str, Any]], features: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    """SeqIO's statistics of a split: examples, and for each token feature the tokens that are neither pad nor eos, in all and at most."""
    result = {"examples": sum(shard["records"] for shard in shards)}
    for name, spec in sorted(features.items()):
        if _is_tokens(spec):
            result[f"{name}_tokens"] = sum(shard["content_tokens"][name] for shard in shards)
            result[f"{name}_max_tokens"] = max((shard["longest"][name] for shard in shards), default=0)
    return result


def _by_hash_and_id(item):
    return item[:2]


def _by_split_and_shard(entry: ShardEntry):
    return entry.split, entry.shard


def _check_names(names: Iterable[str]) -> None:
    for name in names:
        if not isinstance(name, str) or not _NAME.match(name):
            raise CacheError(f"{name!r} cannot name a task or split.", "Use letters, digits, underscores and dots.")


def _checked_features(features: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    result = {}
    for name, spec in sorted(features.items()):
        if spec["dtype"] not in _DTYPES or name == "offset" or (spec["rank"] > 1 and len(spec.get("shape", ())) != spec["rank"]):
            raise CacheError(
                f"feature {name!r} is declared as {dict(spec)}.",
                'Declare {"dtype": int32, int64 or float32, "rank": n, "shape": if n > 1}.',
            )
        result[name] = dict(spec)
    return result


def _checked_arrays(record: Record, features: Mapping[str, Mapping[str, Any]]) -> dict[str, np.ndarray]:
    if set(record.features) != set(features):
        raise CacheError(f"document {record.id} ({record.source}) has features {sorted(record.features)}; the task has {sorted(features)}.")
    arrays = {}
    for name, spec in features.items():
        array = np.asarray(record.features[name])
        dtype = np.dtype(_DTYPES[spec["dtype"]])
        integer = dtype.kind == "i"
        empty_list = array.size == 0 and array.ndim == 1
        fits = empty_list or (array.dtype.kind in "iub" if integer else array.dtype.kind == "f")
        if not fits or array.ndim != spec["rank"] or any(w is not None and w != g for w, g in zip(shape_of(spec)[1:], array.shape[1:])):
            raise CacheError(
                f"document {record.id} ({record.source}): feature {name!r} is {array.dtype}{list(array.shape)}, declared as {spec}."
            )
        if integer and array.size and not np.iinfo(dtype).min <= int(array.min()) <= int(array.max()) <= np.iinfo(dtype).max:
            raise CacheError(f"document {record.id} ({record.source}): feature {name!r} holds values that are no {dtype}.")
        arrays[name] = array.astype(dtype)
    return arrays


def _is_tokens(spec: Mapping[str, Any]) -> bool:
    return spec["dtype"] in ("int32", "int64") and spec["rank"] == 1


def shape_of(spec: Mapping[str, Any]) -> list[int | None]:
    return list(spec["shape"]) if "shape" in spec else [None] * spec["rank"]


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, version=(1, 0), allow_pickle=False)
    return buffer.getvalue()


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


def list_paths(directory: str) -> list[str]:
    """Names of the files of a cache, relative to it, one folder deep, without hidden ones."""
    names = []
    for name in storage.list_files(directory):
        if name.startswith("."):
            continue
        if storage.is_directory(storage.join(directory, name)):
            inside = storage.list_files(storage.join(directory, name))
            names.extend(f"{name}/{inner}" for inner in inside if not inner.startswith("."))
        else:
            names.append(name)
    return names


def _shard_paths(manifest: Mapping[str, Any]) -> list[str]:
    paths = []
    for split, value in manifest["splits"].items():
        for number, shard in enumerate(value["shards"]):
            paths += [shard["file"], shard["file"] + ".idx", lineage_file(split, number, len(value["shards"]))]
    return paths


# ---------------------------------------------------------------------------------------------------------------- reading


@dataclasses.dataclass(frozen=True)
class Manifest:
    """A loaded and checked manifest. `data` is the JSON as it stands; the properties are what readers ask most."""

    directory: str
    data: Mapping[str, Any]

    @property
    def name(self) -> str:
        return self.data["name"]

    @property
    def modality(self) -> str:
        return self.data["modality"]

    @property
    def features(self) -> Mapping[str, Mapping[str, Any]]:
        return self.data["features"]

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(sorted(self.data["splits"]))

    @property
    def seed(self) -> int:
        return self.data["seed"]

    @property
    def vocabulary(self) -> Mapping[str, Any]:
        return self.data["vocabulary"]

    @property
    def fingerprint(self) -> str:
        """Of what the cache was made from; empty if its maker gave none."""
        return self.data["fingerprint"]

    @property
    def content_fingerprint(self) -> str:
        """Of what the cache holds: its format and the checksums of its shards. Two caches with equal ones give equal batches."""
        shards = {split: [s["sha256"] for s in value["shards"]] for split, value in self.data["splits"].items()}
        return fingerprint.of_json({"format": self.data["format"], "features": self.data["features"], "shards": shards})

    def shards(self, split: str) -> list[Mapping[str, Any]]:
        """The shards of a split, in order. Raises CacheError if there is no such split."""
        if split not in self.data["splits"]:
            raise CacheError(f"cache {self.directory} has no split {split!r}.", f"It has {', '.join(self.splits)}.")
        return self.data["splits"][split]["shards"]

    def records(self, split: str) -> int:
        """Number of records of a split."""
        return sum(shard["records"] for shard in self.shards(split))

    def tokens(self, split: str, feature: str = "targets") -> int:
        """Number of tokens (first axis) of a feature in a split."""
        return sum(shard["tokens"][feature] for shard in self.shards(split))

    def paths(self) -> list[str]:
        """Every file the cache must consist of, relative to it, the manifest left out."""
        both = [f"{kind}.{split}.json" for split in self.splits for kind in ("info", "stats")]
        return sorted([*_shard_paths(self.data), *both, *self.data.get("files", {}), COMPLETED])


def looks_like_cache(names: Iterable[str]) -> bool:
    """True if a directory with entries of these names was written as a cache, whole or not."""
    return any(name.startswith(STAGING_PREFIX) or name == COMPLETED or _SHARD_FILE.match(name) for name in names)


def load_manifest(cache_dir: str) -> Manifest:
    """Reads a cache's manifest. Raises CacheError naming the directory if it is missing, half-written, unreadable or of another format."""
    path = storage.join(cache_dir, MANIFEST)
    if not storage.is_directory(cache_dir):
        raise CacheError(
            f"there is no task cache at {cache_dir}.", "Make it with castor data tokenize; castor tasks list DIR shows what there is."
        )
    if not storage.exists(path):
        half = any(_OWN_FILE.match(name) for name in storage.list_files(cache_dir)) or looks_like_cache(storage.list_files(cache_dir))
        what = "is half-written: it has no manifest.json" if half else "holds no task cache: it has no manifest.json"
        raise CacheError(f"{cache_dir} {what}.", "Run castor data tokenize (again); castor tasks list DIR shows the caches there are.")
    try:
        data = storage.read_json(path)
    except (ValueError, OSError) as error:
        raise CacheError(f"{path} cannot be read: {error}.", _REMAKE) from error
    if isinstance(data, dict) and data.get("kind") not in (None, "cache"):
        raise CacheError(f"{cache_dir} is a {data['kind']}, not a task cache.", "Tokenize a corpus into a cache with castor data tokenize.")
    if isinstance(data, dict) and isinstance(data.get("format"), int) and data["format"] != FORMAT:
        raise CacheError(f"{path} is of format {data['format']}; this Castor reads {FORMAT}.", _REMAKE)
    if problem := _malformed(data):
        raise CacheError(f"{path} is malformed: {problem}.", _REMAKE)
    return Manifest(cache_dir, data)


def _malformed(data: Any) -> str:
    """What is wrong with the form of a manifest, or nothing. After this every access of `Manifest` and `CacheReader` is sound."""
    if not isinstance(data, dict) or data.get("kind") != "cache" or data.get("format") != FORMAT:
        return "it is no manifest of a cache"
    kinds = {
        "name": str,
        "modality": str,
        "splits": dict,
        "features": dict,
        "seed": int,
        "vocabulary": dict,
        "fingerprint": str,
        "funnel": dict,
    }
    for key, kind in kinds.items():
        if not isinstance(data.get(key), kind):
            return f"{key!r} is missing or no {kind.__name__}"
    if not isinstance(data.get("files", {}), dict) or any(n.startswith(("/", ".")) or "/.." in n for n in data.get("files", {})):
        return "'files' is no table of files"
    try:
        features = _checked_features(data["features"])
    except (CacheError, KeyError, TypeError, AttributeError) as error:
        return f"'features': {error}"
    for split, value in data["splits"].items():
        shards = value.get("shards") if isinstance(value, dict) else None
        if not isinstance(shards, list) or not shards:
            return f"split {split!r} lists no shards"
        for number, shard in enumerate(shards):
            if not isinstance(shard, dict) or shard.get("file") != shard_file(split, number, len(shards)):
                return f"split {split!r} lists a wrong file for shard {number}"
            if any(not isinstance(shard.get(key), int) or shard[key] < 0 for key in ("records", "bytes")):
                return f"shard {shard['file']} has no sound counts"
            if any(not isinstance(shard.get(key), str) for key in ("sha256", "idx_sha256", "lineage_sha256")):
                return f"shard {shard['file']} lacks a checksum"
            for key in ("tokens", "content_tokens", "longest"):
                if not isinstance(shard.get(key), dict) or any(not isinstance(shard[key].get(name), int) for name in features):
                    return f"shard {shard['file']} lacks {key}"
        if value.get("records") != sum(shard["records"] for shard in shards):
            return f"split {split!r} says {value.get('records')} records; its shards do not add up to that"
    return ""


class CacheReader:
    """Random access to one split of a cache: `len(reader)`, `reader[i]`, `reader.lengths(feature)`, `reader.document(i)`.

    Record i counts through the shards in order. Opening checks the manifest and the size of every shard file; every read checks its
    record's CRC. Files are mapped when first needed. Raises CacheError, naming the file, for whatever does not agree with the manifest.
    """

    def __init__(self, directory: str, split: str = "train"):
        self.manifest = load_manifest(directory)
        self.directory = directory
        self.split = split
        self._shards = self.manifest.shards(split)
        counts = [shard["records"] for shard in self._shards]
        self.starts = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        """int64[num_shards + 1]: the first record of each shard, then the number of records."""
        self._starts = self.starts.tolist()
        for shard in self._shards:
            path = storage.join(directory, shard["file"])
            try:
                size = storage.size(path)
            except OSError as error:
                raise CacheError(
                    f"shard {path} of the manifest is missing.", f"{_REMAKE} castor tasks verify {directory} says what else is wrong."
                ) from error
            if size != shard["bytes"]:
                raise CacheError(
                    f"shard {path} has {size} bytes; the manifest says {shard['bytes']}.",
                    f"{_REMAKE} castor tasks verify {directory} says what else is wrong.",
                )
        self._files: dict[int, memoryview] = {}
        self._indexes: dict[int, np.ndarray] = {}
        self._lineage: dict[int, Any] = {}

    @property
    def num_shards(self) -> int:
        return len(self._shards)

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, record: int) -> dict[str, np.ndarray]:
        """The features of a record, with the shapes and dtypes the manifest declares."""
        shard, row = self.locate(record)
        path = storage.join(self.directory, self._shards[shard]["file"])
        arrays = records.decode_example(self.payload(record), f"{path} record {row}")
        lengths = self.index(shard)[row]
        result = {}
        for name, spec in self.manifest.features.items():
            array = arrays.get(name, np.zeros(0, np.int64))
            shape = [int(lengths[name]), *shape_of(spec)[1:]] if spec["rank"] else []
            dtype = np.dtype(_DTYPES[spec["dtype"]])
            if array.dtype.kind == "O" or None in shape[1:] or array.size != int(np.prod(shape)):
                raise CacheError(f"{path} record {row}: feature {name!r} has {array.size} values, the sidecar says {shape}.", _REMAKE)
            result[name] = array.astype(dtype).reshape(shape)
        return result

    def locate(self, record: int) -> tuple[int, int]:
        """(shard, row in it) of a record. Raises IndexError outside 0 <= record < len(self)."""
        if not 0 <= record < self._starts[-1]:
            raise IndexError(f"record {record} of {self._starts[-1]}")
        shard = bisect.bisect_right(self._starts, record) - 1
        return shard, int(record) - self._starts[shard]

    def payload(self, record: int) -> bytes:
        """The serialized tf.train.Example of a record, its CRC checked."""
        shard, row = self.locate(record)
        path = storage.join(self.directory, self._shards[shard]["file"])
        if shard not in self._files:
            self._files[shard] = storage.map_bytes(path)
        return records.read_record(self._files[shard], int(self.index(shard)["offset"][row]), path)

    def tokens(self, record: int, start: int = 0, stop: int | None = None, feature: str = "targets") -> np.ndarray:
        """Tokens [start:stop] of an integer feature of rank 1, int64 [n]; decodes no other feature and nothing beyond `stop`."""
        shard, row = self.locate(record)
        size = int(self.index(shard)[feature][row])
        stop = size if stop is None else min(stop, size)
        where = storage.join(self.directory, self._shards[shard]["file"])
        values = records.decode_int64(self.payload(record), feature, start, stop, where)
        if len(values) != max(0, stop - start):
            raise CacheError(f"{where} record {row}: feature {feature!r} is shorter than the {size} values its sidecar says.", _REMAKE)
        return values

    def index(self, shard: int) -> np.ndarray:
        """The sidecar of a shard: mapped structured array [records] with fields `offset` and one length a feature."""
        if shard not in self._indexes:
            path = storage.join(self.directory, self._shards[shard]["file"] + ".idx")
            self._indexes[shard] = load_index(path, self.manifest.features, self._shards[shard]["records"])
        return self._indexes[shard]

    def lengths(self, feature: str = "targets", shard: int | None = None) -> np.ndarray:
        """uint32 lengths (first axis) of a feature: of one shard, mapped; or of all records, in order."""
        if feature not in self.manifest.features:
            raise CacheError(f"cache {self.directory} has no feature {feature!r}.", f"It has {', '.join(sorted(self.manifest.features))}.")
        if shard is not None:
            return self.index(shard)[feature]
        return np.concatenate([self.index(s)[feature] for s in range(self.num_shards)])

    def document(self, record: int) -> tuple[str, str]:
        """(id, source) of the document a record was made from."""
        shard, row = self.locate(record)
        if shard not in self._lineage:
            path = storage.join(self.directory, lineage_file(self.split, shard, self.num_shards))
            self._lineage[shard] = load_lineage(path, self._shards[shard]["records"])
        table = self._lineage[shard]
        return table["id"][row].as_py(), table["source"][row].as_py()


def load_index(path: str, features: Iterable[str], records_: int) -> np.ndarray:
    """Maps a sidecar. Raises CacheError if it is missing, damaged, or not of these features and this many records."""
    try:
        index = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError, SyntaxError, OverflowError, MemoryError) as error:
        raise CacheError(f"sidecar {path} cannot be read: {' '.join(str(error).split())[:200]}.", _REMAKE) from error
    if not isinstance(index, np.ndarray) or index.dtype != index_dtype(features) or index.shape != (records_,):
        raise CacheError(f"sidecar {path} does not describe {records_} records of features {sorted(features)}.", _REMAKE)
    return index.view(np.ndarray)  # still mapped, but without the cost of numpy's memmap class at every access


def load_lineage(path: str, records_: int):
    """Reads a lineage file into a pyarrow Table of `id` and `source`. Raises CacheError if it is missing, damaged or of another length."""
    import pyarrow
    import pyarrow.parquet

    try:
        with storage.open_read(path) as file:
            table = pyarrow.parquet.read_table(file, columns=["id", "source"])
    except (OSError, pyarrow.ArrowException) as error:
        raise CacheError(f"lineage {path} cannot be read: {' '.join(str(error).split())[:200]}.", _REMAKE) from error
    if table.num_rows != records_ or set(table.column_names) != {"id", "source"}:
        raise CacheError(f"lineage {path} has {table.num_rows} rows; the manifest says {records_}.", _REMAKE)
    return table
