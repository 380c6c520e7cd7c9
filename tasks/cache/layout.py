"""What a task cache is: the names, kinds and checksums of its files. cache_writer.py makes one, cache_reader.py reads it.

    info.{split}.json  stats.{split}.json  COMPLETED          as SeqIO 0.0.20 writes them
    {split}.tfrecord-SSSSS-of-NNNNN                           tf.train.Example records
    {split}.tfrecord-SSSSS-of-NNNNN.idx                       npy of (offset <u8, one <u4 length a feature), a row a record
    {split}.tfrecord-SSSSS-of-NNNNN.tokens                    `targets` again, ready to be used, see `encode_tokens`
    lineage/{split}-SSSSS-of-NNNNN.parquet                    id and source of the document of each record
    manifest.json                                             written last; readers trust nothing else
    plans/                                                    what readers have worked out from all that; no part of the cache

A record's shard is cut from its hash (`hashing.shard_of`) and a shard is sorted by (hash, id), so what is written depends on the seed and
the documents alone. The manifest holds the SHA-256 of the files above it and a checksum of itself.
"""

import dataclasses
import functools
import io
import itertools
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from castor.tasks import fingerprint
from castor.tasks.cache import records
from castor.tasks.errors import CacheError
from castor.tasks.mixing import packing
from castor.tasks.storage import storage

FORMAT = 1
MANIFEST = "manifest.json"
COMPLETED = "COMPLETED"
TOKEN_DTYPES = ("uint16", "uint32")
TOKENS_PER_CRC, CRC_BYTES = 4096, 4
"""A piece of a long document is checked without reading all of it."""

PLANS_FOLDER = "plans"
STAGING_PREFIX = ".staging-"
TARGETS = {"targets": {"dtype": "int32", "rank": 1}}
"""The features of an ordinary token cache. A feature of rank above 1 also names its shape: {"dtype", "rank", "shape": [None, 80]}."""
DTYPES = {"int32": np.int32, "int64": np.int64, "float32": np.float32}
REMAKE = "Make it again with castor data tokenize."
PACKING = {"version": packing.VERSION, "block_records": packing.BLOCK_RECORDS}
"""What rows and blocks were counted by; under "packing" in a manifest."""

_SEQIO_VERSION = "0.0.20"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.]*\Z")
_SHARD_FILE = re.compile(r"[A-Za-z0-9_]+\.tfrecord-\d{5}-of-\d{5}\Z")
_OWN_FILE = re.compile(
    r"([A-Za-z0-9_]+\.tfrecord-\d+-of-\d+(\.idx|\.tokens)?|(info|stats)\.[A-Za-z0-9_]+\.json|COMPLETED|manifest\.json"
    r"|lineage/[A-Za-z0-9_]+-\d+-of-\d+\.parquet)\Z"
)
_MANIFESTS_KEPT = 16
_SETTLED_NS = 2_000_000_000
"""A file changed less than this ago may change again and keep its modification time: file systems count that in steps."""


# ---------------------------------------------------------------------------------------------------------------- records and names


@dataclasses.dataclass(frozen=True)
class Record:
    """One example of a task. `id` and `source` are its document's; features are arrays as the task's features declare them."""

    id: str
    source: str
    features: Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class ShardEntry:
    """What the manifest says of one shard. tokens: summed first axes by feature; content_tokens: without pad and eos; longest: of one
    record. rows and blocks: see `count_rows` and `count_blocks`. token_file: dtype, bytes and sha256 of the shard's file of tokens. Caches
    made before there were any lack these three; so do, of the last, tasks whose tokens are not ids.
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
    rows: Mapping[str, list[int]] = dataclasses.field(default_factory=dict)
    blocks: Mapping[str, list[int]] = dataclasses.field(default_factory=dict)
    token_file: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def file(self) -> str:
        return shard_file(self.split, self.shard, self.num_shards)


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


# ---------------------------------------------------------------------------------------------------------------- features and counts


def checked_features(features: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Features by name, sorted. Raises CacheError for a declaration that is none."""
    result = {}
    for name, spec in sorted(features.items()):
        if (
            spec["dtype"] not in DTYPES
            or name == "offset"
            or (spec["rank"] > 1 and len(spec.get("shape", ())) != spec["rank"])
        ):
            raise CacheError(
                f"feature {name!r} is declared as {dict(spec)}.",
                'Declare {"dtype": int32, int64 or float32, "rank": n, "shape": if n > 1}.',
            )
        result[name] = dict(spec)
    return result


def is_tokens(spec: Mapping[str, Any]) -> bool:
    """True for a list of integers."""
    return spec["dtype"] in ("int32", "int64") and spec["rank"] == 1


def shape_of(spec: Mapping[str, Any]) -> list[int | None]:
    """Shape of a feature; None where records differ."""
    return list(spec["shape"]) if "shape" in spec else [None] * spec["rank"]


def index_dtype(features: Iterable[str]) -> np.dtype:
    """The row of a sidecar: byte offset of the record, then the length (first axis) of each feature, by name."""
    return np.dtype([("offset", "<u8"), *((name, "<u4") for name in sorted(features))])


