"""One Parquet file of documents: its schema, and a writer whose bytes depend on the documents alone."""

import hashlib
import io
import json
from typing import Any

from castor.pipelines.core.surrogates import escape_surrogates
from castor.pipelines.document import Document
from castor.tasks.storage import storage

_ROW_GROUP_BYTES = 32 << 20
_ROW_GROUP_ROWS = 4096


def schema(with_measure: bool = False):
    """The Arrow schema of a shard; `metadata` is a JSON object as text."""
    import pyarrow as pa

    fields = [
        ("id", pa.string()),
        ("source", pa.string()),
        ("modality", pa.string()),
        ("text", pa.string()),
        ("bytes", pa.binary()),
        ("metadata", pa.string()),
    ]
    return pa.schema(
        [pa.field(name, kind) for name, kind in fields] + ([pa.field("measure", pa.string())] if with_measure else [])
    )


class ParquetShard:
    """A Parquet file of documents in order of id.

    Row groups are cut by numbers of rows and bytes, so the file depends on the documents alone.
    """

    def __init__(self, path: str, with_measure: bool = False):
        import pyarrow.parquet

        self._path = path
        self._schema = schema(with_measure)
        self._buffer = io.BytesIO()
        self._writer = pyarrow.parquet.ParquetWriter(
            self._buffer, self._schema, compression="zstd", compression_level=3, version="2.6"
        )
        self._rows: list[dict] = []
        self._pending = 0
        self.records = 0

    def add(self, document: Document, measure: str | None = None) -> tuple[str, str] | None:
        """Adds a row, or returns (error, message) if Parquet cannot represent the document."""
        try:
            metadata = json.dumps(document.metadata, sort_keys=True, ensure_ascii=False, allow_nan=False)
            metadata.encode("utf-8")
            if document.text is not None:
                document.text.encode("utf-8")
        except UnicodeEncodeError as error:
            return "lone_surrogate", str(error)[:200]
        except (TypeError, ValueError, RecursionError) as error:
            return "metadata", str(error)[:200]
        row = {
            "id": document.id,
            "source": escape_surrogates(document.source),
            "modality": document.modality,
            "text": document.text,
            "bytes": document.bytes,
            "metadata": metadata,
        }
        if measure is not None:
            row["measure"] = escape_surrogates(measure)
        self._rows.append(row)
        self._pending += len(document.text or "") + len(document.bytes or b"") + len(metadata)
        self.records += 1
        if self._pending >= _ROW_GROUP_BYTES or len(self._rows) >= _ROW_GROUP_ROWS:
            self._flush()
        return None

    def close(self) -> dict[str, Any]:
        """Writes the file; returns {records, bytes, sha256}."""
        if self._rows:
            self._flush()
        self._writer.close()
        data = self._buffer.getvalue()
        storage.makedirs(self._path.rpartition("/")[0])
        storage.write_bytes_atomic(self._path, data)
        return {"records": self.records, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}

    def _flush(self) -> None:
        import pyarrow

        self._writer.write_table(pyarrow.Table.from_pylist(self._rows, schema=self._schema))
        self._rows, self._pending = [], 0
