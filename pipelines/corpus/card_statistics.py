"""The statistics of a data card: lengths, languages, samples of kept documents, samples of rejected ones by reason.

Each shard computes its own (`CardStatistics`, `rejected_samples`); the launcher merges them (`merge`). Samples are the
documents with the smallest ids, so they depend on the documents alone. No Beam.
"""

import json
from typing import Any

from castor.pipelines.core.surrogates import escape_surrogates
from castor.pipelines.document import Document, unpack

EXCERPT = 600
"""Characters of a text in a sample. A rejected document is also cut to this length unless rejects are kept whole."""

_SAMPLES_KEPT, _SAMPLES_REJECTED = 12, 4


class CardStatistics:
    """Statistics of the kept documents of one shard: lengths by powers of two, languages, a few samples.

    Documents must be added in order of id.
    """

    def __init__(self):
        self.lengths: dict[str, int] = {}
        self.languages: dict[str, int] = {}
        self.characters = 0
        self.bytes = 0
        self.samples: list[dict] = []

    def add(self, document: Document) -> None:
        length = len(document.text or "")
        self.characters += length
        self.bytes += len(document.bytes or b"")
        bucket = str(length.bit_length())
        self.lengths[bucket] = self.lengths.get(bucket, 0) + 1
        language = document.metadata.get("language")
        if isinstance(language, str):
            self.languages[escape_surrogates(language)] = self.languages.get(escape_surrogates(language), 0) + 1
        if len(self.samples) < _SAMPLES_KEPT:
            self.samples.append(_sample(document))

    def merge(self, other: dict[str, Any]) -> None:
        for mine, theirs in ((self.lengths, other["lengths"]), (self.languages, other["languages"])):
            for key, count in theirs.items():
                mine[key] = mine.get(key, 0) + count
        self.characters += other["characters"]
        self.bytes += other["bytes"]
        self.samples = sorted(self.samples + other["samples"], key=_by_id)[:_SAMPLES_KEPT]

    def to_json(self) -> dict[str, Any]:
        return {
            "lengths": self.lengths,
            "languages": self.languages,
            "characters": self.characters,
            "bytes": self.bytes,
            "samples": self.samples,
        }


def rejected_samples(rejected: list[tuple[str, str, bytes]]) -> dict[str, list]:
    """{reason: samples} of one shard. `rejected` holds a tuple (reason, id, packed Rejection) per rejection."""
    samples: dict[str, list] = {}
    for reason, _, body in sorted(rejected):
        if len(samples.setdefault(reason, [])) < _SAMPLES_REJECTED:
            rejection = unpack(body)
            samples[reason].append(_sample(rejection.document, reason, rejection.measure))
    return samples


def merge(entries: list[dict[str, Any]]) -> dict[str, Any]:
    """Lengths, languages and samples of the whole job, merged from the entries of its shards."""
    merged = CardStatistics()
    rejected: dict[str, list] = {}
    for entry in entries:
        merged.merge(entry["statistics"])
        for reason, samples in entry["rejected_samples"].items():
            rejected.setdefault(reason, []).extend(samples)
    return {
        **merged.to_json(),
        "rejected_samples": {r: sorted(s, key=_by_id)[:_SAMPLES_REJECTED] for r, s in sorted(rejected.items())},
    }


def _sample(document: Document, reason: str = "", measure: str = "") -> dict[str, Any]:
    text = document.text if document.text is not None else ""
    metadata = json.dumps(document.metadata, ensure_ascii=True, sort_keys=True, default=str)
    return {
        "id": document.id,
        "source": escape_surrogates(document.source),
        "text": escape_surrogates(text[:EXCERPT]),
        "metadata": metadata[:EXCERPT],
        "reason": reason,
        "measure": escape_surrogates(measure),
    }


def _by_id(sample: dict) -> str:
    return sample["id"]
