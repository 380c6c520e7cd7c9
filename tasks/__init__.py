"""The ground floor that pipelines and training both stand on: task caches, vocabulary, codecs, mixtures and `batch(step)`.

It imports no room above it, and without TensorFlow, Beam or JAX (seqio_tasks.py and seqio_vocabulary.py, the doors to SeqIO, apart).

    import tasks

    mixture = tasks.Mixture("two", {"web": 0.7, "code": 0.3}, cache_dirs=("out/tasks",))
    batches = tasks.Batches(mixture, batch_size=8, lengths={"targets": 512}, seed=0)
    batches.batch(1000)["decoder_target_tokens"]     # int32 [8, 512]; the same for ever
    batches.lineage(1000)[3]                         # the documents in row 3, with their token ranges
    list(batches.occurrences("9f...", steps=5000))   # and the other way: where a document comes in the first 5,000 steps

Files to read first: batches.py (the arithmetic, top to bottom), cache.py (what lies on disk), vocabulary.py.
"""

import importlib

_HOMES = {
    "Batches": "tasks.batches",
    "CacheReader": "tasks.cache_reader",
    "Manifest": "tasks.cache",
    "Mixture": "tasks.catalog",
    "MixtureStage": "tasks.schedule",
    "Occurrence": "tasks.lineage",
    "ReadAhead": "tasks.readahead",
    "Record": "tasks.cache",
    "Span": "tasks.lineage",
    "Vocabulary": "tasks.vocabulary",
    "find_caches": "tasks.catalog",
    "find_vocabulary": "tasks.catalog",
    "load_manifest": "tasks.cache",
    "resolve_mixture": "tasks.catalog",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str):
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted([*globals(), *__all__])
