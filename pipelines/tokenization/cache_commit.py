"""Commits a task cache in the launcher: adds up the shards' entries, writes the data card and the manifest. No Beam."""

from collections.abc import Iterable, Sequence
from typing import Any

from castor.pipelines.core.funnel import Funnel
from castor.pipelines.corpus import card
from castor.pipelines.corpus import commit as corpus_commit
from castor.pipelines.corpus.layout import CARD, ENTRIES
from castor.tasks.cache import manifest as cache_manifest
from castor.tasks.cache import writer
from castor.tasks.cache.features import TARGETS
from castor.tasks.storage import storage
from castor.tasks.vocabulary.vocabulary import Vocabulary

SAMPLES = 12
_SAMPLES_REJECTED = 4


def read_entries(staging: str, num_shards: int) -> list[dict[str, Any]]:
    """The entries of all shards, in order; removes them from `staging`. Raises CorpusError if one is missing."""
    entries = corpus_commit.read_entries(staging, num_shards)
    storage.remove_tree(storage.join(staging, ENTRIES))
    return entries


def commit(
    staging: str,
    output: str,
    entries: Sequence[dict[str, Any]],
    described: dict[str, Any],
    vocabulary: Vocabulary,
    vocabulary_path: str,
) -> dict[str, Any]:
    """Writes the data card, moves the staged files to `output`, and returns the manifest.

    staging, output: folders; the staging folder is gone afterwards.
    entries: the entries of all shards (`read_entries`).
    described: name, modality, seed, funnel, config, fingerprint, code_fingerprint and inputs, as the manifest has them.
    vocabulary: the vocabulary of the cache, loaded from `vocabulary_path`.
    """
    page = card.render(
        described["name"],
        described["modality"],
        Funnel.from_json(described["funnel"]),
        card_statistics(entries, vocabulary),
        described["config"],
        described["fingerprint"],
        unit="tokens",
    )
    storage.write_bytes_atomic(storage.join(staging, CARD), page.encode("utf-8"))
    size = vocabulary.vocab_size
    manifest = writer.build_manifest(
        entries=[cache_manifest.ShardEntry(**shard) for entry in entries for shard in entry["shards"]],
        features=TARGETS,
        vocabulary={"path": vocabulary_path, "fingerprint": vocabulary.fingerprint, "size": size},
        **described,
    )
    writer.commit(staging, output, manifest)
    return dict(cache_manifest.load_manifest(output).data)


def card_statistics(entries: Iterable[dict[str, Any]], vocabulary: Vocabulary) -> dict[str, Any]:
    """The statistics of the data card: a histogram of lengths in tokens, and samples with readable token streams."""
    lengths: dict[str, int] = {}
    samples, rejected, tokens = [], {}, 0
    for entry in entries:
        for bucket, count in entry["statistics"]["lengths"].items():
            lengths[bucket] = lengths.get(bucket, 0) + count
        tokens += entry["statistics"]["tokens"]
        samples.extend(entry["statistics"]["samples"])
        for sample in entry["rejected"]:
            rejected.setdefault(sample["reason"], []).append(sample)
    samples = sorted(samples, key=_by_id)[:SAMPLES]
    return {
        "lengths": lengths,
        "languages": {},
        "characters": tokens,
        "bytes": 0,
        "samples": [{**sample, "text": in_words(vocabulary, sample.pop("ids"))} for sample in samples],
        "rejected_samples": {
            reason: sorted(s, key=_by_id)[:_SAMPLES_REJECTED] for reason, s in sorted(rejected.items())
        },
    }


def in_words(vocabulary: Vocabulary, ids: Iterable[int]) -> str:
    """A token stream for human readers: text is decoded, other ids become names, long runs of codes are shortened."""
    parts = []
    for segment in vocabulary.modality_spans(ids, decode=False):
        names = [vocabulary.name(i) for i in segment.ids]
        short = names if len(names) <= 8 else [*names[:5], f"... {len(names) - 6} more ...", names[-1]]
        parts.append(segment.value if segment.kind == "text" else " ".join(short))
    return " ".join(parts)


def _by_id(sample: dict[str, Any]) -> str:
    return sample["id"]
