"""Small corpora, written as the refine jobs write theirs."""

import collections
import pathlib

from castor.pipelines.corpus.commit import commit, read_entries
from castor.pipelines.corpus.rows import encode_element
from castor.pipelines.corpus.shard_writer import write_shard
from castor.pipelines.document import Document


def write_corpus(directory: pathlib.Path, name: str, modality: str, made: list[Document], num_shards: int = 3) -> str:
    """A corpus as the refine jobs leave it, through their own shard writer and commit."""
    staging = str(directory / ".staging-test")
    rows = collections.defaultdict(list)
    for document in made:
        identifier, row = encode_element(document, keep_rejects=False)
        rows[int(identifier[:16], 16) * num_shards >> 64].append(row)
    for shard in range(num_shards):
        write_shard(staging, shard, num_shards, rows[shard])
    entries = read_entries(staging, num_shards)
    manifest = {"kind": "corpus", "format": 1, "name": name, "modality": modality, "fingerprint": name}
    manifest["shards"] = [entry["shard"] for entry in entries]
    commit(staging, str(directory), manifest)
    return str(directory)
