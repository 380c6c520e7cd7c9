"""The manifest of a task cache: what it says, how it is read, and the form it must have.

A manifest holds the SHA-256 of every file of the cache and a checksum of itself. `load_manifest` returns one only after that checksum and
its form have been checked, so readers need no checks of their own.
"""

import dataclasses
import functools
import itertools
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from castor.tasks import fingerprint
from castor.tasks.cache.features import checked_features, feature_shape, is_token_feature
from castor.tasks.cache.index import PACKING
from castor.tasks.cache.layout import (
    COMPLETED,
    MANIFEST,
    REMAKE,
    is_own_file,
    looks_like_cache,
    shard_file,
    shard_paths,
)
from castor.tasks.cache.token_file import TOKEN_DTYPES
from castor.tasks.errors import CacheError
from castor.tasks.mixing import packing
from castor.tasks.storage import storage

FORMAT = 1
_SEQIO_VERSION = "0.0.20"
_MANIFESTS_KEPT = 16
_SETTLED_NS = 2_000_000_000
"""A file changed less than this ago may change again and keep its modification time: file systems count that in steps."""


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
    if manifest.data.get("checksum") != manifest_checksum(manifest.data):
        raise CacheError(f"{path} is not as it was written: its own checksum differs.", REMAKE)
    if not storage.is_unchanged(path, identity):
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


def manifest_checksum(manifest: Mapping[str, Any]) -> str:
    """Of all a manifest says but this, so that it too is known to be as it was written."""
    return fingerprint.of_json({key: value for key, value in manifest.items() if key != "checksum"})


def seqio_info(manifest: Mapping[str, Any], split: str) -> dict[str, Any]:
    """What SeqIO reads of a cached split: number of shards, and shape and dtype of each feature."""
    features = {
        name: {"shape": feature_shape(spec), "dtype": spec["dtype"]} for name, spec in manifest["features"].items()
    }
    return {
        "num_shards": len(manifest["splits"][split]["shards"]),
        "features": features,
        "seqio_version": _SEQIO_VERSION,
    }


def seqio_stats(shards: Sequence[Mapping[str, Any]], features: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    """SeqIO's statistics of a split: examples, and for each token feature the tokens that are neither pad nor eos, in all and at most."""
    result = {"examples": sum(shard["records"] for shard in shards)}
    for name, spec in sorted(features.items()):
        if is_token_feature(spec):
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
