"""The table of removed duplicates in a corpus, and the histogram of cluster sizes.

    duplicates/SSSSS-of-NNNNN.parquet     id, kind, survivor, source, url: one row per removed document, in order of id

A shard without removed documents has no file. A later rule may remove the survivor of an earlier one, which then has
its own row (see `survivor_of`). No Beam.
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
    """The row of a document that was removed in favour of the document with the id `survivor`."""
    url = document.metadata.get("url")
    return (
        document.id,
        kind,
        survivor,
        escape_surrogates(document.source),
        escape_surrogates(url) if isinstance(url, str) else None,
    )


def write(staging: str, shard: int, num_shards: int, rows: list[tuple]) -> None:
    """Writes the table of one shard, unless `rows` is empty."""
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
    """The (kind, id) steps from a removed document to the one that stays; empty if the document was not removed."""
    by_id = {row["id"]: (row["kind"], row["survivor"]) for row in rows}
    steps: list[tuple[str, str]] = []
    while identifier in by_id and len(steps) <= len(by_id):
        steps.append(by_id[identifier])
        identifier = steps[-1][1]
    return steps


def count_cluster(clusters: dict[str, dict[str, int]], kind: str, size: int, count: int = 1) -> None:
    """Adds `count` clusters of `size` documents to a histogram {kind: {size: clusters}}.

    Sizes are rounded down to powers of two.
    """
    sizes = clusters.setdefault(kind, {})
    label = str(1 << (size.bit_length() - 1))
    sizes[label] = sizes.get(label, 0) + count


def sum_clusters(histograms: Iterable[dict[str, dict[str, int]]]) -> dict[str, dict[str, int]]:
    """The sum of histograms of cluster sizes (`count_cluster`)."""
    summed: dict[str, dict[str, int]] = {}
    for clusters in histograms:
        for kind, sizes in clusters.items():
            for size, count in sizes.items():
                count_cluster(summed, kind, int(size), count)
    return summed
