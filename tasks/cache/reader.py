"""Reading a task cache at random, and never anything but what was written.

Opening checks the manifest by its checksum and every shard by its size. A sidecar and a lineage file are checked by their SHA-256 when
they are first touched, every record, in whichever file, by its CRC whenever it is read. A shard must stay the file that it was when the cache was opened: a
cache that is written anew, or a file that is cut, under a running job is an error before it is a wrong value.
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
"""Shards whose files stay mapped; a process may hold some 65,000 maps in all (vm.max_map_count)."""


class CacheReader:
    """Random access to one split of a cache: `len(reader)`, `reader[i]`, `reader.lengths(feature)`, `reader.document(i)`.

    Record i counts through the shards in order. Files are mapped when first needed. Raises CacheError, naming the file, for whatever does
    not agree with the manifest, and for files that change while they are in use.
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
        if not storage.is_unchanged(
            manifest_path, self.manifest.identity
        ):  # then some shards may be of one cache and some of another
            raise CacheError(
                f"{manifest_path} was changed or replaced while the cache was opened.",
                "Start again when it is written.",
            )
        counts = [shard["records"] for shard in self._shards]
        self.starts = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        """int64[num_shards + 1]: the first record of each shard, then the number of records."""
        self._starts = self.starts.tolist()
        # By shard. Threads that read ahead share all of these.
        self._data = _Newest(_MAPS_KEPT)
        self._tokens = _Newest(_MAPS_KEPT, _TOKEN_RECORDS_KEPT)
        self._indexes = _Newest(_MAPS_KEPT)  # (its identity when it was opened, the sidecar)
        self._lineages = _Newest(_LINEAGES_KEPT)

    @property
    def num_shards(self) -> int:
        return len(self._shards)

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, record: int) -> dict[str, np.ndarray]:
        """The features of a record, with the shapes and dtypes the manifest declares."""
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
                    f"{path} record {row}: feature {name!r} has {array.size} values, the sidecar says {shape}.", REMAKE
                )
            result[name] = array.astype(dtype).reshape(shape)
        return result

    def locate(self, record: int) -> tuple[int, int]:
        """(shard, row in it) of a record. Raises IndexError outside 0 <= record < len(self)."""
        if not 0 <= record < self._starts[-1]:
            raise IndexError(f"record {record} of {self._starts[-1]}")
        shard = bisect.bisect_right(self._starts, record) - 1
        return shard, int(record) - self._starts[shard]

    def first_record(self, shard: int) -> int:
        """The first record of a shard."""
        return self._starts[shard]

    def payload(self, record: int) -> bytes:
        """The serialized tf.train.Example of a record, its CRC checked."""
        shard, row = self.locate(record)
        data, index = self.data(shard), self.index(shard)
        self.check(shard)
        return records.read_record(data, int(index["offset"][row]), self._paths[shard])

    def tokens(self, record: int, start: int = 0, stop: int | None = None, feature: str = "targets") -> np.ndarray:
        """Tokens [start:stop] of an integer feature of rank 1, int64 [n]; decodes no other feature and nothing beyond `stop`."""
        shard, row = self.locate(record)
        payload, where = self.payload(record), self._paths[shard]
        size = int(self.index(shard)[feature][row])
        stop = size if stop is None else min(stop, size)
        values = records.decode_int64(payload, feature, start, stop, where)
        if len(values) != max(0, stop - start):
            raise CacheError(
                f"{where} record {row}: feature {feature!r} is shorter than the {size} values its sidecar says.", REMAKE
            )
        return values

    def values(self, record: int, feature: str, start: int, stop: int) -> np.ndarray:
        """Values [start:stop] along the first axis of one feature of a record, with the shape and dtype the manifest declares; decodes no other
        feature."""
        shard, row = self.locate(record)
        spec, where = self.manifest.features[feature], self._paths[shard]
        decode = records.decode_float32 if spec["dtype"] == "float32" else records.decode_int64
        inner = feature_shape(spec)[1:]
        if None in inner:
            return self[record][feature][start:stop]  # which says what is wrong
        width = math.prod(inner)
        array = decode(self.payload(record), feature, start * width, stop * width, where)
        if len(array) != (stop - start) * width:
            raise CacheError(f"{where} record {row}: feature {feature!r} is shorter than its sidecar says.", REMAKE)
        return array.astype(DTYPES[spec["dtype"]], copy=False).reshape(stop - start, *inner)

    def path(self, shard: int) -> str:
        """The file of a shard; its sidecar is this with `.idx`."""
        return self._paths[shard]

    def data(self, shard: int) -> np.ndarray:
        """The bytes of a shard's file, mapped, read-only uint8 [bytes]. Before reading from it, `check` the shard: once a batch will do."""
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
        """Whether `stored_tokens` can be asked of a shard."""
        return self._token_identities[shard] is not None

    def stored_tokens(self, shard: int, row: int, start: int, stop: int) -> np.ndarray:
        """Ids [start:stop] of the targets of a shard's record from its file of tokens: a view, uint16 or uint32.

        The CRCs of what is read are checked there; and with the record's first ids that of the record in the shard, so that damage is told
        wherever it is. Before reading, `check` the shard: once a batch will do.
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
        """A shard's file of tokens as bytes and as ids, the byte at which each record begins in it, and the sidecar's offsets and lengths."""
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
            raise CacheError(f"{path} holds {len(data)} bytes; by its sidecar it should hold {begins[-1]}.", REMAKE)
        # Copies of the sidecar's columns: what was checked stays as it was, even where the sidecar itself is no longer kept.
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
        """The sidecar of a shard: mapped structured array [records] with fields `offset` and one length a feature."""
        _, index = self._indexes.get(shard) or (None, None)
        if index is None:
            path, entry = self._paths[shard] + ".idx", self._shards[shard]
            try:
                identity = storage.identity(path)
            except OSError as error:
                raise CacheError(f"sidecar {path} cannot be read: {error}.", REMAKE) from error
            index = load_index(path, self.manifest.features, entry["records"], entry["idx_sha256"])
            if not storage.is_unchanged(path, identity):
                raise _changed(path)
            self.check(shard)
            self._indexes.put(shard, (identity, index))
        return index

    def check(self, shard: int) -> None:
        """Raises CacheError if the files of a shard are no longer those that were opened; to read on could kill the process.

        One look at the file system for each of its files: a few microseconds.
        """
        path = self._paths[shard]
        if not storage.is_unchanged(path, self._identities[shard]):
            raise _changed(path)
        if (known := self._token_identities[shard]) and not storage.is_unchanged(path + ".tokens", known):
            raise _changed(path + ".tokens")
        if (kept := self._indexes.get(shard)) and not storage.is_unchanged(path + ".idx", kept[0]):
            raise _changed(path + ".idx")

    def will_need(self, shard: int, first: int, last: int) -> None:
        """Asks the system to read the tokens of records [first, last) of a shard ahead, without waiting for them."""
        if first >= last:
            return
        if self.has_tokens(shard):
            data, _, begins, _, _ = self._tokens.get(shard) or self._map_tokens(shard)
            storage.will_need(data, int(begins[first]), int(begins[last]))
        data, offsets = self.data(shard), self.index(shard)["offset"]
        storage.will_need(data, int(offsets[first]), int(offsets[last]) if last < len(offsets) else len(data))

    def lengths(self, feature: str = "targets", shard: int | None = None) -> np.ndarray:
        """uint32 lengths (first axis) of a feature: of one shard, mapped; or of all records, in order."""
        if feature not in self.manifest.features:
            raise CacheError(
                f"cache {self.directory} has no feature {feature!r}.",
                f"It has {', '.join(sorted(self.manifest.features))}.",
            )
        if shard is not None:
            return self.index(shard)[feature]
        return np.concatenate([self.index(s)[feature] for s in range(self.num_shards)])

    def rows(self, length: int) -> list[np.ndarray] | None:
        """Rows of `length` tokens that best_fit makes of each block of `targets`: int64 [blocks] a shard. None if not in the manifest."""
        return self._block_counts("rows", str(length))

    def block_tokens(self, feature: str = "targets") -> list[np.ndarray] | None:
        """Values (first axis) of a feature in each block: int64 [blocks] a shard. None if not in the manifest."""
        return self._block_counts("blocks", feature)

    def document(self, record: int) -> tuple[str, str]:
        """(id, source) of the document a record was made from."""
        shard, row = self.locate(record)
        table = self._lineage(shard)
        return table["id"][row].as_py(), table["source"][row].as_py()

    def find(self, document_id: str) -> int | None:
        """The record of a document, or None, from the lineage of the one shard it can be in. Raises ConfigurationError for a bad id."""
        if not isinstance(document_id, str) or not _DOCUMENT_ID.match(document_id):
            raise ConfigurationError(f"{document_id!r} is no document id.", "An id is 32 hexadecimal digits.")
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


class _Newest:
    """The entries put in last, at most so many, and of at most so much weight together (but one always stays). Threads may share it."""

    def __init__(self, most: int, most_weight: float = math.inf):
        self._most, self._most_weight, self._weight = most, most_weight, 0
        self._entries: dict[int, tuple[Any, int]] = {}
        self._lock = threading.Lock()  # of `put`; `get` is one step of a dict, which needs none

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, shard: int) -> Any:
        """The entry, or None."""
        entry = self._entries.get(shard)
        return entry and entry[0]

    def put(self, shard: int, value: Any, weight: int = 0) -> None:
        """Adds an entry; the oldest go where there is too much."""
        with self._lock:
            self._weight -= self._entries.pop(shard, (None, 0))[1]
            while self._entries and (len(self._entries) >= self._most or self._weight + weight > self._most_weight):
                self._weight -= self._entries.pop(next(iter(self._entries)))[1]
            self._entries[shard] = value, weight
            self._weight += weight


def _identity(directory: str, path: str, size: int) -> storage.Identity:
    """Of a shard file that has the size it should have."""
    remedy = f"{REMAKE} castor tasks verify {directory} says what else is wrong."
    try:
        identity = storage.identity(path)
    except OSError as error:
        raise CacheError(f"shard {path} of the manifest is missing.", remedy) from error
    if identity.size != size:
        raise CacheError(f"shard {path} has {identity.size} bytes; the manifest says {size}.", remedy)
    return identity


def _changed(path: str) -> CacheError:
    what = "was changed or replaced while in use" if storage.exists(path) else "was removed while in use"
    return CacheError(f"{path} {what}.", "Start again on the new cache, or put the old one back.")


def load_index(path: str, features: Iterable[str], records_: int, sha256: str = "") -> np.ndarray:
    """Maps a sidecar: structured array [records_], see cache.index_dtype.

    Raises CacheError if it is missing, damaged, not of these features and this many records, or, where `sha256` is given, not that file.
    """
    try:
        data = storage.map_bytes(path)
    except OSError as error:
        raise CacheError(f"sidecar {path} cannot be read: {error}.", REMAKE) from error
    if sha256 and hashlib.sha256(data).hexdigest() != sha256:
        raise CacheError(f"sidecar {path} is damaged or of another cache: its SHA-256 is not the manifest's.", REMAKE)
    dtype = index_dtype(features)
    usual = index_header(dtype, records_)
    if data[: len(usual)].tobytes() == usual and len(data) == len(usual) + records_ * dtype.itemsize:
        return data[len(usual) :].view(dtype)
    # Not as this version of numpy writes it. Parsing a header takes Python's compiler, which is not safe in threads everywhere (3.11).
    try:
        header = io.BytesIO(data[: len(data) - records_ * dtype.itemsize].tobytes())
        np.lib.format.read_magic(header)
        found = np.lib.format.read_array_header_1_0(header)
    except (ValueError, EOFError, SyntaxError, OverflowError, MemoryError) as error:
        raise CacheError(f"sidecar {path} cannot be read: {' '.join(str(error).split())[:200]}.", REMAKE) from error
    if found != ((records_,), False, dtype) or header.tell() + records_ * dtype.itemsize != len(data):
        raise CacheError(f"sidecar {path} does not describe {records_} records of features {sorted(features)}.", REMAKE)
    return data[header.tell() :].view(dtype)


def load_lineage(path: str, records_: int, sha256: str = ""):
    """Reads a lineage file into a pyarrow Table of `id` and `source`, [records_].

    Raises CacheError if it is missing, damaged, of another length, or, where `sha256` is given, not that file.
    """
    import pyarrow
    import pyarrow.parquet

    try:
        data = storage.read_bytes(path)
        if sha256 and hashlib.sha256(data).hexdigest() != sha256:
            raise CacheError(
                f"lineage {path} is damaged or of another cache: its SHA-256 is not the manifest's.", REMAKE
            )
        # Not read_table: it imports pandas, a second or more.
        table = pyarrow.parquet.ParquetFile(pyarrow.BufferReader(data)).read(columns=["id", "source"])
    except (OSError, pyarrow.ArrowException) as error:
        raise CacheError(f"lineage {path} cannot be read: {' '.join(str(error).split())[:200]}.", REMAKE) from error
    if table.num_rows != records_ or set(table.column_names) != {"id", "source"}:
        raise CacheError(f"lineage {path} has {table.num_rows} rows; the manifest says {records_}.", REMAKE)
    return table
