"""Synthetic documents with plausible lengths and ids, and task caches of them made by the real writer.

Benchmarks use these where they need a corpus larger than any test data.

Lengths are log-normal, like those of web text (MEDIAN tokens, SIGMA of the logarithm, capped at LONGEST), unless real
lengths are given. Ids follow a Zipf-like distribution over VOCABULARY_SIZE. The first IDS_BEFORE_PIECES ids are rare,
because a SentencePiece vocabulary has its control tokens and bytes there. Varints have one byte in 1% of cases, two
bytes in 80% and three bytes in 19%. Each document ends in eos.
"""

import glob
import hashlib
from collections.abc import Iterator

import numpy as np

from castor.tasks import hashing
from castor.tasks.cache import writer
from castor.tasks.cache.features import TARGETS, Record
from castor.tasks.cache.manifest import ShardEntry

MEDIAN, SIGMA, LONGEST = 400, 1.2, 100_000
VOCABULARY_SIZE, IDS_BEFORE_PIECES, RARE_SHARE = 1 << 17, 256, 0.02
EOS_ID = 1
SHUFFLE_SEED = 0


def lengths(random: np.random.Generator, count: int, median: float = MEDIAN, sigma: float = SIGMA) -> np.ndarray:
    """int64 [count] tokens of documents, including eos."""
    return np.clip(np.exp(random.normal(np.log(median), sigma, count)), 2, LONGEST).astype(np.int64)


def real_lengths(cache_dirs: list[str]) -> np.ndarray:
    """int64 [records] lengths of the `targets` of real caches, from their sidecars."""
    files = [
        name for directory in cache_dirs for name in sorted(glob.glob(f"{glob.escape(directory)}/train.tfrecord-*.idx"))
    ]
    return np.concatenate([np.load(name)["targets"] for name in files]).astype(np.int64)


def ids(random: np.random.Generator, count: int) -> np.ndarray:
    """int32 [count] ids: Zipf-Mandelbrot 1 / (rank + 2.7) by inversion of its integral."""
    pieces = VOCABULARY_SIZE - IDS_BEFORE_PIECES
    rank = 2.7 * ((pieces + 2.7) / 2.7) ** random.random(count) - 2.7
    rare = random.random(count) < RARE_SHARE
    return np.where(
        rare, random.integers(3, IDS_BEFORE_PIECES, count), IDS_BEFORE_PIECES + np.minimum(rank, pieces - 1)
    ).astype(np.int32)


def document_id(*parts: str | int) -> str:
    """32 hex digits, like Castor's document ids."""
    return hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest()


def records(random: np.random.Generator, sizes: np.ndarray, corpus: str) -> Iterator[Record]:
    """A record for each size [n]."""
    for number, size in enumerate(sizes.tolist()):
        tokens = ids(random, size)
        tokens[-1] = EOS_ID
        yield Record(document_id(corpus, number), f"made://{corpus}/{number}", {"targets": tokens})


def commit(directory: str, staging: str, name: str, entries: list[ShardEntry]) -> None:
    """Publishes the staged shards as the cache at `directory`."""
    vocabulary = {"path": "none", "fingerprint": "0" * 32, "size": VOCABULARY_SIZE}
    facts = {
        "name": name,
        "modality": "text",
        "features": TARGETS,
        "seed": SHUFFLE_SEED,
        "vocabulary": vocabulary,
    }
    writer.commit(staging, directory, writer.build_manifest(entries=entries, **facts))


def write_cache(directory: str, sizes: np.ndarray, num_shards: int, seed: int = 0, name: str = "synthetic") -> None:
    """A task cache of documents of these sizes [n], its split `train` in `num_shards` shards."""
    random = np.random.default_rng(seed)
    shards: list[list[Record]] = [[] for _ in range(num_shards)]
    for record in records(random, sizes, f"{name}/{seed}"):
        shards[hashing.shard_of(hashing.record_hash(SHUFFLE_SEED, record.id), num_shards)].append(record)
    staging = writer.begin(directory)
    entries = [
        writer.write_shard(staging, "train", shard, num_shards, made, TARGETS, seed=SHUFFLE_SEED)
        for shard, made in enumerate(shards)
    ]
    commit(directory, staging, name, entries)
