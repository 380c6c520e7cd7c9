"""Writes one shard of a corpus: documents, rejects, dead letters, duplicates, outcomes, and the launcher's entry."""

from collections.abc import Collection, Iterable
from typing import Any

from castor.pipelines.core import dead_letters
from castor.pipelines.core.funnel import Funnel
from castor.pipelines.core.surrogates import escape_surrogates
from castor.pipelines.corpus import outcomes
from castor.pipelines.corpus.card_statistics import CardStatistics, rejected_samples
from castor.pipelines.corpus.layout import ENTRIES, REJECTED, shard_file
from castor.pipelines.corpus.parquet_shard import ParquetShard
from castor.pipelines.corpus.rows import ShardRows, encode_element
from castor.pipelines.decontamination import report
from castor.pipelines.deduplication import duplicates_table
from castor.pipelines.document import DeadLetter, Document, Element, Rejection, unpack
from castor.tasks.storage import storage


def write_shard(
    staging: str, shard: int, num_shards: int, rows: Iterable[bytes], keep_rejects: bool = False, lines: Any = None
) -> None:
    """Writes all files of one shard and its entry.

    staging: the staging folder.
    shard, num_shards: index of the shard, and the number of shards of the corpus.
    rows: rows of `rows.encode_*`, in any order.
    keep_rejects: also write the rejected documents.
    lines: the deduplication.shared_lines.SharedLines that cuts documents to the lines they own, or None.
    """
    arrived = ShardRows.of(rows)
    documents = ParquetShard(storage.join(staging, shard_file(shard, num_shards)))
    result = _Shard(documents, keep_rejects, lines)
    in_repository_documents = {member for member, _, _ in arrived.members}
    for member, source, repository_document in arrived.members:
        measure = f"stands in {repository_document}"
        result.outcomes.append(outcomes.Outcome(member, source, None, outcomes.KEPT, "", measure))
    for _, _, body in arrived.rejections:
        result.reject(unpack(body), body)
    previous = None
    for identifier, body in sorted(arrived.documents):
        document = unpack(body)
        if identifier == previous or identifier in in_repository_documents:
            result.remove_repeat(document)
        elif identifier in arrived.removals:
            result.remove_duplicate(document, *arrived.removals[identifier])
        else:
            result.keep(document, arrived.owned_lines.get(identifier, ()))
        previous = identifier
    for letter in arrived.letters:
        result.bury(letter)
    result.funnel.read = arrived.read
    entry = {"shard": {"file": shard_file(shard, num_shards), **documents.close()}, "clusters": arrived.clusters}
    result.write(staging, shard, num_shards)
    storage.makedirs(storage.join(staging, ENTRIES))
    storage.write_json_atomic(storage.join(staging, ENTRIES, f"{shard:05d}.json"), {**entry, **result.entry()})


class _Shard:
    """The outcomes of the records of one shard, and everything written from them. Documents come in order of id."""

    def __init__(self, documents: ParquetShard, keep_rejects: bool, lines: Any):
        self.funnel = Funnel()
        self.outcomes: list[outcomes.Outcome] = []
        self._documents = documents
        self._keep_rejects = keep_rejects
        self._lines = lines
        self._statistics = CardStatistics()
        self._findings = report.Findings()
        self._rejected: list[tuple[str, str, bytes]] = []
        self._removed: list[tuple] = []
        self._letters: list[DeadLetter] = []

    def reject(self, rejection: Rejection, body: bytes) -> None:
        """Counts a Rejection made by a stage; `body` is the packed Rejection."""
        self._findings.add(rejection.document, rejection.reason)
        self._count_rejection(rejection, rejection.document, body)

    def remove_repeat(self, document: Document) -> None:
        """Counts a document that repeats an id, or a record that is part of a repository document."""
        self.funnel.duplicate("id")
        self.outcomes.append(outcomes.of_document(document, outcomes.DUPLICATE, "id", document.id))

    def remove_duplicate(self, document: Document, kind: str, survivor: str) -> None:
        """Counts a document that deduplication removed."""
        self.funnel.duplicate(kind)
        self._removed.append(duplicates_table.row(document, kind, survivor))
        self.outcomes.append(outcomes.of_document(document, outcomes.DUPLICATE, kind, survivor))

    def keep(self, document: Document, owned: Collection[bytes]) -> None:
        """Writes a document, cut to the lines it owns, unless the cut rejects it or Parquet cannot represent it."""
        element: Element = document if self._lines is None else self._lines.edit(document, owned)
        if isinstance(element, Rejection):
            self._count_rejection(element, document, encode_element(element, self._keep_rejects)[1][1:])
        elif (problem := self._documents.add(element)) is not None:
            self.bury(DeadLetter(element.id, element.source, "sink", *problem))
        else:
            self.funnel.kept += element.records
            self._statistics.add(element)
            self._findings.add(element)
            cut = len(document.text or "") - len(element.text or "")
            measure = f"{cut} characters of shared lines cut" if cut else ""
            self.outcomes.append(outcomes.of_document(element, outcomes.KEPT, measure=measure))

    def bury(self, letter: DeadLetter) -> None:
        """Counts a dead letter."""
        self._letters.append(letter)
        self.funnel.dead(letter.stage, letter.error)
        self.outcomes.append(outcomes.of_letter(letter))

    def write(self, staging: str, shard: int, num_shards: int) -> None:
        """Writes all files of the shard except the documents and the entry."""
        path = storage.join(staging, dead_letters.file_name(shard, num_shards))
        storage.makedirs(path.rpartition("/")[0])
        storage.write_bytes_atomic(path, dead_letters.encode(self._letters))
        if self._keep_rejects:
            _write_rejects(staging, shard, num_shards, self._rejected)
        duplicates_table.write(staging, shard, num_shards, self._removed)
        outcomes.write(staging, shard, num_shards, self.outcomes)

    def entry(self) -> dict[str, Any]:
        """The counts and statistics of this shard, for the launcher to add up."""
        return {
            "contamination": self._findings.to_json(),
            "funnel": self.funnel.to_json(),
            "statistics": self._statistics.to_json(),
            "rejected_samples": rejected_samples(self._rejected),
        }

    def _count_rejection(self, rejection: Rejection, document: Document, body: bytes) -> None:
        self.funnel.reject(rejection.reason)
        self._rejected.append((rejection.reason, document.id, body))
        self.outcomes.append(outcomes.of_document(document, outcomes.REJECTED, rejection.reason, rejection.measure))


def _write_rejects(staging: str, shard: int, num_shards: int, rejected: list[tuple[str, str, bytes]]) -> None:
    by_reason: dict[str, list[bytes]] = {}
    for reason, _, body in sorted(rejected):
        by_reason.setdefault(reason, []).append(body)
    for reason, bodies in sorted(by_reason.items()):
        writer = ParquetShard(
            storage.join(staging, REJECTED, reason, f"{shard:05d}-of-{num_shards:05d}.parquet"), with_measure=True
        )
        for body in bodies:
            rejection = unpack(body)
            if writer.add(rejection.document, rejection.measure) is not None:
                # Parquet cannot represent the document. Keep its reference and escaped text.
                document = rejection.document.replace(
                    text=escape_surrogates(rejection.document.text or ""), metadata={}
                )
                writer.add(document, rejection.measure)
        writer.close()
