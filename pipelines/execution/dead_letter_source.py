"""A source restricted to the records that an earlier run could not process.

A dead letter brings back its record, and every record of its file without an outcome: of a file that was cut or damaged the earlier run never
learned what else it held. This file knows no Beam.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

from castor.pipelines.core import dead_letters
from castor.pipelines.core.sources import unit_of
from castor.pipelines.corpus import outcomes
from castor.pipelines.corpus.reader import load_manifest
from castor.pipelines.document import Element, Rejection
from castor.tasks.errors import CorpusError


@dataclasses.dataclass(frozen=True)
class DeadLetterSource:
    """`source`, restricted to the files `uris`, and in them to `records` and to those that have no outcome in the corpus `directory`.

    units: what `source` of a document of `directory` begins with in these files. records: their marks (outcomes.mark).
    """

    source: Any
    directory: str
    uris: tuple[str, ...]
    units: tuple[str, ...]
    records: frozenset[bytes]

    @classmethod
    def of(cls, source: Any, directory: str) -> "DeadLetterSource":
        """The part of `source` that ended in the dead letters of `directory`. Raises CorpusError if there is nothing to replay."""
        letters = list(dead_letters.read(directory))
        if not letters:
            raise CorpusError(f"{directory} has no dead letters.", "There is nothing to replay.")
        references = {letter.source for letter in letters}
        units = source.units(load_manifest(directory)["config"])
        found = {reference: unit_of(reference, units) for reference in references}
        unfinished = frozenset(found.values())
        wanted = tuple(unit for unit in units if unit in unfinished)
        missing = [reference for reference, unit in found.items() if unit is None]
        if missing:
            raise CorpusError(
                f"{len(missing)} dead letters of {directory} name files that are gone, {sorted(missing)[0]} first.",
                "Put them back.",
            )
        records = frozenset(outcomes.mark(letter.id, letter.source, source.identity) for letter in letters)
        return cls(source, directory, tuple(units[unit] for unit in wanted), wanted, records)

    def files(self) -> list[str]:
        return list(self.uris)

    def read(self, uri: str) -> Iterator[Element]:
        known = outcomes.marks_in(self.directory, self.units, self.source.identity)
        for element in self.source.read(uri):
            record = element.document if isinstance(element, Rejection) else element
            mark = outcomes.mark(record.id, record.source, self.source.identity)
            if mark in self.records or mark not in known:
                yield element
