"""A source restricted to the records that an earlier run could not process.

A replay reads the record of each dead letter, and every record of the same file that has no outcome: if the file was
truncated or damaged, the earlier run did not see the rest of it. No Beam.
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
    """`source`, restricted to the dead letters of a corpus and to records without an outcome in it.

    source: the job's FileSource.
    directory: the corpus.
    uris: the files to read.
    units: for each of `uris`, its unit of work in the corpus (FileSource.units).
    records: marks (outcomes.mark) of the records of the dead letters.
    """

    source: Any
    directory: str
    uris: tuple[str, ...]
    units: tuple[str, ...]
    records: frozenset[bytes]

    @classmethod
    def of(cls, source: Any, directory: str) -> "DeadLetterSource":
        """The part of `source` to replay for the corpus `directory`. Raises CorpusError if it has no dead letters."""
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
                f"{len(missing)} dead letters of {directory} refer to missing files, for example {sorted(missing)[0]}.",
                "Put the files back.",
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
