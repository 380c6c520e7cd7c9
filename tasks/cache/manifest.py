"""The manifest of a task cache: its fields, its validation and its loading.

A manifest has the SHA-256 of every file of the cache and a checksum of itself. `load_manifest` returns a manifest
only after checking that checksum and the form, so readers need no checks of their own.
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
"""A file modified within this time may change again without a new mtime, because file systems round mtimes."""


@dataclasses.dataclass(frozen=True)
class ShardEntry:
    """The manifest's entry for one shard.

    split: name of the split.

    shard: index of the shard.

    num_shards: shards of the split.

    records: number of records.

    bytes: size of the TFRecord file.

    sha256: SHA-256 of the TFRecord file.

    idx_sha256: SHA-256 of the .idx file.

    lineage_sha256: SHA-256 of the lineage file.

    tokens: feature -> sum of the first axes.

    content_tokens: feature -> tokens that are neither pad nor eos.

    longest: feature -> most content tokens of one record.

    rows: packed rows per block, see `count_rows`.

    blocks: values per block, see `count_blocks`.

    token_file: dtype, bytes and sha256 of the token file. It is empty if the targets are not ids. Caches older than
    these fields lack rows, blocks and token_file.
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
        """Name of the TFRecord file."""
        return shard_file(self.split, self.shard, self.num_shards)


@dataclasses.dataclass(frozen=True)
class Manifest:
    """A loaded and validated manifest.

    directory: directory of the cache.

    data: the JSON object. All readers share it, so it must not be modified.

    identity: identity of the file when it was read; None if unknown.
    """

    directory: str
    data: Mapping[str, Any]
    identity: storage.Identity | None = None

    @property
    def name(self) -> str:
        """Name of the task."""
        return self.data["name"]

    @property
    def modality(self) -> str:
        """Modality of the documents."""
        return self.data["modality"]

    @property
    def features(self) -> Mapping[str, Mapping[str, Any]]:
        """Feature name -> declaration."""
        return self.data["features"]

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits, sorted."""
        return tuple(sorted(self.data["splits"]))

    @property
    def seed(self) -> int:
        """Shuffle seed."""
        return self.data["seed"]

    @property
    def vocabulary(self) -> Mapping[str, Any]:
        """Fingerprint, path and size of the vocabulary."""
        return self.data["vocabulary"]

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the inputs, configuration and code of the cache; empty if not recorded."""
        return self.data["fingerprint"]

    @functools.cached_property
    def content_fingerprint(self) -> str:
        """Fingerprint of the content: format, features and shard checksums. Equal fingerprints give equal batches."""
        shards = {split: [s["sha256"] for s in value["shards"]] for split, value in self.data["splits"].items()}
        return fingerprint.of_json({"format": self.data["format"], "features": self.data["features"], "shards": shards})

    def shards(self, split: str) -> list[Mapping[str, Any]]:
        """The shards of a split, in order. Raises CacheError for an unknown split."""
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
        """Every file of the cache except the manifest, relative to it."""
        both = [f"{kind}.{split}.json" for split in self.splits for kind in ("info", "stats")]
        return sorted([*shard_paths(self.data), *both, *self.data.get("files", {}), COMPLETED])


def load_manifest(cache_dir: str) -> Manifest:
    """The manifest of a cache, checked against its own checksum. An unchanged file is parsed only once.

    cache_dir: directory of the cache.

    Raises CacheError, naming the directory, if the manifest is missing, damaged or of another format.
    """
    try:
        identity = storage.identity(storage.join(cache_dir, MANIFEST))
    except OSError:
        return read_manifest(cache_dir)  # raises an error that names what is missing
    if time.time_ns() - identity.mtime_ns < _SETTLED_NS:
        return _load.__wrapped__(cache_dir, identity)
    return _load(cache_dir, identity)


@functools.lru_cache(_MANIFESTS_KEPT)
def _load(cache_dir: str, identity: storage.Identity) -> Manifest:
    manifest, path = read_manifest(cache_dir), storage.join(cache_dir, MANIFEST)
    if manifest.data.get("checksum") != manifest_checksum(manifest.data):
        raise CacheError(f"{path} was modified after it was written: its own checksum differs.", REMAKE)
    if not storage.is_unchanged(path, identity):
        raise CacheError(
            f"{path} was changed or replaced while it was read.", "Restart when the new cache is complete."
        )
    return dataclasses.replace(manifest, identity=identity)


