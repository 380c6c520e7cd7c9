"""Deduplication by removal rows: finds duplicates without moving the documents.

    removals = elements | Deduplicate((ByUrl(), ByText(), MinHash()))
    (elements, counts, removals) | WriteCorpus(...)

Rules are applied one after the other (pipelines/deduplication/rules.py). A document that one rule removes takes no
part in the next rule, so it cannot remove another document. Exact rules come first; a near rule must be the last.

The rows are (id, kind, survivor, 0) for each removed document, with the id of the document that stays for it, and
(id, kind, "", size) for the document that stays, with the size of the cluster. The sink drops the removed documents,
counts them under `kind` in the funnel, and writes the rows to the corpus. A later rule may remove a survivor, which
then has its own removal row.

Only hashes and ids are shuffled. An exact rule moves 24 bytes per document plus the keys of later rules (MinHash:
250 bytes), a near rule 40 bytes per key. Buckets of any size are iterated, never held in memory.
"""

from collections.abc import Callable, Sequence

import apache_beam as beam
import msgpack

from castor.pipelines.core.stages import checked
from castor.pipelines.deduplication import rules as duplicates
from castor.pipelines.deduplication.connected_components import ConnectedComponents
from castor.pipelines.deduplication.rules import bytes_key, text_key
from castor.pipelines.document import Document
from castor.tasks.errors import ConfigurationError

__all__ = ["Deduplicate", "ExactDuplicates", "bytes_key", "text_key"]

_ROW = tuple[str, str, str, int]
_KEYED = tuple[bytes, bytes]


class Deduplicate(beam.PTransform):
    """Elements -> removal rows for the sink, by `rules` in order (see the module docstring)."""

    def __init__(self, rules: Sequence[duplicates.Rule], label: str = "duplicates"):
        super().__init__(label=label)
        self._rules = checked(rules, "duplicates", _is_rule)
        for rule in self._rules[:-1]:
            if hasattr(rule, "links"):
                raise ConfigurationError(
                    f"the near rule {rule.kind!r} ({rule.binding}) is not the last of the duplicates rules.",
                    "Put it last.",
                )

    def expand(self, elements):
        sketches = elements | "sketch" >> beam.FlatMap(_sketch, self._rules).with_output_types(bytes)
        rows = []
        for number, rule in enumerate(self._rules):
            step = _Near(rule) if hasattr(rule, "links") else _Exact(rule)
            sketches, found = sketches | f"{number}.{rule.kind}" >> step
            rows.append(found)
        return tuple(rows) | "rows" >> beam.Flatten(pipeline=elements.pipeline)


def _is_rule(rule) -> bool:
    return hasattr(rule, "kind") and hasattr(rule, "keys")


class ExactDuplicates(beam.PTransform):
    """Elements -> removal rows. Of all Documents with the same key, the one with the smallest id survives.

    key: importable function, Document -> bytes; None exempts the document. Keys are hashed to 128 bits (BLAKE2b).
    kind: the name of the rule in the funnel.

    To apply several rules, use one Deduplicate. Two ExactDuplicates in parallel choose survivors independently and
    could remove all copies.
    """

    def __init__(self, key: Callable[[Document], bytes | None], kind: str = "exact"):
        super().__init__(label=f"duplicates.{kind}")
        self._rule = _ByKey(key, kind)

    def expand(self, elements):
        return elements | Deduplicate((self._rule,), "by key")


class _ByKey:
    def __init__(self, key, kind):
        self._key = key
        self.kind = kind
        self.keep = duplicates.SmallestId()

    def keys(self, document):
        return duplicates.exact_keys(self._key(document))


# A sketch is the packed input of the remaining rules for one document: for each rule [node, payload, key, key, ...].


def _sketch(element, rules):
    if isinstance(element, Document):
        yield msgpack.packb([_part(rule, element) for rule in rules])


def _part(rule, document):
    payload = rule.payload(document) if hasattr(rule, "payload") else b""
    return [duplicates.node(rule, document), payload, *rule.keys(document)]


class _Exact(beam.PTransform):
    """Sketches -> (sketches of the documents that stay, without the part of this rule; removal rows)."""

    def __init__(self, rule):
        super().__init__()
        self._kind = rule.kind

    def expand(self, sketches):
        groups = sketches | "key" >> beam.FlatMap(_first_key).with_output_types(_KEYED) | "group" >> beam.GroupByKey()
        exempt = sketches | "exempt" >> beam.FlatMap(_exempt).with_output_types(bytes)
        chosen = groups | "choose" >> beam.FlatMap(_chosen).with_output_types(bytes)
        rows = groups | "name" >> beam.FlatMap(_removals, self._kind).with_output_types(_ROW)
        return (chosen, exempt) | "stay" >> beam.Flatten(), rows


def _first_key(sketch):
    (node, _, *keys), *later = msgpack.unpackb(sketch)
    if keys:
        yield keys[0], node + (msgpack.packb(later) if later else b"")


def _exempt(sketch):
    (_, _, *keys), *later = msgpack.unpackb(sketch)
    if later and not keys:
        yield msgpack.packb(later)


def _chosen(group):
    smallest = min(group[1])
    if len(smallest) > duplicates.NODE_BYTES:
        yield smallest[duplicates.NODE_BYTES :]


def _removals(group, kind):
    _, members = group
    smallest = min(members)
    node, survivor, size = smallest[: duplicates.NODE_BYTES], duplicates.identifier(smallest), 1
    for member in members:
        if not member.startswith(node):  # the sink counts repeated ids
            size += 1
            yield duplicates.identifier(member), kind, survivor, 0
    if size > 1:
        yield survivor, kind, "", size


class _Near(beam.PTransform):
    """Sketches with the part of one rule -> (None, removal rows)."""

    def __init__(self, rule):
        super().__init__()
        self._rule = rule

    def expand(self, sketches):
        rows = (
            sketches
            | "keys" >> beam.FlatMap(_all_keys).with_output_types(_KEYED)
            | "buckets" >> beam.GroupByKey()
            | "link" >> beam.FlatMap(_links, self._rule).with_output_types(_KEYED)
            | ConnectedComponents(self._rule.rounds, f"{self._rule.binding}.rounds")
            | "name" >> beam.Map(_named, self._rule.kind).with_output_types(_ROW)
        )
        return None, rows


def _all_keys(sketch):
    ((node, payload, *keys),) = msgpack.unpackb(sketch)
    for key in keys:
        yield key, node + payload


def _links(group, rule):
    return rule.links(_Bucket(group[1]))


class _Bucket:
    """The (node, payload) pairs of a group; can be iterated several times."""

    def __init__(self, members):
        self._members = members

    def __iter__(self):
        for member in self._members:
            yield member[: duplicates.NODE_BYTES], member[duplicates.NODE_BYTES :]


def _named(row, kind):
    node, smallest, size = row
    return duplicates.identifier(node), kind, duplicates.identifier(smallest) if smallest else "", size
