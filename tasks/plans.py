"""The packed rows of a cache: how many each block has, and the plan of a block when one is read.

Numbers of rows must be known for the whole cache, since the order of an epoch follows from them; plans only for what is read. The numbers
come from the manifest (best_fit at a standard length), from its token counts (concat_and_split), or are counted once from all sidecars.
Plans and counts are kept beside the shards:

    plans/<method>-<feature>=<capacity>-.../<split>-SSSSS-of-NNNNN.BBBB.plan     one block
    plans/<method>-<feature>=<capacity>-.../<split>.rows                        rows of every block

Each begins with a digest of its content, of what it was made from (the checksums of the sidecars) and of the packing's version. A file
that does not match, because it is damaged or was made from another cache, is made again. A cache that may not be written to is left alone;
a full disk is an error, not a slower run.
"""

import errno
import functools
import hashlib
from collections.abc import Callable, Mapping

import numpy as np

from tasks import packing, storage
from tasks.cache import PLANS_FOLDER
from tasks.cache_reader import CacheReader
from tasks.errors import CacheError

_DIGEST_BYTES = 32
_NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR)
_PLANS_IN_MEMORY = 64


class Plans:
    """Packed rows of one split of a cache. capacities: feature -> values of a row; features that the cache lacks do not count.

    progress: called with (blocks counted, blocks in all) while rows are counted, which happens only where the manifest does not tell them.
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
        config = "-".join([method, *(f"{name}={capacity}" for name, capacity in self.capacities.items())])
        self._folder = storage.join(reader.directory, PLANS_FOLDER, config)
        self._writable = True
        self._entries = reader.manifest.shards(reader.split)
        self._blocks = [packing.num_blocks(entry["records"]) for entry in self._entries]
        self._rows = self._known_rows()
        self.shard_rows = np.array([int(sum(rows)) for rows in self._rows], dtype=np.int64)
        """int64 [shards]: packed rows of each shard."""
        self.plan = functools.lru_cache(maxsize=_PLANS_IN_MEMORY)(self._plan)

    def block_rows(self, shard: int) -> np.ndarray:
        """int64 [blocks]: packed rows of each block of a shard."""
        return np.asarray(self._rows[shard], dtype=np.int64)

    def _plan(self, shard: int, block: int) -> packing.Plan:
        """The plan of a block: from memory, from beside the shard, or made now and put there."""
        path = storage.join(self._folder, f"{self._shard_name(shard)}.{block:04d}.plan")
        source = f"{self._entries[shard]['idx_sha256']} {block}"
        numbers = self._read(path, source)
        if numbers is None:
            plan = packing.plan(self._lengths(shard, block), self.capacities, self._method)
            head = [plan.num_rows, len(plan.record)]
            self._write(path, source, np.concatenate([head, plan.row_starts, plan.record, plan.start.ravel(), plan.size.ravel()]))
        else:
            rows, segments = numbers[:2].tolist()
            row_starts, record, spans = np.split(numbers[2:], [rows + 1, rows + 1 + segments])
            start, size = spans.reshape(2, len(self.capacities), segments)
            plan = packing.Plan(self.capacities, row_starts, record, start, size)
        if plan.num_rows != self._rows[shard][block]:
            raise CacheError(
                f"{self._reader.path(shard)}.idx packs into {plan.num_rows} rows in block {block}; {self._rows[shard][block]} were counted.",
                "Make the cache again with castor data tokenize.",
            )
        return plan

    def _known_rows(self) -> list:
        """Per shard the rows of its blocks."""
        (feature, length), *more = self.capacities.items()
        if self._method == "concat_and_split":
            tokens = self._reader.block_tokens(feature)
            if tokens is not None:
                return [[packing.count_concatenated(int(count), length) for count in shard] for shard in tokens]
        elif self._method == "best_fit" and feature == "targets" and not more:
            rows = self._reader.rows(length)
            if rows is not None:
                return rows
        return self._counted_rows()

    def _counted_rows(self) -> list[np.ndarray]:
        path = storage.join(self._folder, f"{self._reader.split}.rows")
        source = hashlib.sha256("".join(entry["idx_sha256"] for entry in self._entries).encode()).hexdigest()
        numbers = self._read(path, source)
        if numbers is None:
            counts: list[int] = []
            for shard, blocks in enumerate(self._blocks):
                for block in range(blocks):
                    counts.append(self._count(shard, block))
                    if self._progress:
                        self._progress(len(counts), sum(self._blocks))
            numbers = np.array(counts, dtype=np.int32)
            self._write(path, source, numbers)
        return np.split(numbers, np.cumsum(self._blocks)[:-1])

    def _count(self, shard: int, block: int) -> int:
        lengths = self._lengths(shard, block)
        if self._method == "best_fit" and len(lengths) == 1:
            ((feature, length),) = self.capacities.items()
            return packing.count_rows(lengths[feature], length)
        if self._method == "concat_and_split":
            ((feature, length),) = self.capacities.items()
            return packing.count_concatenated(int(lengths[feature].sum(dtype=np.int64)), length)
        return packing.plan(lengths, self.capacities, self._method).num_rows

    def _lengths(self, shard: int, block: int) -> dict[str, np.ndarray]:
        index = self._reader.index(shard)[block * packing.BLOCK_RECORDS : (block + 1) * packing.BLOCK_RECORDS]
        return {name: index[name] for name in self.capacities}

    def _shard_name(self, shard: int) -> str:
        return f"{self._reader.split}-{shard:05d}-of-{len(self._entries):05d}"

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
                    "Free some space, or take the right to write to the cache away: its plans are then made anew in every run.",
                ) from error
            self._writable = False


def _digest(source: str, body: bytes) -> bytes:
    digest = hashlib.blake2b(digest_size=_DIGEST_BYTES, person=b"castor.plan")
    digest.update(f"{packing.VERSION} {packing.BLOCK_RECORDS} {source} ".encode())
    digest.update(body)
    return digest.digest()