def read_manifest(cache_dir: str) -> Manifest:
    """Like `load_manifest`, but checks only the form, to inspect a damaged cache."""
    path = storage.join(cache_dir, MANIFEST)
    if not storage.is_directory(cache_dir):
        raise CacheError(
            f"there is no task cache at {cache_dir}.",
            "Make it with castor data tokenize; castor tasks list DIR shows the existing caches.",
        )
    if not storage.exists(path):
        names = storage.list_files(cache_dir)
        half = any(is_own_file(name) for name in names) or looks_like_cache(names)
        what = "is half-written: it has no manifest.json" if half else "is not a task cache: it has no manifest.json"
        raise CacheError(
            f"{cache_dir} {what}.",
            "Run castor data tokenize; castor tasks list DIR shows the existing caches.",
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
        raise CacheError(f"{path} has format {data['format']}; this version of Castor reads {FORMAT}.", REMAKE)
    if problem := _malformed(data):
        raise CacheError(f"{path} is malformed: {problem}.", REMAKE)
    return Manifest(cache_dir, data)


def manifest_checksum(manifest: Mapping[str, Any]) -> str:
    """The checksum of a manifest: SHA-256 (32 hex digits) over all other fields."""
    return fingerprint.of_json({key: value for key, value in manifest.items() if key != "checksum"})


def seqio_info(manifest: Mapping[str, Any], split: str) -> dict[str, Any]:
    """The content of SeqIO's info file of a split: number of shards, and shape and dtype of each feature."""
    features = {
        name: {"shape": feature_shape(spec), "dtype": spec["dtype"]} for name, spec in manifest["features"].items()
    }
    return {
        "num_shards": len(manifest["splits"][split]["shards"]),
        "features": features,
        "seqio_version": _SEQIO_VERSION,
    }


def seqio_stats(shards: Sequence[Mapping[str, Any]], features: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    """SeqIO's statistics of a split: examples, and per token feature the sum and the maximum of content tokens.

    Content tokens are neither pad nor eos.
    """
    result = {"examples": sum(shard["records"] for shard in shards)}
    for name, spec in sorted(features.items()):
        if is_token_feature(spec):
            result[f"{name}_tokens"] = sum(shard["content_tokens"][name] for shard in shards)
            result[f"{name}_max_tokens"] = max((shard["longest"][name] for shard in shards), default=0)
    return result


def _malformed(data: Any) -> str:
    """The first error in the form of a manifest, or "". Afterwards every access of `Manifest` and `CacheReader` is
    valid.
    """
    if not isinstance(data, dict) or data.get("kind") != "cache" or data.get("format") != FORMAT:
        return "it is not the manifest of a cache"
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
            return f"{key!r} is missing or not a {kind.__name__}"
    if not isinstance(data.get("files", {}), dict) or any(
        n.startswith(("/", ".")) or "/.." in n for n in data.get("files", {})
    ):
        return "'files' is not a table of files"
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
            return f"split {split!r} has invalid counts in rows or blocks"
        if value.get("records") != sum(shard["records"] for shard in shards):
            return f"split {split!r} has {value.get('records')} records, but its shards have another total"
    return ""


def _malformed_shard(shard: Mapping[str, Any], features: Mapping[str, Any], same_packing: bool) -> str:
    for key in ("records", "bytes"):
        if type(shard.get(key)) is not int or not 0 <= shard[key] < 1 << 63:
            return "has invalid counts"
    for key in ("sha256", "idx_sha256", "lineage_sha256"):
        if type(shard.get(key)) is not str:
            return "lacks a checksum"
    for key in ("tokens", "content_tokens", "longest"):
        table = shard.get(key)
        if type(table) is not dict or any([type(table.get(name)) is not int or table[name] < 0 for name in features]):
            return f"lacks {key}"
    if tokens := shard.get("token_file", {}):
        if type(tokens) is not dict or tokens.get("dtype") not in TOKEN_DTYPES or type(tokens.get("sha256")) is not str:
            return "has an invalid token_file"
        if type(tokens.get("bytes")) is not int or "targets" not in features:
            return "has an invalid token_file"
    num_blocks = packing.num_blocks(shard["records"])
    for key in ("rows", "blocks"):
        table = shard.get(key, {})
        if type(table) is not dict or (key == "blocks" and table and table.keys() != features.keys()):
            return f"has {key} that are not a table"
        for counts in table.values():
            if type(counts) is not list or (same_packing and len(counts) != num_blocks):
                return f"has {key} that do not cover {num_blocks} blocks"
    return ""


def _all_counts(values: Iterable[Any]) -> bool:
    """Whether all values are integers from 0 to 2**63 - 1."""
    values = list(values)
    return {*map(type, values)} <= {int} and min(values, default=0) >= 0 and max(values, default=0) < 1 << 63
