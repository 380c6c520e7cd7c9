"""Unmodified SeqIO reads Castor's caches through its own cache directories.

Tasks and mixtures yield the same examples.
"""

import collections

import numpy as np
import pytest
import small_caches as caches

from castor import tasks
from castor.tasks.cache import reader as cache_reader
from castor.tasks.cache import writer
from castor.tasks.cache.features import Record
from castor.tasks.errors import CacheError

seqio = pytest.importorskip("seqio")

COUNTS = {"sq_web": 30, "sq_code": 12, "sq_image": 5}


@pytest.fixture(scope="module")
def tasks_dir(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tasks")
    for seed, (name, count) in enumerate(COUNTS.items()):
        caches.make_cache(directory / name, caches.make_records(count, seed=seed), name=name, seed=seed)
    caches.make_cache(directory / "sq_dense", caches.make_records(9, caches.DENSE), caches.DENSE, name="sq_dense")
    return str(directory)


@pytest.fixture(scope="module", autouse=True)
def registered(tasks_dir):
    from castor.tasks.integrations import seqio_tasks

    assert seqio_tasks.register(tasks_dir) == ["sq_code", "sq_dense", "sq_image", "sq_web"]
    assert seqio_tasks.register(tasks_dir)  # a second time is fine
    assert (
        seqio_tasks.register_mixture(
            tasks.Mixture("sq_three", {"sq_web": 0.6, "sq_code": 0.3, "sq_image": 0.1}, (tasks_dir,))
        )
        == "sq_three"
    )


def rows(dataset):
    return collections.Counter(example["targets"].tobytes() for example in dataset.as_numpy_iterator())


def expected(tasks_dir, name):
    reader = cache_reader.CacheReader(f"{tasks_dir}/{name}")
    return [reader[i] for i in range(len(reader))]


@pytest.mark.parametrize("use_cached", [True, False])
@pytest.mark.parametrize("name", sorted(COUNTS))
def test_each_task_yields_the_caches_examples(tasks_dir, name, use_cached):
    task = seqio.get_mixture_or_task(name)
    examples = list(task.get_dataset(None, split="train", use_cached=use_cached, shuffle=False).as_numpy_iterator())
    assert all(set(e) == {"targets"} and e["targets"].dtype == np.int32 for e in examples)
    assert sorted(e["targets"].tolist() for e in examples) == sorted(
        e["targets"].tolist() for e in expected(tasks_dir, name)
    )
    assert rows(task.get_dataset(None, split="validation", use_cached=use_cached, shuffle=False)) == {}
    assert task.get_cached_stats("train")["examples"] == COUNTS[name] == task.num_input_examples("train")


def test_dense_features_keep_their_shape(tasks_dir):
    examples = list(
        seqio.get_mixture_or_task("sq_dense").get_dataset(None, use_cached=True, shuffle=False).as_numpy_iterator()
    )
    wanted = {e["targets"].tobytes(): e["mel"] for e in expected(tasks_dir, "sq_dense")}
    assert len(examples) == 9
    for example in examples:
        np.testing.assert_array_equal(example["mel"], wanted[example["targets"].tobytes()])


def test_a_mixture_yields_the_examples_of_its_tasks_at_their_rates(tasks_dir):
    dataset = seqio.get_mixture_or_task("sq_three").get_dataset(
        None, use_cached=True, shuffle=True, seed=1, num_epochs=None
    )
    owner = {e["targets"].tobytes(): name for name in COUNTS for e in expected(tasks_dir, name)}
    drawn = collections.Counter(owner[e["targets"].tobytes()] for e in dataset.take(1000).as_numpy_iterator())
    assert 530 < drawn["sq_web"] < 670 and 240 < drawn["sq_code"] < 360 and 60 < drawn["sq_image"] < 140


def test_a_row_is_what_seqio_packs_from_the_same_documents(tasks_dir):
    import tensorflow as tf

    batches = tasks.Batches(f"{tasks_dir}/sq_web", 4, {"targets": 64})
    ours = batches.batch(0)
    for row, spans in enumerate(batches.lineage(0)):
        documents = [span.targets().astype(np.int32) for span in spans]
        dataset = tf.data.Dataset.from_generator(
            lambda documents=documents: ({"targets": d} for d in documents),
            output_signature={"targets": tf.TensorSpec([None], tf.int32)},
        )
        (theirs,) = seqio.DecoderFeatureConverter(pack=True)(dataset, {"targets": 64}).as_numpy_iterator()
        assert set(ours) == set(theirs) | {"domain"}
        for name, array in theirs.items():
            np.testing.assert_array_equal(ours[name][row], array, err_msg=name)


def test_the_vocabulary_of_the_caches_is_the_tasks(tmp_path):
    from castor.tasks.integrations import seqio_tasks

    vocabulary = caches.make_vocabulary()
    vocabulary.save(str(tmp_path / "vocabulary"))
    facts = {"path": str(tmp_path / "vocabulary"), "fingerprint": vocabulary.fingerprint, "size": vocabulary.vocab_size}
    for name in ("sq_one", "sq_two"):
        ids = np.array([*vocabulary.encode(f"text of {name}"), 1])
        caches.make_cache(
            tmp_path / "tasks" / name, [Record("0" * 32, "s", {"targets": ids})], name=name, vocabulary=facts
        )
    seqio_tasks.register_mixture(
        tasks.resolve_mixture(tasks.Mixture("sq_both", {"sq_one": 1, "sq_two": 1}), str(tmp_path / "tasks"))
    )
    mixture = seqio.get_mixture_or_task("sq_both")
    feature = mixture.output_features["targets"]
    assert isinstance(feature.vocabulary, seqio.Vocabulary) and feature.vocabulary.vocab_size == vocabulary.vocab_size
    decoded = {
        feature.vocabulary.decode(e["targets"].tolist())
        for e in mixture.get_dataset(None, use_cached=True, num_epochs=1).as_numpy_iterator()
    }
    assert decoded <= {"text of sq_one", "text of sq_two"} and decoded
    (tmp_path / "vocabulary" / "manifest.json").rename(tmp_path / "gone")
    seqio_tasks.register(str(tmp_path / "tasks"))
    gone = seqio.get_mixture_or_task("sq_one").output_features["targets"].vocabulary
    assert isinstance(gone, seqio.PassThroughVocabulary) and gone.vocab_size == vocabulary.vocab_size


def test_half_written_caches_are_refused(tmp_path):
    from castor.tasks.integrations import seqio_tasks

    with pytest.raises(CacheError, match="no task cache in"):
        seqio_tasks.register(str(tmp_path))
    writer.begin(str(tmp_path / "half"))
    with pytest.raises(CacheError, match="half-written"):
        seqio_tasks.register(str(tmp_path))
