"""Rows of the sink's shuffle: bytes that begin with their kind's letter, keyed by a record id, which selects the shard.

    E   an element (Document, Rejection or DeadLetter), packed
    R   the removal of a document as a duplicate, or the size of a cluster
    M   a record that is part of a repository document
    L   a line that a document owns
    C   the number of elements read from a file

`ShardRows.of` groups the rows of one shard by kind; their order does not matter.
"""

import dataclasses
import re
from collections.abc import Iterable, Iterator

import msgpack

from castor.pipelines.corpus import card_statistics
from castor.pipelines.deduplication import duplicates_table
from castor.pipelines.document import DeadLetter, Document, Element, Rejection, document_id, pack, unpack

_REASON = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def encode_element(element: Element, keep_rejects: bool) -> tuple[str, bytes]:
    """(id, row) of an element for `write_shard`. A rejected document is cut to an excerpt unless `keep_rejects`.

    Raises ValueError if a reason code cannot name a folder.
    """
    if isinstance(element, Rejection) and not _REASON.fullmatch(element.reason):
        raise ValueError(
            f"reason {element.reason!r} cannot name a folder: use letters, digits, '.', '_' and '-', "
            "a letter or digit first"
        )
    if isinstance(element, Rejection) and not keep_rejects:
        document = element.document
        element = dataclasses.replace(
            element,
            document=document.replace(text=document.text and document.text[: card_statistics.EXCERPT], bytes=None),
        )
    return (element.document.id if isinstance(element, Rejection) else element.id), b"E" + pack(element)


def encode_removal(identifier: str, kind: str, survivor: str = "", size: int = 0) -> tuple[str, bytes]:
    """(id, row) that removes a document as a duplicate, or that records the size of a cluster.

    identifier: id of the removed document, or with a `size` of the document that stays.
    kind: the kind of duplicate, in the funnel.
    survivor: id of the document that stays; empty if unknown.
    size: documents in the cluster; 0 for a removal.
    """
    return identifier, b"R" + msgpack.packb([identifier, kind, survivor, size])


def encode_members(element: Element) -> Iterator[tuple[str, bytes]]:
    """(id, row) for each record that a repository document contains (pipelines/sourcecode/repository_layout.py)."""
    for member in element.members if isinstance(element, Document) else ():
        if not member.get("piece"):
            yield (
                member["id"],
                b"M" + msgpack.packb([member["id"], member["source"], element.id], unicode_errors="surrogatepass"),
            )


def encode_line(identifier: bytes, key: bytes) -> tuple[str, bytes]:
    """(id, row): the document owns the line with this key (pipelines/deduplication/line_owners.py)."""
    return identifier.hex(), b"L" + identifier + key


def encode_read(uri: str, count: int) -> tuple[str, bytes]:
    """(hash, row): the number of elements read from a file."""
    return document_id("read", uri), b"C" + msgpack.packb(count)


@dataclasses.dataclass
class ShardRows:
    """The rows of one shard by kind. Documents and rejections stay packed, because all rows are in memory at once.

    read: elements read, summed over the counts that were keyed to this shard.
    documents: (id, packed Document).
    rejections: (reason, id, packed Rejection).
    letters: dead letters.
    removals: {id: (kind, survivor)}; the smallest pair if a document was removed several times.
    clusters: histogram of cluster sizes, see duplicates_table.
    members: (id, source, id of the repository document) of each record that is part of one.
    owned_lines: {id: keys of the lines that the document owns}.
    """

    read: int = 0
    documents: list[tuple[str, bytes]] = dataclasses.field(default_factory=list)
    rejections: list[tuple[str, str, bytes]] = dataclasses.field(default_factory=list)
    letters: list[DeadLetter] = dataclasses.field(default_factory=list)
    removals: dict[str, tuple[str, str]] = dataclasses.field(default_factory=dict)
    clusters: dict[str, dict[str, int]] = dataclasses.field(default_factory=dict)
    members: list[tuple[str, str, str]] = dataclasses.field(default_factory=list)
    owned_lines: dict[str, set[bytes]] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, rows: Iterable[bytes]) -> "ShardRows":
        """Decodes rows of the `encode_*` functions."""
        result = cls()
        add = {
            b"C": result._add_count,
            b"R": result._add_removal,
            b"M": result._add_member,
            b"L": result._add_line,
            b"E": result._add_element,
        }
        for row in rows:
            add[row[:1]](row[1:])
        return result

    def _add_count(self, body: bytes) -> None:
        self.read += msgpack.unpackb(body)

    def _add_removal(self, body: bytes) -> None:
        identifier, kind, survivor, size = msgpack.unpackb(body)
        if size:
            duplicates_table.count_cluster(self.clusters, kind, size)
        else:
            self.removals[identifier] = min((kind, survivor), self.removals.get(identifier, (kind, survivor)))

    def _add_member(self, body: bytes) -> None:
        self.members.append(tuple(msgpack.unpackb(body, unicode_errors="surrogatepass")))

    def _add_line(self, body: bytes) -> None:
        self.owned_lines.setdefault(body[:16].hex(), set()).add(body[16:])

    def _add_element(self, body: bytes) -> None:
        element = unpack(body)
        if isinstance(element, Document):
            self.documents.append((element.id, body))
        elif isinstance(element, Rejection):
            self.rejections.append((element.reason, element.document.id, body))
        else:
            self.letters.append(element)
