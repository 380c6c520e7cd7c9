"""SeqIO integration: registers every task cache as a `seqio.Task` and every Castor mixture as a `seqio.Mixture`.

    from castor.tasks.integrations import seqio_tasks

    seqio_tasks.register("out/tasks")
    seqio_tasks.register_mixture(tasks.resolve_mixture("five", "out/tasks"))
    seqio.get_mixture_or_task("five").get_dataset({"targets": 512}, use_cached=True)

Every reader of SeqIO's cached tasks (T5X, a converter, an evaluator) then reads Castor's caches without changes.
SeqIO decides order and mixing by its own rules; for batches that are a function of the step, use `tasks.Batches`.
This file imports SeqIO, and therefore TensorFlow: it is not for the training path.
"""

import functools
import os

import seqio
import tensorflow as tf

from castor.tasks.batches.catalog import Mixture, find_caches, find_vocabulary
from castor.tasks.cache import layout
from castor.tasks.cache.features import feature_shape
from castor.tasks.cache.manifest import Manifest
from castor.tasks.errors import CacheError, VocabularyError
from castor.tasks.integrations.seqio_vocabulary import SeqIOVocabulary
from castor.tasks.storage import storage

_EOS_ID = 1


def register(tasks_dir: str) -> list[str]:
    """Registers every task cache in a directory, and the directory among SeqIO's cache directories.

    Returns the registered names, sorted. Earlier registrations of these names are replaced.

    tasks_dir: directory of task caches.

    Raises CacheError if there is no cache, and for an unfinished or unreadable cache.
    """
    tasks_dir = os.path.abspath(tasks_dir)
    found = find_caches(tasks_dir)
    for item in found:
        if item.manifest is None:
            raise CacheError(item.problem)
    if not found:
        raise CacheError(f"there is no task cache in {tasks_dir}.", "Make one with castor data tokenize.")
    names = []
    for item in found:
        if os.path.samefile(item.directory, tasks_dir):
            tasks_dir = os.path.dirname(tasks_dir)
        names.append(_register(item.name, item.manifest))
    seqio.add_global_cache_dirs([tasks_dir])
    return names


def register_mixture(mixture: Mixture) -> str:
    """Registers a mixture and its components with SeqIO, and returns the mixture's name.

    SeqIO looks up a cache by the component's name in its cache directories, so the directory must have that name. The
    rates are the weights at step 0: SeqIO has no stages and no skips.

    mixture: a resolved mixture.

    Raises CacheError for a cache whose directory has another name.
    """
    rates = []
    manifests = mixture.manifests()
    (_, _, weights), *_ = mixture.weights(manifests)
    for domain, manifest in manifests.items():
        parts = domain.split(":")
        parent = os.path.abspath(manifest.directory)
        for part in reversed(parts):
            if os.path.basename(parent) != part:
                raise CacheError(
                    f"SeqIO cannot find cache {manifest.directory} under the name {domain!r}.",
                    f"Rename the directory to {'/'.join(parts)}.",
                )
            parent = os.path.dirname(parent)
        _register(domain, manifest)
        seqio.add_global_cache_dirs([parent])
        if weights[domain]:
            rates.append((domain, float(weights[domain])))
    seqio.MixtureRegistry.remove(mixture.name)
    seqio.MixtureRegistry.add(mixture.name, rates)
    return mixture.name


def vocabulary_of(manifest: Manifest) -> seqio.Vocabulary:
    """The vocabulary of a cache. If its directory is gone, a pass-through vocabulary of the right size."""
    try:
        return _load_vocabulary(os.path.abspath(find_vocabulary(manifest)), manifest.vocabulary["fingerprint"])
    except VocabularyError:
        path = str(manifest.vocabulary.get("path", ""))
        if path and storage.exists(storage.join(path, layout.MANIFEST)):
            raise
        return seqio.PassThroughVocabulary(int(manifest.vocabulary.get("size", 0) or 0), eos_id=_EOS_ID)


@functools.cache
def _load_vocabulary(directory: str, fingerprint: str) -> SeqIOVocabulary:
    del fingerprint  # part of the cache key: the directory may be rewritten
    return SeqIOVocabulary.load(directory)


def _register(name: str, manifest: Manifest) -> str:
    directory = os.path.abspath(manifest.directory)
    vocabulary = vocabulary_of(manifest)
    patterns = {
        split: f"{storage.join(directory, split)}.tfrecord-?????-of-{len(manifest.shards(split)):05d}"
        for split in manifest.splits
    }
    specs = manifest.features
    seqio.TaskRegistry.remove(name)
    seqio.TaskRegistry.add(
        name,
        source=seqio.TFExampleDataSource(
            patterns,
            {feature: _stored(spec) for feature, spec in specs.items()},
            num_input_examples={split: manifest.records(split) for split in manifest.splits},
        ),
        output_features={feature: _output(spec, vocabulary) for feature, spec in specs.items()},
        preprocessors=[
            functools.partial(_cast, dtypes={feature: spec["dtype"] for feature, spec in specs.items()}),
            seqio.CacheDatasetPlaceholder(),
        ],
    )
    return name


def _stored(spec):
    """The parser of a feature in a tf.train.Example, which stores integers as int64."""
    dtype = tf.float32 if spec["dtype"] == "float32" else tf.int64
    shape = feature_shape(spec)
    return (
        tf.io.FixedLenSequenceFeature(shape[1:], dtype, allow_missing=True)
        if shape
        else tf.io.FixedLenFeature([], dtype)
    )


def _output(spec, vocabulary: seqio.Vocabulary) -> seqio.Feature:
    dtype = tf.as_dtype(spec["dtype"])
    if dtype.is_integer and spec["rank"] == 1:
        return seqio.Feature(vocabulary, add_eos=False, dtype=dtype)
    return seqio.ContinuousFeature(dtype=dtype, rank=spec["rank"])


def _cast(dataset: tf.data.Dataset, dtypes) -> tf.data.Dataset:
    def cast(example):
        return {name: tf.cast(value, dtypes.get(name, value.dtype)) for name, value in example.items()}

    return dataset.map(cast, num_parallel_calls=tf.data.AUTOTUNE)
