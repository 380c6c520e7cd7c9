"""Dead letters fed through again: a source cut down to the records that an earlier run could not process.

A dead letter that names a record brings back that record; one that names a whole file (no `#` in its source) brings back every record of
the file that is not in the corpus already, since the run never learned what else the file held. This file knows no Beam.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import gin

from pipelines import corpus, dead_letters
from pipelines import job as jobs
from pipelines.document import Element, Rejection
from tasks.errors import CorpusError


@dataclasses.dataclass(frozen=True)
class Replayed:
    """`source`, restricted to the records with ids in `records` and to the `whole` files, less the documents of the corpus `directory`."""

    source: Any
    directory: str
    uris: tuple[str, ...]
    whole: frozenset[str]
    records: frozenset[str]

    @classmethod
    def of(cls, source: Any, directory: str) -> "Replayed":
        """The part of `source` that ended in the dead letters of `directory`. Raises CorpusError if there is nothing to replay."""
        letters = list(dead_letters.read(directory))
        if not letters:
            raise CorpusError(f"{directory} has no dead letters.", "There is nothing to replay.")
        references = {letter.source for letter in letters}
        uris = tuple(uri for uri in source.files() if any(_is_of(r, uri) for r in references))
        missing = [r for r in references if not any(_is_of(r, uri) for uri in uris)]
        if missing:
            raise CorpusError(
                f"{len(missing)} dead letters of {directory} name files that are gone, {sorted(missing)[0]} first.", "Put them back."
            )
        whole = frozenset(r for r in references if r in uris)
        return cls(source, directory, uris, whole, frozenset(letter.id for letter in letters))

    def files(self) -> list[str]:
        return list(self.uris)

    def read(self, uri: str) -> Iterator[Element]:
        known = {document.id for document in corpus.read_corpus(self.directory)} if uri in self.whole else frozenset()
        for element in self.source.read(uri):
            identifier = element.document.id if isinstance(element, Rejection) else element.id
            if identifier in self.records or (uri in self.whole and identifier not in known):
                yield element


def _is_of(reference: str, uri: str) -> bool:
    return reference == uri or reference.startswith(uri + "#")


@gin.configurable
def make_job(corpus_directory: str, output: str, dead_letter_threshold: float = 1.0):
    """The job that made a corpus, as its manifest says it was configured, set to read only its dead letters and to write to `output`.

    Raises CorpusError if the corpus is not whole, was made by another version of the job, or has no dead letters.
    """
    config = corpus.load_manifest(corpus_directory)["config"]
    return jobs.rebuild(config, output=output, replay_of=corpus_directory, dead_letter_threshold=dead_letter_threshold)
