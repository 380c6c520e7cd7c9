"""The packed rows of a cache: the number of rows per block, and the plan of a block on demand.

The order of an epoch needs the number of rows of the whole cache, but plans only of the blocks that are read. The
numbers come from the manifest (best_fit at a standard length) or from its token counts (concat_and_split). Otherwise,
and where small shards are packed together, they are counted once from all .idx files. Plans and counts are stored in
the cache:

    plans/<method>-<feature>=<capacity>-.../<split>-SSSSS-of-NNNNN.BBBB.plan     one block, by its first shard
    plans/<method>-<feature>=<capacity>-.../<split>.rows                        rows of every block

Each file starts with a digest of its content, of its inputs (method, capacities, checksums of the .idx files) and of
the packing version. A file that does not match, because it is damaged or belongs to another cache, is recomputed. A
read-only cache is left unchanged. A full disk is an error, so that it does not silently slow down every run.
"""

import errno
import functools
import hashlib
from collections.abc import Callable, Mapping

import numpy as np

from castor.tasks.cache.layout import PLANS_FOLDER
from castor.tasks.cache.reader import CacheReader
from castor.tasks.errors import CacheError
from castor.tasks.mixing import packing
from castor.tasks.storage import storage

_DIGEST_BYTES = 32
_NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR)
_PLANS_IN_MEMORY = 64


