"""The corpus on disk: how a refining job writes it and how everything after reads it.

    OUTPUT/
      documents-SSSSS-of-NNNNN.parquet      id, source, modality, text, bytes, metadata (JSON); cut and sorted by id
      dead_letter/SSSSS-of-NNNNN.jsonl      see pipelines/core/dead_letters.py
      rejected/REASON/SSSSS-of-NNNNN.parquet     on request: the documents rejected, with the column `measure`
      duplicates/SSSSS-of-NNNNN.parquet     which document stays for each one removed, see pipelines/deduplication/duplicates_table.py
      fates/SSSSS-of-NNNNN.parquet          what became of every record read, see pipelines/corpus/outcomes.py
      contamination.json, .html             benchmark passages found, where a job looks for them, see pipelines/decontamination/report.py
      card.html                             the data card
      manifest.json                         written last: shards with size and SHA-256, funnel, configuration, fingerprints, inputs

pandas, DuckDB and Hugging Face datasets open `OUTPUT/*.parquet` as it is. An id is a uniform 128-bit hash, so equal intervals of it are
equal shards, and the corpus as a whole is sorted by id. Every byte follows from the documents alone: no timestamp, no host, no order of
arrival.

Writing (the transform is pipelines/corpus/sink.py, so that readers need no Beam): the pipeline writes into a staging folder
OUTPUT/.staging-RANDOM (each shard by one write-once file, so a repeated bundle rewrites the same bytes) with one entry file a shard; after
the pipeline has succeeded the launcher adds the entries up and commits: manifest away, files in, stale files away, manifest back. Readers
trust only the manifest, so nothing half-written is ever a corpus.
"""

import dataclasses
import io
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

import msgpack

from castor.pipelines.core import dead_letters
from castor.pipelines.core.funnel import Funnel, total
from castor.pipelines.corpus import card_facts, outcomes
from castor.pipelines.decontamination import report
from castor.pipelines.deduplication import duplicates_table
from castor.pipelines.document import DeadLetter, Document, Element, Rejection, document_id, pack, unpack
from castor.tasks.errors import CorpusError
from castor.tasks.storage import storage

KIND, FORMAT = "corpus", 1
MANIFEST = "manifest.json"
CARD = "card.html"
REJECTED = "rejected"
FAILED = ".failed"
_ENTRIES = ".entries"
_OWN = (CARD, dead_letters.FOLDER, REJECTED, duplicates_table.FOLDER, outcomes.FOLDER, FAILED, report.JSON, report.PAGE)

_ROW_GROUP_BYTES = 32 << 20
_ROW_GROUP_ROWS = 4096
_READ_ROWS = 64
_REASON = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


# Reading.