def index_header(dtype: np.dtype, records_: int) -> bytes:
    """What a sidecar begins with: the header of a npy file, version 1.0."""
    buffer = io.BytesIO()
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (records_,)}
    np.lib.format.write_array_header_1_0(buffer, header)
    return buffer.getvalue()


def count_rows(index: np.ndarray, features: Mapping[str, Mapping[str, Any]]) -> dict[str, list[int]]:
    """Packed rows of each block of a shard, by length of a row: {"64": [of block 0, ...], ..., "32768": ...}, from its sidecar [records].

    Of `targets` alone and by best_fit, at packing.STANDARD_LENGTHS; empty where a task has no such token feature.
    """
    if "targets" not in features or not is_tokens(features["targets"]):
        return {}
    size = packing.BLOCK_RECORDS
    blocks = [index["targets"][start : start + size] for start in range(0, len(index), size)]
    return {str(length): [packing.count_rows(block, length) for block in blocks] for length in packing.STANDARD_LENGTHS}


def count_blocks(index: np.ndarray, features: Iterable[str]) -> dict[str, list[int]]:
    """Values (first axis) in each block of packing.BLOCK_RECORDS records of a shard, by feature, from its sidecar [records]."""
    starts = np.arange(0, len(index), packing.BLOCK_RECORDS)
    return {
        name: np.add.reduceat(index[name], starts, dtype=np.int64).tolist() if len(index) else []
        for name in sorted(features)
    }


# ---------------------------------------------------------------------------------------------------------------- the manifest


@dataclasses.dataclass(frozen=True)
class Manifest:
    """A loaded and checked manifest. `data` is the JSON as it stands, shared by all who loaded it: change nothing in it. The properties are
    what readers ask most. identity: of the file when it was read.
    """

    directory: str
    data: Mapping[str, Any]
    identity: storage.Identity | None = None

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

    @functools.cached_property
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
        return sorted([*shard_paths(self.data), *both, *self.data.get("files", {}), COMPLETED])


def load_manifest(cache_dir: str) -> Manifest:
    """The manifest of a cache, known by its checksum to be as it was written; a file that has not changed is parsed only once.

    Raises CacheError naming the directory if it is missing, half-written, damaged or of another format.
    """
    try:
        identity = storage.identity(storage.join(cache_dir, MANIFEST))
    except OSError:
        return read_manifest(cache_dir)  # which tells what is missing
    if time.time_ns() - identity.mtime_ns < _SETTLED_NS:
        return _load.__wrapped__(cache_dir, identity)
    return _load(cache_dir, identity)


@functools.lru_cache(_MANIFESTS_KEPT)
def _load(cache_dir: str, identity: storage.Identity) -> Manifest:
    manifest, path = read_manifest(cache_dir), storage.join(cache_dir, MANIFEST)
    if manifest.data.get("checksum") != checksum(manifest.data):
        raise CacheError(f"{path} is not as it was written: its own checksum differs.", REMAKE)
    if not storage.is_still(path, identity):
        raise CacheError(
            f"{path} was changed or replaced while it was read.", "Start again when the new cache is written."
        )
    return dataclasses.replace(manifest, identity=identity)


def read_manifest(cache_dir: str) -> Manifest:
    """As `load_manifest`, but checks the form alone: for those who look for what is wrong with a cache."""
    path = storage.join(cache_dir, MANIFEST)
    if not storage.is_directory(cache_dir):
        raise CacheError(
            f"there is no task cache at {cache_dir}.",
            "Make it with castor data tokenize; castor tasks list DIR shows what there is.",
        )
    if not storage.exists(path):
        names = storage.list_files(cache_dir)
        half = any(is_own_file(name) for name in names) or looks_like_cache(names)
        what = "is half-written: it has no manifest.json" if half else "holds no task cache: it has no manifest.json"
        raise CacheError(
            f"{cache_dir} {what}.",
            "Run castor data tokenize (again); castor tasks list DIR shows the caches there are.",
        )
    try:
        data = storage.read_json(path)
    except (ValueError, OSError) as error:
        raise CacheError(f"{path} cannot be read: {error}.", REMAKE) from error
    if isinstance(data, dict) and data.get("kind") not in (None, "cache"):
        raise CacheError(
            f"{cache_dir} is a {data['kind']}, not a task cache.",
            "Tokenize a corpus into a cache with castor data tokenize.",
        )
    if isinstance(data, dict) and isinstance(data.get("format"), int) and data["format"] != FORMAT:
        raise CacheError(f"{path} is of format {data['format']}; this Castor reads {FORMAT}.", REMAKE)
    if problem := _malformed(data):
        raise CacheError(f"{path} is malformed: {problem}.", REMAKE)
    return Manifest(cache_dir, data)


def checksum(manifest: Mapping[str, Any]) -> str:
    """Of all a manifest says but this, so that it too is known to be as it was written."""
    return fingerprint.of_json({key: value for key, value in manifest.items() if key != "checksum"})


