"""Small corpora, written as the refine jobs write theirs."""

import collections
import pathlib

from castor.pipelines.corpus import corpus
from castor.pipelines.document import Document


def write_corpus(directory: pathlib.Path, name: str, modality: str, made: list[Document], num_shards: int = 3) -> str:
    """A corpus as the refine jobs leave it, through their own shard writer and commit."""
    staging = str(directory / ".staging-test")
    rows = collections.defaultdict(list)
    for document in made:
        identifier, row = corpus.encode_element(document, keep_rejects=False)
        rows[int(identifier[:16], 16) * num_shards >> 64].append(row)
    for shard in range(num_shards):
        corpus.write_shard(staging, shard, num_shards, rows[shard])
    entries = corpus.read_entries(staging, num_shards)
    manifest = {"kind": "corpus", "format": 1, "name": name, "modality": modality, "fingerprint": name}
    manifest["shards"] = [entry["shard"] for entry in entries]
    corpus.commit(staging, str(directory), manifest)
    return str(directory)
