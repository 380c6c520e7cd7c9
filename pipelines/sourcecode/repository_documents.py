"""Joins the kept files of each repository into one document or several (pipelines/sourcecode/repository_layout.py), in
Beam.

    removals = elements | Deduplicate(rules)
    joined = (elements, removals) | JoinRepositories(layout, corpus="code")
    (joined, removals) | WriteCorpus(...)

Per-file rules and deduplication run first; files that they reject are part of no document.

The funnel still adds up. A repository document stands for the records that its `members` name (Document.records), and
the sink counts as kept every record named by the documents that it writes. A lost file would be missing and a file in
two documents would be counted twice, and the job would not commit. Files removed as duplicates pass through without
their text, since the sink counts them.

Under identity by content the same file can be in several repositories, or twice in one archive. Its id is then the
same, and the file may be part of one document only. The repository with the smallest hash of its files' ids gets the
file. The sink counts the other copies as duplicates of kind "id".

The texts cross one shuffle here, keyed by 16 bytes of the repository, in addition to the one in the sink. That shuffle
is necessary: deduplication needs the whole corpus to decide whether a file stays, long after the worker that read the
repository has moved on. The search for removed files moves ids and keys only.

A group is one repository's kept files, held in memory for sorting. The size limit of an archive
(RepositorySource.max_archive_bytes) bounds the group.
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
    """(elements, removals) -> elements, with repository documents in place of the documents that were not removed."""

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
    # Under identity by content two repositories may share their name and their archive's name; the paths differ.
    key = container_of(document) if identity == CONTENT else key_of(document)
    return hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16, person=b"castor.repo.v1").digest()


def _joins(element) -> bool:
    """Whether a document can be part of a repository document.

    A text that UTF-8 cannot encode goes to the sink alone and becomes a dead letter alone.
    """
    if not isinstance(element, Document) or element.text is None:
        return False
    try:
        (element.text + str(element.metadata.get("path", ""))).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _home(element, identity: str):
    """Yields (id, repository), or under identity by content (repository, id), since repositories are ranked first."""
    if _joins(element):
        pair = bytes.fromhex(element.id), _repository(element, identity)
        yield pair[::-1] if identity == CONTENT else pair


def _ranked(group):
    """(repository, ids) -> (id, hash of all the ids, followed by the repository) for each id."""
    repository, ids = group
    held = sorted(set(ids))
    rank = hashlib.blake2b(b"".join(held), digest_size=16, person=b"castor.repo.v1").digest()
    for identifier in held:
        yield identifier, rank + repository


def _removed(row):
    identifier, _, _, size = row
    if not size:  # a row with a size describes a document that stays
        yield bytes.fromhex(identifier), b""


def _gone(group):
    identifier, rows = group
    homes, removed = set(), False
    for row in rows:
        homes.add(row) if row else None
        removed = removed or not row
    for home in sorted(homes)[0 if removed else 1 :]:  # the first repository keeps the file
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
            # A repeated id is kept once; the sink counts the copies as duplicates.
            yield from (document.replace(text=None) for document in copies)
    yield from layout.documents(corpus, kept, identity)


def _source(document: Document) -> str:
    return document.source
