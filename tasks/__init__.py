"""The bottom floor, used by pipelines and training: task caches, vocabulary, codecs, mixtures and `batch(step)`.

It imports no room above it, and no TensorFlow, Beam or JAX (except the SeqIO integration: seqio_tasks.py and
seqio_vocabulary.py).

    from castor import tasks

    mixture = tasks.Mixture("two", {"web": 0.7, "code": 0.3}, cache_dirs=("out/tasks",))
    batches = tasks.Batches(mixture, batch_size=8, lengths={"targets": 512}, seed=0)
    batches.batch(1000)["decoder_target_tokens"]     # int32 [8, 512]; always the same values
    batches.lineage(1000)[3]                         # the documents in row 3, with their token ranges
    list(batches.occurrences("9f...", steps=5000))   # where a document comes in the first 5000 steps

Read first: batches/batches.py (the arithmetic), cache/layout.py (the files on disk), vocabulary/vocabulary.py.
"""

import importlib
import typing

if typing.TYPE_CHECKING:
    from castor.tasks.batches.batches import Batches
    from castor.tasks.batches.catalog import Mixture, find_caches, find_vocabulary, resolve_mixture
    from castor.tasks.batches.lineage import Occurrence, Span
    from castor.tasks.batches.read_ahead import ReadAhead
    from castor.tasks.cache.features import Record
    from castor.tasks.cache.manifest import Manifest, load_manifest
    from castor.tasks.cache.reader import CacheReader
    from castor.tasks.mixing.schedule import MixtureStage
    from castor.tasks.vocabulary.vocabulary import Vocabulary

_HOMES = {
    "Batches": "batches.batches",
    "CacheReader": "cache.reader",
    "Manifest": "cache.manifest",
    "Mixture": "batches.catalog",
    "MixtureStage": "mixing.schedule",
    "Occurrence": "batches.lineage",
    "ReadAhead": "batches.read_ahead",
    "Record": "cache.features",
    "Span": "batches.lineage",
    "Vocabulary": "vocabulary.vocabulary",
    "find_caches": "batches.catalog",
    "find_vocabulary": "batches.catalog",
    "load_manifest": "cache.manifest",
    "resolve_mixture": "batches.catalog",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str):
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted([*globals(), *__all__])
