"""Random access to a task cache that never returns anything but what was written.

Opening checks the manifest's own checksum and the size of every shard. An .idx file (the sidecar of a shard) and a
lineage file are checked by SHA-256 on first use. Every record is checked by CRC on every read. The files of a shard
must stay unchanged while the cache is open: replacing or truncating a cache under a running job raises an error
before a wrong value is returned.
"""

import bisect
import hashlib
import io
import itertools
import math
import re
import threading
from collections.abc import Iterable
from typing import Any

import numpy as np

from castor.tasks import hashing
from castor.tasks.cache import layout, records
from castor.tasks.cache.features import DTYPES, feature_shape
from castor.tasks.cache.index import PACKING, index_dtype, index_header
from castor.tasks.cache.layout import REMAKE, lineage_file
from castor.tasks.cache.manifest import load_manifest
from castor.tasks.cache.token_file import CRC_BYTES, TOKENS_PER_CRC, encoded_tokens_bytes
from castor.tasks.errors import CacheError, ConfigurationError
from castor.tasks.storage import storage

_DOCUMENT_ID = re.compile(r"[0-9a-fA-F]{32}\Z")
_LINEAGES_KEPT = 16
_TOKEN_RECORDS_KEPT = 1 << 20
_MAPS_KEPT = 1024
"""Shards whose files stay mapped. Linux allows a process about 65,000 maps in total (vm.max_map_count)."""


