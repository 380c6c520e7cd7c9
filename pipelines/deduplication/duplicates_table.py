"""What deduplication did, written down beside the corpus: which document was removed in favour of which, and how large the clusters were.

    duplicates/SSSSS-of-NNNNN.parquet     id, kind, survivor, source, url: one row a document removed, in order of id; no file where there was none

The survivor of one rule may fall to a later one; then it has a row itself (see `survivor_of`). This file knows no Beam.
"""

import io
from collections.abc import Iterable, Iterator
from typing import Any

from castor.pipelines.core.surrogates import escape_surrogates
from castor.pipelines.document import Document
from castor.tasks.storage import storage

FOLDER = "duplicates"
COLUMNS = ("id", "kind", "survivor", "source", "url")


def row(document: Document, kind: str, survivor: str) -> tuple:
    """What the table says of a document that was removed in favour of the document with the id `survivor`."""
    url = document.metadata.get("url")
    return (
        document.id,
        kind,
        survivor,
        escape_surrogates(document.source),
        escape_surrogates(url) if isinstance(url, str) else None,
    )


def write(staging: str, shard: int, num_shards: int, rows: list[tuple]) -> None:
    """Writes the table of one shard, unless it has no row."""
    import pyarrow as pa
    import pyarrow.parquet

    if not rows:
        return
    columns = dict(zip(COLUMNS, map(list, zip(*rows))))
    buffer = io.BytesIO()
    table = pa.table(columns, schema=pa.schema([(name, pa.string()) for name in COLUMNS]))
    pyarrow.parquet.write_table(table, buffer, compression="zstd", compression_level=3, version="2.6")
    storage.makedirs(storage.join(staging, FOLDER))
    storage.write_bytes_atomic(
        storage.join(staging, FOLDER, f"{shard:05d}-of-{num_shards:05d}.parquet"), buffer.getvalue()
    )


def read(directory: str) -> Iterator[dict[str, Any]]:
    """The rows of all shards of a corpus, in order of id."""
    import pyarrow.parquet

    folder = storage.join(directory, FOLDER)
    for name in sorted(storage.list_files(folder)) if storage.exists(folder) else ():
        with storage.open_read(storage.join(folder, name)) as file:
            yield from pyarrow.parquet.read_table(file).to_pylist()


def survivor_of(rows: Iterable[dict[str, Any]], identifier: str) -> list[tuple[str, str]]:
    """The way from a removed document to the one that stays for it: (kind, id) steps; none for a document that was not removed."""
    by_id = {row["id"]: (row["kind"], row["survivor"]) for row in rows}
    steps: list[tuple[str, str]] = []
    while identifier in by_id and len(steps) <= len(by_id):
        steps.append(by_id[identifier])
        identifier = steps[-1][1]
    return steps


def count_cluster(clusters: dict[str, dict[str, int]], kind: str, size: int, count: int = 1) -> None:
    """Adds clusters of `size` documents to a histogram {kind: {size: clusters}}; sizes are rounded down to a power of two."""
    sizes = clusters.setdefault(kind, {})
    label = str(1 << (size.bit_length() - 1))
    sizes[label] = sizes.get(label, 0) + count


def sum_clusters(histograms: Iterable[dict[str, dict[str, int]]]) -> dict[str, dict[str, int]]:
    """The sum of such histograms."""
    summed: dict[str, dict[str, int]] = {}
    for clusters in histograms:
        for kind, sizes in clusters.items():
            for size, count in sizes.items():
                count_cluster(summed, kind, int(size), count)
    return summed
