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
from castor.pipelines.document import Element, Rejection
from castor.tasks.errors import CorpusError


@dataclasses.dataclass(frozen=True)
class DeadLetterSource:
    """`source`, restricted to the files `uris`, and in them to `records` and to those that have no outcome in the corpus `directory`."""

    source: Any
    directory: str
    uris: tuple[str, ...]
    records: frozenset[str]

    @classmethod
    def of(cls, source: Any, directory: str) -> "DeadLetterSource":
        """The part of `source` that ended in the dead letters of `directory`. Raises CorpusError if there is nothing to replay."""
        letters = list(dead_letters.read(directory))
        if not letters:
            raise CorpusError(f"{directory} has no dead letters.", "There is nothing to replay.")
        references, units = {letter.source for letter in letters}, source.files()
        known = frozenset(units)
        found = {reference: unit_of(reference, known) for reference in references}
        wanted = frozenset(found.values())
        uris = tuple(uri for uri in units if uri in wanted)
        missing = [reference for reference, unit in found.items() if unit is None]
        if missing:
            raise CorpusError(
                f"{len(missing)} dead letters of {directory} name files that are gone, {sorted(missing)[0]} first.",
                "Put them back.",
            )
        return cls(source, directory, uris, frozenset(letter.id for letter in letters))

    def files(self) -> list[str]:
        return list(self.uris)

    def read(self, uri: str) -> Iterator[Element]:
        known = outcomes.seen_in(self.directory, self.uris)
        for element in self.source.read(uri):
            identifier = element.document.id if isinstance(element, Rejection) else element.id
            if identifier in self.records or bytes.fromhex(identifier) not in known:
                yield element
