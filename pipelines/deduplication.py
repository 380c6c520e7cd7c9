"""Deduplication by removal rows: find what is repeated without moving the documents.

A deduplicator turns elements into (id, kind) rows, one for each document to be removed; the sink drops those documents and counts them
under `kind` in the funnel. Only hashes and ids are shuffled: 32 bytes a document however fat it is.
"""

import hashlib
from collections.abc import Callable

import apache_beam as beam

from pipelines.document import Document


class ExactDuplicates(beam.PTransform):
    """Elements -> (id, kind) of every Document whose `key` (bytes) some Document with a smaller id has too. The smallest id survives.

    `key` is an importable function; None for a document exempts it. The key is condensed to 128 bits (BLAKE2b).
    """

    def __init__(self, key: Callable[[Document], bytes | None], kind: str = "exact"):
        super().__init__(label=f"duplicates.{kind}")
        self._key = key
        self._kind = kind

    def expand(self, elements):
        return (
            elements
            | "key" >> beam.FlatMap(_keyed, self._key).with_output_types(tuple[bytes, bytes])
            | "group" >> beam.GroupByKey()
            | "removals" >> beam.FlatMap(_all_but_smallest, self._kind).with_output_types(tuple[str, str])
        )


def text_key(document: Document) -> bytes | None:
    """The text, word for word, blanks aside. None for an empty text."""
    return " ".join(document.text.split()).encode("utf-8", "surrogatepass") or None if document.text else None


def bytes_key(document: Document) -> bytes | None:
    """The encoded file itself."""
    return document.bytes or None


def _keyed(element, key):
    if isinstance(element, Document):
        value = key(element)
        if value is not None:
            yield hashlib.blake2b(value, digest_size=16, person=b"castor.dedup.v1").digest(), bytes.fromhex(element.id)


def _all_but_smallest(group, kind):
    _, ids = group
    smallest = min(ids)
    for identifier in ids:
        if identifier != smallest:  # an id that occurs twice is the sink's to count
            yield identifier.hex(), kind
