"""The Beam half of repository documents: the kept files of each repository meet, and go on as one document or a few (pipelines/sourcecode/repository_layout.py).

    removals = elements | Deduplicate(rules)
    joined = (elements, removals) | JoinRepositories(layout, corpus="code")
    (joined, counts, removals) | WriteCorpus(...)

Per-file rules and deduplication come before: what they turn away is no part of any document. How the funnel still adds up: a repository document
stands for the records that its `members` name (Document.records), and the sink counts as kept what it finds named in the documents that it writes; a
file that got lost on the way, or stood in two documents, would be missing or too many, and the job would not commit. Files removed as
duplicates go on as they were, without their text, since it is the sink that counts them.

Under identity by content the same file can stand in several repositories, or twice in one archive: then its id is the same, and it may stand in one
document only. Which one follows from what the repositories hold: the one with the smallest hash of its files' ids. The sink counts the other
copies as duplicates of kind "id".

The shuffle: texts cross one here, keyed by 16 bytes of the repository, beside the one in the sink. It cannot be saved: whether a file stays is known
only after deduplication has seen the whole corpus, long after the one worker that read the repository has let go of it. What finds out which files
are gone moves ids and keys alone. A group is one repository's kept files, held in memory to be put in order: the archive's limit on its size
(repository_source.RepositorySource.max_archive_bytes) bounds it.
"""

import hashlib

import apache_beam as beam

from castor.pipelines.core.sources import CONTENT, LOCATION
from castor.pipelines.document import Document, pack, unpack
from castor.pipelines.sourcecode.repository_layout import Layout, container_of, key_of

_GONE, _FILE = b"G", b"F"
_REPOSITORY_BYTES = 16
_PAIR = tuple[bytes, bytes]


class JoinRepositories(beam.PTransform):
    """(elements, removals) -> elements, with a repository document or several in place of the documents that were not removed."""

    def __init__(self, layout: Layout, corpus: str, identity: str = LOCATION):
        super().__init__(label="repositories")
        self._layout = layout
        self._corpus = corpus
        self._identity = identity

    def expand(self, inputs):
        elements, removals = inputs
        homes = elements | "homes" >> beam.FlatMap(_home, self._identity).with_output_types(_PAIR)
        if self._identity == CONTENT:
            homes = homes | "by home" >> beam.GroupByKey() | "rank" >> beam.FlatMap(_ranked).with_output_types(_PAIR)
        removed = removals | "removed" >> beam.FlatMap(_removed).with_output_types(_PAIR)
        gone = (
            (homes, removed)
            | "either" >> beam.Flatten()
            | "by id" >> beam.GroupByKey()
            | "gone" >> beam.FlatMap(_gone).with_output_types(_PAIR)
        )
        files = elements | "files" >> beam.FlatMap(_file, self._identity).with_output_types(_PAIR)
        joined = (
            (files, gone)
            | "all" >> beam.Flatten()
            | "by repository" >> beam.GroupByKey()
            | "join" >> beam.FlatMap(_join, self._layout, self._corpus, self._identity)
        )
        return (elements | "others" >> beam.FlatMap(_others), joined) | "elements" >> beam.Flatten()


def _repository(document: Document, identity: str) -> bytes:
    # By content two repositories may have the same name, in archives of the same name: their paths tell them apart.
    key = container_of(document) if identity == CONTENT else key_of(document)
    return hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16, person=b"castor.repo.v1").digest()


def _joins(element) -> bool:
    """True for documents that can be part of one: a text that UTF-8 cannot carry goes to the sink alone, and becomes a dead letter alone."""
    if not isinstance(element, Document) or element.text is None:
        return False
    try:
        (element.text + str(element.metadata.get("path", ""))).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _home(element, identity: str):
    """(id, repository), by content the other way round: the repositories are ranked first."""
    if _joins(element):
        pair = bytes.fromhex(element.id), _repository(element, identity)
        yield pair[::-1] if identity == CONTENT else pair


def _ranked(group):
    """(repository, ids) -> (id, hash of all the ids and repository) for each id."""
    repository, ids = group
    held = sorted(set(ids))
    rank = hashlib.blake2b(b"".join(held), digest_size=16, person=b"castor.repo.v1").digest()
    for identifier in held:
        yield identifier, rank + repository


def _removed(row):
    identifier, _, _, size = row
    if not size:  # a row with a size is of a document that stays
        yield bytes.fromhex(identifier), b""


def _gone(group):
    identifier, rows = group
    homes, removed = set(), False
    for row in rows:
        homes.add(row) if row else None
        removed = removed or not row
    for home in sorted(homes)[0 if removed else 1 :]:  # it stands in the first of several homes
        yield home[-_REPOSITORY_BYTES:], _GONE + identifier


def _file(element, identity: str):
    if _joins(element):
        yield _repository(element, identity), _FILE + pack(element)


def _others(element):
    if not _joins(element):
        yield element


def _join(group, layout: Layout, corpus: str, identity: str):
    gone, files = set(), {}
    for row in group[1]:
        if row[:1] == _GONE:
            gone.add(row[1:].hex())
        else:
            document = unpack(row[1:])
            files.setdefault(document.id, []).append(document)
    kept = []
    for identifier, same in sorted(files.items()):
        if identifier in gone:
            yield from (document.replace(text=None) for document in same)
        else:
            first, *copies = sorted(same, key=_source)
            kept.append(first)
            # An id that occurs twice stands in a document once; the sink counts its copies as duplicates.
            yield from (document.replace(text=None) for document in copies)
    yield from layout.documents(corpus, kept, identity)


def _source(document: Document) -> str:
    return document.source