class Plans:
    """The packed rows of one split of a cache.

    reader: reader of the split.

    capacities: feature -> values per row. Features that the cache lacks are ignored.

    method: packing method, one of packing.METHODS.

    progress: None, or a function called with (blocks counted, blocks in total) while rows are counted. Rows are
    counted only if the manifest lacks their number.
    """

    def __init__(
        self,
        reader: CacheReader,
        capacities: Mapping[str, int],
        method: str = "best_fit",
        progress: Callable[[int, int], None] | None = None,
    ):
        self._reader, self._method, self._progress = reader, method, progress
        self.capacities = {name: capacity for name, capacity in capacities.items() if name in reader.manifest.features}
        self._config = "-".join([method, *(f"{name}={capacity}" for name, capacity in self.capacities.items())])
        self._folder = storage.join(reader.directory, PLANS_FOLDER, self._config)
        self._writable = True
        self._entries = reader.manifest.shards(reader.split)
        self.groups = packing.groups([entry["records"] for entry in self._entries])
        """Shards (first, last + 1) of each group."""
        self._rows = self._known_rows()
        self.group_rows = np.array([int(sum(rows)) for rows in self._rows], dtype=np.int64)
        """Packed rows of each group, int64 [groups]."""
        self.plan = functools.lru_cache(maxsize=_PLANS_IN_MEMORY)(self._plan)

    def block_rows(self, group: int) -> np.ndarray:
        """Packed rows of each block of a group, int64 [blocks]."""
        return np.asarray(self._rows[group], dtype=np.int64)

    def _plan(self, group: int, block: int) -> packing.Plan:
        """The plan of a block, read from the plan file or computed and stored there."""
        first, last = self.groups[group]
        path = storage.join(
            self._folder, f"{self._reader.split}-{first:05d}-of-{len(self._entries):05d}.{block:04d}.plan"
        )
        source = f"{self._source(first, last)} {block}"
        numbers = self._read(path, source)
        if numbers is None:
            plan = packing.plan(self._lengths(group, block), self.capacities, self._method)
            head = [plan.num_rows, len(plan.record)]
            self._write(
                path,
                source,
                np.concatenate([head, plan.row_starts, plan.record, plan.start.ravel(), plan.size.ravel()]),
            )
        else:
            rows, segments = numbers[:2].tolist()
            row_starts, record, spans = np.split(numbers[2:], [rows + 1, rows + 1 + segments])
            start, size = spans.reshape(2, len(self.capacities), segments)
            plan = packing.Plan(self.capacities, row_starts, record, start, size)
        if plan.num_rows != self._rows[group][block]:
            raise CacheError(
                f"{self._reader.path(first)}.idx packs into {plan.num_rows} rows in block {block}, "
                f"but {self._rows[group][block]} rows were counted.",
                "Remake the cache with castor data tokenize.",
            )
        return plan

    def _known_rows(self) -> list:
        """For each group, the number of rows of each block."""
        (feature, length), *more = self.capacities.items()
        if self._method == "concat_and_split":
            tokens = self._reader.block_tokens(feature)
            if tokens is not None:
                return [
                    [packing.count_concatenated(int(sum(tokens[shard].sum() for shard in range(first, last))), length)]
                    if last - first > 1
                    else [packing.count_concatenated(count, length) for count in tokens[first].tolist()]
                    for first, last in self.groups
                ]
        known = self._reader.rows(length) if self._method == "best_fit" and feature == "targets" and not more else None
        if known is not None and len(self.groups) == len(self._entries):
            return known
        return self._counted_rows(known)

    def _counted_rows(self, known: list[np.ndarray] | None) -> list[np.ndarray]:
        """The same numbers, read from the .rows file or counted from the .idx files.

        known: rows of each shard's blocks from the manifest, valid for groups of one shard; None if the manifest has
        none.
        """
        path = storage.join(self._folder, f"{self._reader.split}.rows")
        source = self._source(0, len(self._entries))
        blocks = [
            packing.num_blocks(sum(entry["records"] for entry in self._entries[first:last]))
            for first, last in self.groups
        ]
        numbers = self._read(path, source)
        if numbers is None:
            counts: list[int] = []
            for group, (first, last) in enumerate(self.groups):
                alone = last - first == 1 and known is not None
                counts += (
                    known[first].tolist() if alone else [self._count(group, block) for block in range(blocks[group])]
                )
                if self._progress:
                    self._progress(len(counts), sum(blocks))
            numbers = np.array(counts, dtype=np.int32)
            self._write(path, source, numbers)
        return np.split(numbers, np.cumsum(blocks)[:-1])

    def _source(self, first: int, last: int) -> str:
        """The inputs of a plan file of these shards, so that a file copied from elsewhere does not match."""
        checksums = "".join(entry["idx_sha256"] for entry in self._entries[first:last])
        return f"{self._config} {hashlib.sha256(checksums.encode()).hexdigest()}"

    def _count(self, group: int, block: int) -> int:
        lengths = self._lengths(group, block)
        if self._method == "best_fit" and len(lengths) == 1:
            ((feature, length),) = self.capacities.items()
            return packing.count_rows(lengths[feature], length)
        if self._method == "concat_and_split":
            ((feature, length),) = self.capacities.items()
            return packing.count_concatenated(int(lengths[feature].sum(dtype=np.int64)), length)
        return packing.plan(lengths, self.capacities, self._method).num_rows

    def _lengths(self, group: int, block: int) -> dict[str, np.ndarray]:
        part = slice(block * packing.BLOCK_RECORDS, (block + 1) * packing.BLOCK_RECORDS)
        indexes = [self._reader.index(shard)[part] for shard in range(*self.groups[group])]
        return {name: np.concatenate([index[name] for index in indexes]) for name in self.capacities}

    def _read(self, path: str, source: str) -> np.ndarray | None:
        try:
            data = storage.read_bytes(path)
        except OSError:
            return None
        body = data[_DIGEST_BYTES:]
        if data[:_DIGEST_BYTES] != _digest(source, body):
            return None
        return np.frombuffer(body, dtype="<i4").astype(np.int32, copy=False)

    def _write(self, path: str, source: str, numbers: np.ndarray) -> None:
        if not self._writable:
            return
        body = np.asarray(numbers).astype("<i4").tobytes()
        try:
            storage.makedirs(self._folder)
            storage.write_bytes_atomic(path, _digest(source, body) + body, sync=False)
        except OSError as error:
            if error.errno not in _NOT_WRITABLE:
                raise CacheError(
                    f"plan {path} cannot be written: {error.strerror or error}.",
                    "Free some disk space. Or make the cache read-only: every run then recomputes the plans.",
                ) from error
            self._writable = False


def _digest(source: str, body: bytes) -> bytes:
    digest = hashlib.blake2b(digest_size=_DIGEST_BYTES, person=b"castor.plan")
    digest.update(f"{packing.VERSION} {packing.BLOCK_RECORDS} {source} ".encode())
    digest.update(body)
    return digest.digest()