class CacheReader:
    """Random access to one split of a cache: `len(reader)`, `reader[i]`, `reader.lengths(feature)`,
    `reader.document(i)`.

    Records are numbered over all shards in order. Files are mapped on first use.

    directory: directory of the cache.

    split: split to read.

    Raises CacheError, naming the file, for a file that differs from the manifest or changes while in use.
    """

    def __init__(self, directory: str, split: str = "train"):
        storage.prefetch_metadata(directory)
        self.manifest = load_manifest(directory)
        self.directory = directory
        self.split = split
        self._shards = self.manifest.shards(split)
        self._paths = [storage.join(directory, shard["file"]) for shard in self._shards]
        self._identities = [
            _identity(directory, path, shard["bytes"]) for path, shard in zip(self._paths, self._shards)
        ]
        self._token_identities = [
            _identity(directory, path + ".tokens", shard["token_file"]["bytes"]) if shard.get("token_file") else None
            for path, shard in zip(self._paths, self._shards)
        ]
        manifest_path = storage.join(directory, layout.MANIFEST)
        # If the manifest changed meanwhile, the shards may belong to two different caches.
        if not storage.is_unchanged(manifest_path, self.manifest.identity):
            raise CacheError(
                f"{manifest_path} was changed or replaced while the cache was opened.",
                "Restart when the new cache is complete.",
            )
        counts = [shard["records"] for shard in self._shards]
        self.starts = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        """First record of each shard, then the number of records: int64 [num_shards + 1]."""
        self._starts = self.starts.tolist()
        # All keyed by shard; reading threads share them.
        self._data = _RecentlyAdded(_MAPS_KEPT)
        self._tokens = _RecentlyAdded(_MAPS_KEPT, _TOKEN_RECORDS_KEPT)
        self._indexes = _RecentlyAdded(_MAPS_KEPT)  # (identity of the .idx file when it was opened, its array)
        self._lineages = _RecentlyAdded(_LINEAGES_KEPT)

    @property
    def num_shards(self) -> int:
        """Number of shards of the split."""
        return len(self._shards)

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, record: int) -> dict[str, np.ndarray]:
        """The features of a record, with the declared shapes and dtypes."""
        shard, row = self.locate(record)
        path = self._paths[shard]
        arrays = records.decode_example(self.payload(record), f"{path} record {row}")
        lengths = self.index(shard)[row]
        result = {}
        for name, spec in self.manifest.features.items():
            array = arrays.get(name, np.zeros(0, np.int64))
            shape = [int(lengths[name]), *feature_shape(spec)[1:]] if spec["rank"] else []
            dtype = np.dtype(DTYPES[spec["dtype"]])
            if array.dtype.kind == "O" or None in shape[1:] or array.size != int(np.prod(shape)):
                raise CacheError(
                    f"{path} record {row}: feature {name!r} has {array.size} values; its .idx has shape {shape}.",
                    REMAKE,
                )
            result[name] = array.astype(dtype).reshape(shape)
        return result

    def locate(self, record: int) -> tuple[int, int]:
        """(shard, row in the shard) of a record. Raises IndexError unless 0 <= record < len(self)."""
        if not 0 <= record < self._starts[-1]:
            raise IndexError(f"record {record} is not in [0, {self._starts[-1]})")
        shard = bisect.bisect_right(self._starts, record) - 1
        return shard, int(record) - self._starts[shard]

    def first_record(self, shard: int) -> int:
        """The first record of a shard."""
        return self._starts[shard]

    def payload(self, record: int) -> bytes:
        """The serialized tf.train.Example of a record, with checked CRC."""
        shard, row = self.locate(record)
        data, index = self.data(shard), self.index(shard)
        self.check(shard)
        return records.read_record(data, int(index["offset"][row]), self._paths[shard])

    def tokens(self, record: int, start: int = 0, stop: int | None = None, feature: str = "targets") -> np.ndarray:
        """Tokens [start:stop] of an integer feature of rank 1, int64 [n]. Nothing else is decoded.

        record: record, counted over all shards.

        start: first token.

        stop: last token plus 1; None for the end of the record.

        feature: name of the feature.
        """
        shard, row = self.locate(record)
        payload, where = self.payload(record), self._paths[shard]
        size = int(self.index(shard)[feature][row])
        stop = size if stop is None else min(stop, size)
        values = records.decode_int64(payload, feature, start, stop, where)
        if len(values) != max(0, stop - start):
            raise CacheError(
                f"{where} record {row}: feature {feature!r} is shorter than the {size} values in its .idx.", REMAKE
            )
        return values

    def values(self, record: int, feature: str, start: int, stop: int) -> np.ndarray:
        """Values [start:stop] along the first axis of a feature, with the declared shape and dtype. Nothing else is
        decoded.

        record: record, counted over all shards.

        feature: name of the feature.

        start: first value.

        stop: last value plus 1.
        """
        shard, row = self.locate(record)
        spec, where = self.manifest.features[feature], self._paths[shard]
        decode = records.decode_float32 if spec["dtype"] == "float32" else records.decode_int64
        inner = feature_shape(spec)[1:]
        if None in inner:
            return self[record][feature][start:stop]  # raises an error that names the problem
        width = math.prod(inner)
        array = decode(self.payload(record), feature, start * width, stop * width, where)
        if len(array) != (stop - start) * width:
            raise CacheError(f"{where} record {row}: feature {feature!r} is shorter than in its .idx.", REMAKE)
        return array.astype(DTYPES[spec["dtype"]], copy=False).reshape(stop - start, *inner)

    def path(self, shard: int) -> str:
        """The path of a shard's TFRecord file; `.idx` and `.tokens` are appended for its other files."""
        return self._paths[shard]

    def data(self, shard: int) -> np.ndarray:
        """The content of a shard's file, read-only uint8 [bytes], memory-mapped. Call `check` before reading, once
        per batch.
        """
        data = self._data.get(shard)
        if data is None:
            path = self._paths[shard]
            try:
                data = storage.map_bytes(path)
            except OSError as error:
                raise CacheError(f"shard {path} cannot be read: {error}.", REMAKE) from error
            self.check(shard)
            self._data.put(shard, data)
        return data

    def has_tokens(self, shard: int) -> bool:
        """Whether a shard has a token file, for `stored_tokens`."""
        return self._token_identities[shard] is not None

    def stored_tokens(self, shard: int, row: int, start: int, stop: int) -> np.ndarray:
        """Ids [start:stop] of a record's targets from the token file, as a view: uint16 or uint32 [n].

        The CRCs of the ids read are checked. A read from id 0 also checks the CRC of the TFRecord, so that damage in
        either file is found. Call `check` before reading, once per batch.

        shard: shard of the record.

        row: record, counted within the shard.

        start: first id.

        stop: last id plus 1.
        """
        data, ids, begins, offsets, lengths = self._tokens.get(shard) or self._map_tokens(shard)
        length = int(lengths[row])
        if not start:
            end = int(offsets[row + 1]) if row + 1 < len(offsets) else self._shards[shard]["bytes"]
            records.check_record(self.data(shard), int(offsets[row]), end, self._paths[shard])
        crcs, width = int(begins[row]), ids.itemsize
        part = TOKENS_PER_CRC * width
        first = crcs + -(-length // TOKENS_PER_CRC) * CRC_BYTES
        for number in range(start * width // part, -(-stop * width // part)):
            stored = data[crcs + number * CRC_BYTES : crcs + (number + 1) * CRC_BYTES].tobytes()
            found = records.crc32c(data[first + number * part : first + min((number + 1) * part, length * width)])
            if found.to_bytes(CRC_BYTES, "little") != stored:
                raise CacheError(
                    f"{self._paths[shard]}.tokens record {row} has a wrong checksum: the file is damaged.", REMAKE
                )
        return ids[first // width + start : first // width + stop]

    def _map_tokens(self, shard: int) -> tuple[np.ndarray, ...]:
        """The token file of a shard as (bytes, ids, first byte of each record, .idx offsets, .idx lengths)."""
        path, entry = self._paths[shard] + ".tokens", self._shards[shard]["token_file"]
        try:
            data = storage.map_bytes(path)
        except OSError as error:
            raise CacheError(f"{path} cannot be read: {error}.", REMAKE) from error
        self.check(shard)
        index = self.index(shard)
        begins = np.zeros(len(index) + 1, dtype=np.int64)
        np.cumsum(encoded_tokens_bytes(index["targets"], entry["dtype"]), out=begins[1:])
        if begins[-1] != len(data):
            raise CacheError(f"{path} has {len(data)} bytes; its .idx implies {begins[-1]}.", REMAKE)
        # Columns of the .idx are copied, so that the checked values stay valid after the .idx map is dropped.
        mapped = (
            data,
            data.view(np.dtype(entry["dtype"]).newbyteorder("<")),
            begins,
            index["offset"].copy(),
            index["targets"].copy(),
        )
        self._tokens.put(shard, mapped, weight=len(index))
        return mapped

    def index(self, shard: int) -> np.ndarray:
        """The .idx of a shard: mapped structured array [records] with `offset` and the length of each feature."""
        _, index = self._indexes.get(shard) or (None, None)
        if index is None:
            path, entry = self._paths[shard] + ".idx", self._shards[shard]
            try:
                identity = storage.identity(path)
            except OSError as error:
                raise CacheError(f".idx file {path} cannot be read: {error}.", REMAKE) from error
            index = load_index(path, self.manifest.features, entry["records"], entry["idx_sha256"])
            if not storage.is_unchanged(path, identity):
                raise _changed(path)
            self.check(shard)
            self._indexes.put(shard, (identity, index))
        return index

    def check(self, shard: int) -> None:
        """Raises CacheError if the files of a shard were changed since they were opened.

        Reading a truncated memory map could kill the process. The check stats each file: a few microseconds.
        """
        path = self._paths[shard]
        if not storage.is_unchanged(path, self._identities[shard]):
            raise _changed(path)
        if (known := self._token_identities[shard]) and not storage.is_unchanged(path + ".tokens", known):
            raise _changed(path + ".tokens")
        if (kept := self._indexes.get(shard)) and not storage.is_unchanged(path + ".idx", kept[0]):
            raise _changed(path + ".idx")

    def will_need(self, shard: int, first: int, last: int) -> None:
        """Asks the operating system to prefetch records [first, last) of a shard, without waiting.

        first and last are counted within the shard.
        """
        if first >= last:
            return
        if self.has_tokens(shard):
            data, _, begins, _, _ = self._tokens.get(shard) or self._map_tokens(shard)
            storage.will_need(data, int(begins[first]), int(begins[last]))
        data, offsets = self.data(shard), self.index(shard)["offset"]
        storage.will_need(data, int(offsets[first]), int(offsets[last]) if last < len(offsets) else len(data))

    def lengths(self, feature: str = "targets", shard: int | None = None) -> np.ndarray:
        """Lengths (first axis) of a feature, uint32 [records]: of one shard, mapped; or of all records, in order.

        feature: name of the feature.

        shard: shard; None for all.
        """
        if feature not in self.manifest.features:
            raise CacheError(
                f"cache {self.directory} has no feature {feature!r}.",
                f"It has {', '.join(sorted(self.manifest.features))}.",
            )
        if shard is not None:
            return self.index(shard)[feature]
        return np.concatenate([self.index(s)[feature] for s in range(self.num_shards)])

    def rows(self, length: int) -> list[np.ndarray] | None:
        """Rows that best_fit makes of each block of `targets`, per shard int64 [blocks]; None if not in the manifest.

        length: tokens per row.
        """
        return self._block_counts("rows", str(length))

    def block_tokens(self, feature: str = "targets") -> list[np.ndarray] | None:
        """Values (first axis) of a feature in each block, per shard int64 [blocks]; None if not in the manifest."""
        return self._block_counts("blocks", feature)

    def document(self, record: int) -> tuple[str, str]:
        """(id, source) of a record's document."""
        shard, row = self.locate(record)
        table = self._lineage(shard)
        return table["id"][row].as_py(), table["source"][row].as_py()

    def find(self, document_id: str) -> int | None:
        """The record of a document, or None. Only the lineage of the one possible shard is read.

        document_id: 32 hexadecimal digits.

        Raises ConfigurationError for an invalid id.
        """
        if not isinstance(document_id, str) or not _DOCUMENT_ID.match(document_id):
            raise ConfigurationError(f"{document_id!r} is not a document id.", "An id is 32 hexadecimal digits.")
        document_id = document_id.lower()
        shard = hashing.shard_of(hashing.record_hash(self.manifest.seed, document_id), self.num_shards)
        row = self._lineage(shard)["id"].index(document_id).as_py()
        return None if row < 0 else self._starts[shard] + row

    def _lineage(self, shard: int):
        table = self._lineages.get(shard)
        if table is None:
            entry = self._shards[shard]
            path = storage.join(self.directory, lineage_file(self.split, shard, self.num_shards))
            table = load_lineage(path, entry["records"], entry["lineage_sha256"])
            self.check(shard)
            self._lineages.put(shard, table)
        return table

    def _block_counts(self, table: str, key: str) -> list[np.ndarray] | None:
        if self.manifest.data.get("packing") != PACKING:
            return None
        lists = [shard.get(table, {}).get(key) for shard in self._shards]
        if None in lists:
            return None
        counts = np.fromiter(itertools.chain.from_iterable(lists), np.int64)
        ends = np.cumsum([len(part) for part in lists]).tolist()
        return [counts[begin:end] for begin, end in zip([0, *ends], ends)]


class _RecentlyAdded:
    """A mapping that keeps the most recently added entries. Thread-safe.

    most: largest number of entries.

    most_weight: largest total weight. One entry always stays.
    """

    def __init__(self, most: int, most_weight: float = math.inf):
        self._most, self._most_weight, self._weight = most, most_weight, 0
        self._entries: dict[int, tuple[Any, int]] = {}
        self._lock = threading.Lock()  # guards `put`; `get` is a single dict operation and needs no lock

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, shard: int) -> Any:
        """The entry, or None."""
        entry = self._entries.get(shard)
        return entry and entry[0]

    def put(self, shard: int, value: Any, weight: int = 0) -> None:
        """Adds an entry and evicts the oldest entries beyond the limits."""
        with self._lock:
            self._weight -= self._entries.pop(shard, (None, 0))[1]
            while self._entries and (len(self._entries) >= self._most or self._weight + weight > self._most_weight):
                self._weight -= self._entries.pop(next(iter(self._entries)))[1]
            self._entries[shard] = value, weight
            self._weight += weight


def _identity(directory: str, path: str, size: int) -> storage.Identity:
    """The identity of a shard file. Raises CacheError if the file is missing or has another size."""
    remedy = f"{REMAKE} castor tasks verify {directory} lists all problems."
    try:
        identity = storage.identity(path)
    except OSError as error:
        raise CacheError(f"shard {path} of the manifest is missing.", remedy) from error
    if identity.size != size:
        raise CacheError(f"shard {path} has {identity.size} bytes; the manifest has {size}.", remedy)
    return identity


def _changed(path: str) -> CacheError:
    what = "was changed or replaced while in use" if storage.exists(path) else "was removed while in use"
    return CacheError(f"{path} {what}.", "Restart on the new cache, or restore the old one.")


def load_index(path: str, features: Iterable[str], records_: int, sha256: str = "") -> np.ndarray:
    """Maps the .idx file of a shard: structured array [records_] with the dtype of `index.index_dtype`.

    path: path of the file.

    features: names of the features.

    records_: number of records.

    sha256: expected SHA-256 in hex; empty to skip the check.

    Raises CacheError for a file that is missing, damaged, or of other features, records or checksum.
    """
    try:
        data = storage.map_bytes(path)
    except OSError as error:
        raise CacheError(f".idx file {path} cannot be read: {error}.", REMAKE) from error
    if sha256 and hashlib.sha256(data).hexdigest() != sha256:
        raise CacheError(
            f".idx file {path} is damaged or of another cache: its SHA-256 differs from the manifest.", REMAKE
        )
    dtype = index_dtype(features)
    usual = index_header(dtype, records_)
    if data[: len(usual)].tobytes() == usual and len(data) == len(usual) + records_ * dtype.itemsize:
        return data[len(usual) :].view(dtype)
    # Another version of numpy wrote this header. Parsing it uses Python's compiler, which is not thread-safe in 3.11.
    try:
        header = io.BytesIO(data[: len(data) - records_ * dtype.itemsize].tobytes())
        np.lib.format.read_magic(header)
        found = np.lib.format.read_array_header_1_0(header)
    except (ValueError, EOFError, SyntaxError, OverflowError, MemoryError) as error:
        what = " ".join(str(error).split())[:200]
        raise CacheError(f".idx file {path} cannot be read: {what}.", REMAKE) from error
    if found != ((records_,), False, dtype) or header.tell() + records_ * dtype.itemsize != len(data):
        raise CacheError(
            f".idx file {path} does not describe {records_} records of features {sorted(features)}.", REMAKE
        )
    return data[header.tell() :].view(dtype)


def load_lineage(path: str, records_: int, sha256: str = ""):
    """Reads a lineage file into a pyarrow Table with the string columns `id` and `source`, [records_].

    path: path of the file.

    records_: number of records.

    sha256: expected SHA-256 in hex; empty to skip the check.

    Raises CacheError for a file that is missing, damaged, or of another length or checksum.
    """
    import pyarrow
    import pyarrow.parquet

    try:
        data = storage.read_bytes(path)
        if sha256 and hashlib.sha256(data).hexdigest() != sha256:
            raise CacheError(
                f"lineage {path} is damaged or of another cache: its SHA-256 differs from the manifest.", REMAKE
            )
        # ParquetFile instead of read_table: read_table imports pandas, which takes a second or more.
        table = pyarrow.parquet.ParquetFile(pyarrow.BufferReader(data)).read(columns=["id", "source"])
    except (OSError, pyarrow.ArrowException) as error:
        raise CacheError(f"lineage {path} cannot be read: {' '.join(str(error).split())[:200]}.", REMAKE) from error
    if table.num_rows != records_ or set(table.column_names) != {"id", "source"}:
        raise CacheError(f"lineage {path} has {table.num_rows} rows; the manifest has {records_}.", REMAKE)
    return table
