"""Small task caches of made-up tokens, by the real writer, and a small real vocabulary."""

import contextlib
import inspect
import resource

import numpy as np

from castor.tasks import hashing
from castor.tasks.cache import writer
from castor.tasks.cache.features import TARGETS, Record
from castor.tasks.vocabulary import audio, codec_fit, sentencepieces, streams
from castor.tasks.vocabulary.vocabulary import Vocabulary

DENSE = {"targets": {"dtype": "int32", "rank": 1}, "mel": {"dtype": "float32", "rank": 2, "shape": [None, 4]}}


def make_records(count, features=TARGETS, seed=5):
    """Records of 1 to 59 tokens, from our own hash: golden vectors stand on them."""
    result = []
    for number in range(count):
        document = f"{hashing.key64('id', number):016x}{hashing.key64('di', number):016x}"
        length = 1 + hashing.key64("length", seed, number) % 59
        noise = hashing.mix64(np.arange(length, dtype=np.uint64) + np.uint64(1000 * number + seed))
        arrays = {"targets": (noise % np.uint64(1 << 20)).astype(np.int64) + 2}
        if "mel" in features:
            arrays["mel"] = (noise[: 4 * (length // 9)] % np.uint64(1000)).astype(np.float32).reshape(-1, 4)
        result.append(Record(document, f"file://{number}", arrays))
    return result


def make_cache(directory, records, features=TARGETS, seed=3, num_shards=3, splits=("train", "validation"), **facts):
    directory = str(directory)
    staging = writer.begin(directory)
    entries = []
    for shard in range(num_shards):
        mine = [r for r in records if hashing.shard_of(hashing.record_hash(seed, r.id), num_shards) == shard]
        if mine:
            entries.append(writer.write_shard(staging, "train", shard, num_shards, mine, features, seed=seed))
    entries = writer.fill_shards(staging, entries, dict.fromkeys(splits, num_shards), features, seed=seed)
    facts = {
        "name": "toy",
        "modality": "text",
        "vocabulary": {"path": "none", "fingerprint": "f", "size": 1 << 21},
        **facts,
    }
    writer.commit(staging, directory, writer.build_manifest(entries=entries, features=features, seed=seed, **facts))
    return directory


def make_caches(directory, counts):
    """A cache for each of `counts` (name -> records) in a folder, whose path is returned."""
    for seed, (name, count) in enumerate(counts.items()):
        make_cache(directory / name, make_records(count, seed=seed), name=name, seed=seed)
    return str(directory)


def make_vocabulary():
    """600 pieces, 100 image codes, 50 audio codes."""
    random = np.random.Generator(np.random.PCG64(0))
    pictures = [random.integers(0, 256, (32, 32, 3), dtype=np.uint8)]
    sounds = [random.normal(-50, 10, (40, 80))]
    image_codec = codec_fit.fit(pictures, (8, 8, 3), 100)
    audio_codec = codec_fit.fit(sounds, (streams.AUDIO_FRAMES, 80, 1), 50, audio.FLOOR_DB, audio.STEP_DB)
    return Vocabulary(sentencepieces.train([inspect.getsource(inspect)], 600), image_codec, audio_codec)


@contextlib.contextmanager
def full_disk(size):
    """Lets no file grow beyond `size` bytes: to a writer, a disk that is full."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