def load_manifest(directory: str) -> dict[str, Any]:
    """The manifest of a corpus, checked against the files it names. Raises CorpusError naming the directory and the remedy."""
    path = storage.join(directory, MANIFEST)
    if not storage.exists(path):
        state = (
            "is not finished or not a corpus: it has no manifest.json"
            if storage.exists(directory)
            else "does not exist"
        )
        raise CorpusError(
            f"corpus {directory} {state}.",
            "Run the job that makes it (castor data JOB) to its end, or correct the path.",
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
            f"{path} is of kind {manifest['kind']!r}, format {manifest['format']!r}; wanted {KIND!r}, format {FORMAT}.",
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
    """All documents of a corpus, in order of id. Raises CorpusError where it is missing, incomplete or damaged."""
    manifest = load_manifest(directory)
    for shard in manifest["shards"]:
        yield from read_shard(storage.join(directory, shard["file"]), shard["sha256"])


def read_shard(path: str, sha256: str | None = None) -> Iterator[Document]:
    """The documents of one Parquet shard, a few rows in memory at a time; with `sha256`, only after the file has proved to be the one
    meant.
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
    """A corpus as a source for `stages.Read`: one shard a unit of work. Documents only."""

    directory: str

    def files(self) -> list[str]:
        return [storage.join(self.directory, shard["file"]) for shard in load_manifest(self.directory)["shards"]]

    def read(self, uri: str) -> Iterator[Element]:
        shards = {storage.join(self.directory, s["file"]): s["sha256"] for s in load_manifest(self.directory)["shards"]}
        return read_shard(uri, shards[uri])


# Writing: the staging folder.


def shard_file(shard: int, num_shards: int) -> str:
    """Name of a shard of documents."""
    return f"documents-{shard:05d}-of-{num_shards:05d}.parquet"


def encode_element(element: Element, keep_rejects: bool) -> tuple[str, bytes]:
    """(id, row) of an element for `write_shard`. A rejected document is cut to an excerpt unless rejects are kept whole."""
    if isinstance(element, Rejection) and not _REASON.fullmatch(element.reason):
        raise ValueError(
            f"reason {element.reason!r} cannot name a folder: letters, digits, '.', '_' and '-' only, a letter or digit first"
        )
    if isinstance(element, Rejection) and not keep_rejects:
        document = element.document
        element = dataclasses.replace(
            element, document=document.replace(text=document.text and document.text[: card_facts.EXCERPT], bytes=None)
        )
    return (element.document.id if isinstance(element, Rejection) else element.id), b"E" + pack(element)


def encode_removal(identifier: str, kind: str, survivor: str = "", size: int = 0) -> tuple[str, bytes]:
    """(id, row) that removes document `identifier` as a duplicate of `kind`, in favour of the document `survivor`, "" if that is not known.

    With a `size` it removes nothing: it says that `identifier` stays for a cluster of so many documents.
    """
    return identifier, b"R" + msgpack.packb([identifier, kind, survivor, size])


def encode_members(element: Element) -> Iterator[tuple[str, bytes]]:
    """(id, row) for each record that stands in a repository document (pipelines/sourcecode/repository_layout.py): what became of it."""
    for member in element.members if isinstance(element, Document) else ():
        if not member.get("piece"):
            yield (
                member["id"],
                b"M" + msgpack.packb([member["id"], member["source"], element.id], unicode_errors="surrogatepass"),
            )


def encode_line(identifier: bytes, key: bytes) -> tuple[str, bytes]:
    """(id, row) that says that a document owns the line with this key (pipelines/deduplication/line_owners.py)."""
    return identifier.hex(), b"L" + identifier + key


def encode_read(uri: str, count: int) -> tuple[str, bytes]:
    """(hash, row) that says how many elements were read from a file."""
    return document_id("read", uri), b"C" + msgpack.packb(count)


def write_shard(
    staging: str, shard: int, num_shards: int, rows: Iterable[bytes], keep_rejects: bool = False, lines: Any = None
) -> None:
    """Writes one shard of everything and its entry from the rows of `encode_*`, in whatever order they come.

    `lines`, if not None, is the filters.c4_lines.SharedLines by which documents are cut to the lines they own.
    """
    funnel, removals, letters, clusters, findings = Funnel(), {}, [], {}, report.Findings()
    removed: list[tuple] = []
    owned: dict[str, set[bytes]] = {}
    inside: dict[str, str] = {}  # records that stand in a repository document -> its id
    became: list[outcomes.Fate] = []
    kept: list[tuple[str, bytes]] = []
    rejected: list[tuple[str, str, bytes]] = []
    for row in rows:
        kind, body = row[:1], row[1:]
        if kind == b"C":
            funnel.read += msgpack.unpackb(body)
        elif kind == b"R":
            identifier, duplicate, survivor, size = msgpack.unpackb(body)
            if size:
                duplicates_table.count_cluster(clusters, duplicate, size)
            else:
                removals[identifier] = min((duplicate, survivor), removals.get(identifier, (duplicate, survivor)))
        elif kind == b"M":
            member, source, document_of_it = msgpack.unpackb(body, unicode_errors="surrogatepass")
            inside[member] = document_of_it
            became.append(outcomes.Fate(member, source, None, outcomes.KEPT, "", f"stands in {document_of_it}"))
        elif kind == b"L":
            owned.setdefault(body[:16].hex(), set()).add(body[16:])
        else:
            element = unpack(body)
            if isinstance(element, Document):
                kept.append((element.id, body))
            elif isinstance(element, Rejection):
                funnel.reject(element.reason)
                findings.add(element.document, element.reason)
                rejected.append((element.reason, element.document.id, body))
                became.append(
                    outcomes.of_document(element.document, outcomes.REJECTED, element.reason, element.measure)
                )
            else:
                letters.append(element)
    writer = _ParquetShard(storage.join(staging, shard_file(shard, num_shards)))
    facts = card_facts.Facts()
    previous = None
    for identifier, body in sorted(kept):
        if identifier == previous or identifier in inside:
            funnel.duplicate("id")
            became.append(outcomes.of_document(unpack(body), outcomes.DUPLICATE, "id", identifier))
        elif identifier in removals:
            kind, survivor = removals[identifier]
            funnel.duplicate(kind)
            document = unpack(body)
            removed.append(duplicates_table.row(document, kind, survivor))
            became.append(outcomes.of_document(document, outcomes.DUPLICATE, kind, survivor))
        else:
            document = unpack(body)
            element = document if lines is None else lines.edit(document, owned.get(identifier, ()))
            if isinstance(element, Rejection):
                funnel.reject(element.reason)
                rejected.append((element.reason, identifier, encode_element(element, keep_rejects)[1][1:]))
                became.append(outcomes.of_document(document, outcomes.REJECTED, element.reason, element.measure))
            elif (problem := writer.add(element)) is not None:
                letters.append(DeadLetter(element.id, element.source, "sink", *problem))
            else:
                funnel.kept += element.records
                facts.add(element)
                findings.add(element)
                cut = len(document.text or "") - len(element.text or "")
                became.append(
                    outcomes.of_document(
                        element, outcomes.KEPT, measure=f"{cut} characters of shared lines cut" if cut else ""
                    )
                )
        previous = identifier
    entry = {"shard": {"file": shard_file(shard, num_shards), **writer.close()}}
    for letter in letters:
        funnel.dead(letter.stage, letter.error)
        became.append(outcomes.of_letter(letter))
    _write(storage.join(staging, dead_letters.file_name(shard, num_shards)), dead_letters.encode(letters))
    if keep_rejects:
        _write_rejects(staging, shard, num_shards, rejected)
    duplicates_table.write(staging, shard, num_shards, removed)
    outcomes.write(staging, shard, num_shards, became)
    entry.update(clusters=clusters, contamination=findings.to_json(), funnel=funnel.to_json(), facts=facts.to_json())
    entry.update(rejected_samples=card_facts.rejected_samples(rejected))
    storage.makedirs(storage.join(staging, _ENTRIES))
    storage.write_json_atomic(storage.join(staging, _ENTRIES, f"{shard:05d}.json"), entry)


def read_entries(staging: str, num_shards: int) -> list[dict[str, Any]]:
    """The entries of all shards, in order. Raises CorpusError if the pipeline has not written one."""
    folder = storage.join(staging, _ENTRIES)
    names = [f"{shard:05d}.json" for shard in range(num_shards)]
    missing = sorted(set(names) - set(storage.list_files(folder)))
    if missing:
        raise CorpusError(
            f"the pipeline ended without writing {len(missing)} of {num_shards} shards ({folder}).",
            "Run the job again.",
        )
    return [storage.read_json(storage.join(folder, name)) for name in names]


def commit(staging: str, output: str, manifest: dict[str, Any]) -> None:
    """Makes the staged files the content of `output`, the manifest last. What `output` held before is gone; other folders in it stay."""
    storage.remove(storage.join(output, MANIFEST))
    storage.remove_tree(storage.join(staging, _ENTRIES))
    for name in storage.list_files(output):
        if name.startswith("documents-") or name in _OWN:
            path = storage.join(output, name)
            storage.remove_tree(path) if storage.is_directory(path) else storage.remove(path)
    storage.move(staging, output, storage.list_files(staging))
    storage.remove_tree(staging)
    storage.write_json_atomic(storage.join(output, MANIFEST), manifest)


def keep_failure(staging: str, output: str) -> str:
    """Keeps the dead letters of a run that may not commit, in a hidden folder that the next run removes; returns the folder."""
    folder = storage.join(output, FAILED)
    storage.remove_tree(folder)
    storage.makedirs(folder)
    if storage.exists(storage.join(staging, dead_letters.FOLDER)):
        storage.rename(storage.join(staging, dead_letters.FOLDER), storage.join(folder, dead_letters.FOLDER))
    storage.remove_tree(staging)
    return folder


def sum_funnels(entries: list[dict[str, Any]]) -> Funnel:
    """The funnel of the whole job."""
    return total(Funnel.from_json(entry["funnel"]) for entry in entries)


# Writing: one shard.


def _write(path: str, data: bytes) -> None:
    storage.makedirs(path.rpartition("/")[0])
    storage.write_bytes_atomic(path, data)


def _plain(text: str) -> str:
    """Text that UTF-8 can carry: lone surrogates escaped."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


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


class _ParquetShard:
    """A Parquet file of documents in order of id. Row groups are cut by rows and bytes, so the file depends on the documents alone."""

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
        """Adds a row, or returns (error, message) if Parquet cannot carry the document as it is."""
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
            "source": _plain(document.source),
            "modality": document.modality,
            "text": document.text,
            "bytes": document.bytes,
            "metadata": metadata,
        }
        if measure is not None:
            row["measure"] = _plain(measure)
        self._rows.append(row)
        self._pending += len(document.text or "") + len(document.bytes or b"") + len(metadata)
        self.records += 1
        if self._pending >= _ROW_GROUP_BYTES or len(self._rows) >= _ROW_GROUP_ROWS:
            self._flush()
        return None

    def close(self) -> dict[str, Any]:
        """Writes the file and returns its records, bytes and sha256."""
        import hashlib

        if self._rows:
            self._flush()
        self._writer.close()
        data = self._buffer.getvalue()
        _write(self._path, data)
        return {"records": self.records, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}

    def _flush(self) -> None:
        import pyarrow

        self._writer.write_table(pyarrow.Table.from_pylist(self._rows, schema=self._schema))
        self._rows, self._pending = [], 0


def _write_rejects(staging: str, shard: int, num_shards: int, rejected: list[tuple[str, str, bytes]]) -> None:
    by_reason: dict[str, list[bytes]] = {}
    for reason, _, body in sorted(rejected):
        by_reason.setdefault(reason, []).append(body)
    for reason, bodies in sorted(by_reason.items()):
        writer = _ParquetShard(
            storage.join(staging, REJECTED, reason, f"{shard:05d}-of-{num_shards:05d}.parquet"), with_measure=True
        )
        for body in bodies:
            rejection = unpack(body)
            if (
                writer.add(rejection.document, rejection.measure) is not None
            ):  # cannot be carried whole: its reference and excerpt can
                document = rejection.document.replace(text=_plain(rejection.document.text or ""), metadata={})
                writer.add(document, rejection.measure)
        writer.close()
