"""Reads a corpus: the manifest, checked against the files it names, and the documents. No Beam."""

import dataclasses
import json
from collections.abc import Iterator
from typing import Any

from castor.pipelines.corpus.layout import FORMAT, KIND, MANIFEST
from castor.pipelines.document import Document, Element
from castor.tasks.errors import CorpusError
from castor.tasks.storage import storage

_READ_ROWS = 64


def load_manifest(directory: str) -> dict[str, Any]:
    """The manifest of a corpus. Raises CorpusError if the corpus is missing, unfinished or damaged (by file sizes)."""
    path = storage.join(directory, MANIFEST)
    if not storage.exists(path):
        state = (
            "is not finished or not a corpus: it has no manifest.json"
            if storage.exists(directory)
            else "does not exist"
        )
        raise CorpusError(
            f"corpus {directory} {state}.",
            "Run the job that makes it (castor data JOB) to completion, or correct the path.",
        )
    try:
        manifest = storage.read_json(path)
        right_kind = manifest["kind"] == KIND and manifest["format"] == FORMAT
        shards = [(s["file"], s["bytes"]) for s in manifest["shards"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CorpusError(
            f"{path} cannot be read as a manifest: {type(error).__name__}: {error}.", "Run the job that makes it again."
        ) from error
    if not right_kind:
        raise CorpusError(
            f"{path} has kind {manifest['kind']!r}, format {manifest['format']!r}; expected {KIND!r}, format {FORMAT}.",
            "Name a corpus made by castor data web, code, image, audio or video.",
        )
    for name, size in shards:
        file = storage.join(directory, name)
        if not storage.exists(file) or storage.size(file) != size:
            found = (
                f"has {storage.size(file)} bytes where the manifest says {size}"
                if storage.exists(file)
                else "is missing"
            )
            raise CorpusError(f"corpus {directory} is damaged: {name} {found}.", "Run the job that makes it again.")
    return manifest


def read_corpus(directory: str) -> Iterator[Document]:
    """All documents of a corpus, in order of id. Raises CorpusError if the corpus is missing, incomplete or damaged."""
    manifest = load_manifest(directory)
    for shard in manifest["shards"]:
        yield from read_shard(storage.join(directory, shard["file"]), shard["sha256"])


def read_shard(path: str, sha256: str | None = None) -> Iterator[Document]:
    """The documents of one Parquet shard, with a few rows in memory at a time.

    sha256: expected checksum of the file, compared before the first document; None skips the check.

    Raises CorpusError if the checksum differs or the file is not a corpus shard.
    """
    import pyarrow
    import pyarrow.parquet

    if sha256 is not None and storage.sha256(path) != sha256:
        raise CorpusError(
            f"{path} is damaged: its SHA-256 is not the manifest's.", "Run the job that makes the corpus again."
        )
    try:
        with storage.open_read(path) as file:
            for batch in pyarrow.parquet.ParquetFile(file).iter_batches(batch_size=_READ_ROWS, use_threads=False):
                for row in batch.to_pylist():
                    yield Document(
                        row["id"],
                        row["source"],
                        row["modality"],
                        row["text"],
                        row["bytes"],
                        json.loads(row["metadata"]),
                    )
    except (pyarrow.ArrowInvalid, OSError, KeyError) as error:
        raise CorpusError(
            f"{path} cannot be read as a corpus shard: {error}.", "Run the job that makes the corpus again."
        ) from error


@dataclasses.dataclass(frozen=True)
class CorpusSource:
    """A corpus as a source for `stages.Read`: one unit of work per shard. Documents only."""

    directory: str

    def files(self) -> list[str]:
        return [storage.join(self.directory, shard["file"]) for shard in load_manifest(self.directory)["shards"]]

    def read(self, uri: str) -> Iterator[Element]:
        shards = {storage.join(self.directory, s["file"]): s["sha256"] for s in load_manifest(self.directory)["shards"]}
        return read_shard(uri, shards[uri])