def info(manifest: Mapping[str, Any], split: str) -> dict[str, Any]:
    """What SeqIO reads of a cached split: number of shards, and shape and dtype of each feature."""
    features = {name: {"shape": shape_of(spec), "dtype": spec["dtype"]} for name, spec in manifest["features"].items()}
    return {
        "num_shards": len(manifest["splits"][split]["shards"]),
        "features": features,
        "seqio_version": _SEQIO_VERSION,
    }


def stats(shards: Sequence[Mapping[str, Any]], features: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    """SeqIO's statistics of a split: examples, and for each token feature the tokens that are neither pad nor eos, in all and at most."""
    result = {"examples": sum(shard["records"] for shard in shards)}
    for name, spec in sorted(features.items()):
        if is_tokens(spec):
            result[f"{name}_tokens"] = sum(shard["content_tokens"][name] for shard in shards)
            result[f"{name}_max_tokens"] = max((shard["longest"][name] for shard in shards), default=0)
    return result


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
    if not isinstance(data.get("files", {}), dict) or any(
        n.startswith(("/", ".")) or "/.." in n for n in data.get("files", {})
    ):
        return "'files' is no table of files"
    try:
        features = checked_features(data["features"])
    except (CacheError, KeyError, TypeError, AttributeError) as error:
        return f"'features': {error}"
    for split, value in data["splits"].items():
        shards = value.get("shards") if isinstance(value, dict) else None
        if not isinstance(shards, list) or not shards:
            return f"split {split!r} lists no shards"
        counts: list[list[int]] = []
        for number, shard in enumerate(shards):
            if not isinstance(shard, dict) or shard.get("file") != shard_file(split, number, len(shards)):
                return f"split {split!r} lists a wrong file for shard {number}"
            if problem := _malformed_shard(shard, features, data.get("packing") == PACKING):
                return f"shard {shard['file']} {problem}"
            counts += itertools.chain.from_iterable(shard.get(table, {}).values() for table in ("rows", "blocks"))
        if not _all_counts(itertools.chain.from_iterable(counts)):
            return f"split {split!r} has rows or blocks that are no counts"
        if value.get("records") != sum(shard["records"] for shard in shards):
            return f"split {split!r} says {value.get('records')} records; its shards do not add up to that"
    return ""


def token_dtype(largest: int) -> str | None:
    """The dtype of a file of tokens up to this one; None if there can be none."""
    return next((name for name in TOKEN_DTYPES if largest <= np.iinfo(name).max), None)


def encode_tokens(ids: np.ndarray, dtype: str) -> bytes:
    """A record in the file of tokens: the CRC-32C of every TOKENS_PER_CRC of its ids, then the ids, all little-endian."""
    data = ids.astype(np.dtype(dtype).newbyteorder("<")).tobytes()
    part = TOKENS_PER_CRC * np.dtype(dtype).itemsize
    return b"".join(
        [*(records.crc32c(data[i : i + part]).to_bytes(CRC_BYTES, "little") for i in range(0, len(data), part)), data]
    )


def encoded_tokens_bytes(lengths: np.ndarray, dtype: str) -> np.ndarray:
    """int64 [n]: bytes of records of so many ids in the file of tokens."""
    lengths = np.asarray(lengths, dtype=np.int64)
    return lengths * np.dtype(dtype).itemsize + -(-lengths // TOKENS_PER_CRC) * CRC_BYTES


def _malformed_shard(shard: Mapping[str, Any], features: Mapping[str, Any], blocks_are_ours: bool) -> str:
    for key in ("records", "bytes"):
        if type(shard.get(key)) is not int or not 0 <= shard[key] < 1 << 63:
            return "has no sound counts"
    for key in ("sha256", "idx_sha256", "lineage_sha256"):
        if type(shard.get(key)) is not str:
            return "lacks a checksum"
    for key in ("tokens", "content_tokens", "longest"):
        table = shard.get(key)
        if type(table) is not dict or any([type(table.get(name)) is not int or table[name] < 0 for name in features]):
            return f"lacks {key}"
    if tokens := shard.get("token_file", {}):
        if type(tokens) is not dict or tokens.get("dtype") not in TOKEN_DTYPES or type(tokens.get("sha256")) is not str:
            return "has a token_file that is none"
        if type(tokens.get("bytes")) is not int or "targets" not in features:
            return "has a token_file that is none"
    num_blocks = packing.num_blocks(shard["records"])
    for key in ("rows", "blocks"):
        table = shard.get(key, {})
        if type(table) is not dict or (key == "blocks" and table and table.keys() != features.keys()):
            return f"has {key} that are no table"
        for counts in table.values():
            if type(counts) is not list or (blocks_are_ours and len(counts) != num_blocks):
                return f"has {key} that are not of {num_blocks} blocks"
    return ""


def _all_counts(values: Iterable[Any]) -> bool:
    """True if all are integers from 0 that fit in 63 bits."""
    values = list(values)
    return {*map(type, values)} <= {int} and min(values, default=0) >= 0 and max(values, default=0) < 1 << 63
