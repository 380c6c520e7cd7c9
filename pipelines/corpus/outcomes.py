"""The table of outcomes: one row per record that a job read, for lookup after the record's text is gone.

    fates/SSSSS-of-NNNNN.parquet      id, source, url, fate, reason, measure; cut and sorted by id like the corpus

The folder and the column are named `fates` and `fate` on disk for compatibility with earlier corpora.

id       16 bytes
source   reference to the record
url      64 bits of the hash of the normalised URL (text/urls.py); null if the record has no URL
fate     the outcome: kept, rejected, duplicate or dead letter
reason   rejected: the reason code; duplicate: the kind; dead letter: `stage.error`
measure  rejected: the offending value; duplicate: the id of the surviving document; dead letter: the message;
         kept: what the sink cut from the document, or the repository document that contains the file

The table takes about 50 bytes per record. If the files of a repository are joined, the repository documents have rows
too. No Beam.
"""

import dataclasses
import functools
import io
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from castor.pipelines.core.sources import CONTENT, LOCATION, unit_of
from castor.pipelines.core.surrogates import escape_surrogates
from castor.pipelines.deduplication.rules import condense
from castor.pipelines.document import DeadLetter, Document
from castor.pipelines.text.urls import normalise_url
from castor.tasks import hashing
from castor.tasks.errors import CorpusError
from castor.tasks.storage import storage

FOLDER = "fates"
KEPT, REJECTED, DUPLICATE, DEAD = "kept", "rejected", "duplicate", "dead letter"

_MEASURE = 300
_ROW_GROUP = 1 << 16


@dataclasses.dataclass(frozen=True)
class Outcome:
    """One row of the table; fields as above. `url` is the 64-bit hash or None."""

    id: str
    source: str
    url: int | None
    outcome: str
    reason: str = ""
    measure: str = ""


def of_document(document: Document, outcome: str, reason: str = "", measure: str = "") -> Outcome:
    """The row of a document that was kept, rejected or removed as a duplicate."""
    url = document.metadata.get("url")
    hashed = url_hash(url) if isinstance(url, str) and url else None
    return Outcome(
        document.id, escape_surrogates(document.source), hashed, outcome, reason, escape_surrogates(measure)[:_MEASURE]
    )


def of_letter(letter: DeadLetter) -> Outcome:
    """The row of a dead letter."""
    return Outcome(
        letter.id,
        escape_surrogates(letter.source),
        None,
        DEAD,
        f"{letter.stage}.{letter.error}",
        escape_surrogates(letter.message)[:_MEASURE],
    )


def url_hash(url: str) -> int:
    """The first 64 bits of the hash of the normalised URL, as a signed integer."""
    return int.from_bytes(condense(normalise_url(url).encode("utf-8", "surrogatepass"))[:8], "little", signed=True)


def write(staging: str, shard: int, num_shards: int, rows: Iterable[Outcome]) -> None:
    """Writes the sorted table of one shard."""
    import pyarrow as pa
    import pyarrow.parquet

    rows = sorted(rows, key=_order)
    kinds = {
        "id": pa.binary(16),
        "source": pa.string(),
        "url": pa.int64(),
        "fate": pa.string(),
        "reason": pa.string(),
        "measure": pa.string(),
    }
    columns = {name: [getattr(row, "outcome" if name == "fate" else name) for row in rows] for name in kinds}
    columns["id"] = [bytes.fromhex(identifier) for identifier in columns["id"]]
    buffer = io.BytesIO()
    table = pa.table(columns, schema=pa.schema(list(kinds.items())))
    options = {"compression": "zstd", "compression_level": 3, "version": "2.6", "use_dictionary": ["fate", "reason"]}
    pyarrow.parquet.write_table(table, buffer, row_group_size=_ROW_GROUP, **options)
    storage.makedirs(storage.join(staging, FOLDER))
    storage.write_bytes_atomic(storage.join(staging, file_name(shard, num_shards)), buffer.getvalue())


def file_name(shard: int, num_shards: int) -> str:
    """Name of a shard relative to the output directory."""
    return f"{FOLDER}/{shard:05d}-of-{num_shards:05d}.parquet"


def find(directory: str, *, id: str = "", url: str = "", source: str = "") -> Iterator[Outcome]:
    """The rows with the given id, URL or source, in order of id. Give one of the three.

    id: 32 hex digits; only the shard of this id is read.
    url: any spelling with the same normalised form; all shards are read, one row group at a time.
    source: the whole source, or its end after a slash (`a.warc.gz#offset=120`); all shards are read.

    Raises CorpusError if the corpus has no table.
    """
    import pyarrow.parquet

    folder, names = storage.join(directory, FOLDER), _tables(directory)
    if id:
        names = [names[hashing.shard_of(int(id[:16], 16), len(names))]]
    column, wanted = ("id", bytes.fromhex(id)) if id else ("url", url_hash(url)) if url else ("source", source)
    for name in names:
        with storage.open_read(storage.join(folder, name)) as opened:
            file = pyarrow.parquet.ParquetFile(opened)
            for group in range(file.num_row_groups):
                at = _matching_rows(file.read_row_group(group, columns=[column], use_threads=False).column(0), wanted)
                if len(at):
                    yield from map(_outcome, file.read_row_group(group, use_threads=False).take(at).to_pylist())


def _order(row: Outcome) -> tuple:
    return row.id, row.outcome, row.reason, row.source, row.measure


def _outcome(row: dict[str, Any]) -> Outcome:
    return Outcome(row["id"].hex(), row["source"], row["url"], row["fate"], row["reason"], row["measure"])


@functools.lru_cache(maxsize=1)
def marks_in(directory: str, units: tuple[str, ...], identity: str = LOCATION) -> frozenset[bytes]:
    """Marks (see `mark`) of all records of `units` (see sources.unit_of), with any outcome. Cached.

    Raises CorpusError if the corpus has no table.
    """
    import pyarrow.parquet

    folder, wanted, found = storage.join(directory, FOLDER), frozenset(units), set()
    for name in _tables(directory):
        with storage.open_read(storage.join(folder, name)) as opened:
            for batch in pyarrow.parquet.ParquetFile(opened).iter_batches(
                _ROW_GROUP, columns=["id", "source"], use_threads=False
            ):
                for identifier, source in zip(*(column.to_pylist() for column in batch.columns)):
                    if unit_of(source, wanted) is not None:
                        found.add(mark(identifier.hex(), source, identity))
    return frozenset(found)


def mark(identifier: str, source: str, identity: str) -> bytes:
    """16 bytes that identify a record in its corpus.

    They are the id, or with ids by content, where copies share an id, the hash of the source.
    """
    return condense(escape_surrogates(source).encode()) if identity == CONTENT else bytes.fromhex(identifier)


def _tables(directory: str) -> list[str]:
    folder = storage.join(directory, FOLDER)
    names = sorted(storage.list_files(folder)) if storage.exists(folder) else []
    if not names:
        raise CorpusError(
            f"{directory} has no table of outcomes.",
            "Run its job again: older versions of Castor did not write the table.",
        )
    return names


def _matching_rows(column, wanted: bytes | int | str):
    """Indices of the rows of a column that equal `wanted`; a string also matches as the end of a path.

    Uses NumPy because indices_nonzero of pyarrow 25 crashes on a column without chunks.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    same = pc.equal(column, pa.scalar(wanted, column.type))
    if isinstance(wanted, str):
        same = pc.or_(same, pc.ends_with(column, "/" + wanted.lstrip("/")))
    return np.flatnonzero(pc.fill_null(same, False).to_numpy())
