"""T5X's own calls on the iterator: peek, train, save, and restore on other hosts.

Also covers invalid configurations and the ready-made gin file.

T5X is not on a package index, so the tests imitate it: clu's real PeekableDatasetIterator, and the order of calls and
file names of t5x/train.py and t5x/checkpoints.py.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
import subprocess
import sys
import types

import numpy as np
import pytest
import small_caches as caches
from hypothesis import given, settings
from hypothesis import strategies as st

import gin
from castor import tasks
from castor.tasks import configuration
from castor.tasks.errors import CacheError, CheckpointError, ConfigurationError
from castor.tasks.integrations import t5x

dataset_iterator = pytest.importorskip("clu.data.dataset_iterator", reason="T5X's iterators are clu's")

BATCH, LENGTH = 12, 48
DecoderConverter = types.SimpleNamespace(
    MODEL_FEATURES={"decoder_target_tokens": 0, "decoder_causal_attention": 0}, __name__="Decoder"
)
EncoderConverter = types.SimpleNamespace(
    MODEL_FEATURES={"encoder_input_tokens": 0, "decoder_target_tokens": 0}, __name__="EncDec"
)


@dataclasses.dataclass(frozen=True)
class DatasetConfig:
    """The fields of t5x.utils.DatasetConfig, as its pretrain.gin sets them."""

    mixture_or_task_name: object
    task_feature_lengths: dict = dataclasses.field(default_factory=lambda: {"targets": LENGTH})
    split: str = "train"
    batch_size: int = BATCH
    shuffle: bool = True
    seed: int | None = None
    use_cached: bool = True
    pack: bool = True
    use_custom_packing_ops: bool = False
    module: str | None = None
    use_memory_cache: bool = True
    trim_output_features: bool = True
    runtime_preprocessors: object = None
    num_prefetch_threads: int | None = None
    num_workers: int | None = 0


@pytest.fixture(scope="module")
def tasks_dir(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tasks")
    for name, count in {"web": 40, "code": 15}.items():
        caches.make_cache(directory / name, caches.make_records(count, seed=count), name=name)
    return str(directory)


@pytest.fixture(scope="module")
def whole(tasks_dir):
    return tasks.Batches(f"{tasks_dir}/web", batch_size=BATCH, lengths={"targets": LENGTH})


def open_door(tasks_dir, shard=0, num_shards=1, converter=DecoderConverter, name="web", start_step=0, **fields):
    return t5x.get_dataset(
        DatasetConfig(name, **fields), shard, num_shards, converter, tasks_dir=tasks_dir, start_step=start_step
    )


def same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name])


def without_domain(batch):
    return {name: array for name, array in batch.items() if name != "domain"}


class Sharded(dataset_iterator.DatasetIterator):
    """Delegates as t5x.utils.ShardedDatasetIterator does: no `load` of its own, so clu's calls restore."""

    def __init__(self, iterator):
        self._iterator = iterator

    def __next__(self):
        return next(self._iterator)

    @property
    def element_spec(self):
        return self._iterator.element_spec

    def save(self, filename):
        return self._iterator.save(filename)

    def restore(self, filename):
        return self._iterator.restore(filename)


class T5X:
    """One T5X job on some hosts.

    Restores the latest checkpoint, peeks, saves checkpoint_0, trains, and saves every `period` steps.

    orbax: the newer layout, `checkpoint_S/dataset/[process_P-of-N/]train_ds-SSS-of-NNN`; else
    `checkpoint_S/train_ds-SSS-of-NNN`.
    """

    def __init__(self, tasks_dir, model_dir, hosts, orbax, period=3, **fields):
        self.model_dir, self.hosts, self.orbax, self.period = pathlib.Path(model_dir), hosts, orbax, period
        self.iterators = []
        for host in range(hosts):
            iterator = open_door(tasks_dir, host, hosts, **fields)
            assert isinstance(iterator, dataset_iterator.DatasetIterator)
            self.iterators.append(dataset_iterator.PeekableDatasetIterator(Sharded(iterator)))

    def _file(self, step, host, suffix=""):
        directory = self.model_dir / f"checkpoint_{step}{suffix}"
        if self.orbax:
            directory /= "dataset"
            if self.hosts > 1:
                directory /= f"process_{host}-of-{self.hosts}"
        return directory / f"train_ds-{host:03}-of-{self.hosts:03}"

    def save(self, step):
        if not (self.model_dir / f"checkpoint_{step}").exists():
            for host, iterator in enumerate(self.iterators):
                self._file(step, host, ".tmp-17").parent.mkdir(parents=True, exist_ok=True)
                iterator.save(os.fspath(self._file(step, host, ".tmp-17")))
            (self.model_dir / f"checkpoint_{step}.tmp-17").rename(self.model_dir / f"checkpoint_{step}")

    def train(self, steps):
        """Returns {step: global batch} of what was trained on."""
        saved = [int(path.name.split("_")[1]) for path in self.model_dir.glob("checkpoint_*")]
        first = max(saved, default=0)
        if saved:
            for host, iterator in enumerate(self.iterators):
                iterator.load(os.fspath(self._file(first, host)))
        for iterator in self.iterators:
            iterator.peek_async().result()
        self.save(first)
        trained = {}
        for step in range(first, steps):
            parts = [next(iterator) for iterator in self.iterators]
            trained[step] = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
            if (step + 1) % self.period == 0 or step + 1 == steps:
                self.save(step + 1)
        return trained


@pytest.mark.parametrize("orbax", [True, False])
@settings(derandomize=True, deadline=None, max_examples=6)
@given(runs=st.lists(st.tuples(st.sampled_from([1, 2, 3, 4, 6]), st.integers(0, 5)), min_size=1, max_size=4))
def test_resumes_on_any_number_of_hosts(tasks_dir, whole, tmp_path_factory, orbax, runs):
    model_dir, total = tmp_path_factory.mktemp("model"), 0
    for hosts, more in runs:
        total += more
        for step, batch in T5X(tasks_dir, model_dir, hosts, orbax).train(total).items():
            same(batch, without_domain(whole.batch(step)))


def test_the_first_checkpoint_says_one_and_resumes_at_zero(tasks_dir, whole, tmp_path):
    T5X(tasks_dir, tmp_path, 2, orbax=False).train(0)
    assert [(tmp_path / "checkpoint_0" / f"train_ds-{host:03}-of-002").read_text() for host in range(2)] == [
        "1\n",
        "1\n",
    ]
    same(T5X(tasks_dir, tmp_path, 3, orbax=False).train(1)[0], without_domain(whole.batch(0)))


def test_the_iterator_alone(tasks_dir, whole, tmp_path):
    iterator = open_door(tasks_dir, 1, 3, start_step=7)
    assert iter(iterator) is iterator
    rows = slice(BATCH // 3, 2 * BATCH // 3)
    for step in (7, 8):
        batch = next(iterator)
        same(batch, {name: array[rows] for name, array in without_domain(whole.batch(step)).items()})
        assert {name: (a.dtype, a.shape) for name, a in batch.items()} == {
            name: (spec.dtype, spec.shape) for name, spec in iterator.element_spec.items()
        }
    iterator.save(tmp_path / "mine")
    iterator.reset()
    assert iterator.step == 7
    iterator.restore(tmp_path / "mine")
    assert iterator.step == 9
    iterator.load(str(tmp_path / "mine"))
    assert iterator.step == 9 and sorted(os.listdir(tmp_path)) == ["mine"]


def test_a_failed_batch_is_asked_for_again(tasks_dir, whole, monkeypatch):
    iterator = open_door(tasks_dir)

    def fail(step):
        raise CacheError("gone")

    with monkeypatch.context() as patch, pytest.raises(CacheError):
        patch.setattr(iterator.batches, "batch", fail)
        next(iterator)
    same(next(iterator), without_domain(whole.batch(0)))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "has no data state"),
        ({"train_ds-000-of-002": "6", "train_ds-001-of-002": "9"}, "has step 9"),
        ({"train_ds-000-of-001": "\x08\x01"}, "has no step"),
        ({"train_ds-000-of-001": "-3"}, "has no step"),
        ({"train_ds-000-of-001.index": "x", "train_ds-000-of-001.data-00000-of-00001": "x"}, "has no data state"),
    ],
)
def test_bad_states_are_refused(tasks_dir, tmp_path, files, message):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    iterator = open_door(tasks_dir)
    with pytest.raises(CheckpointError, match=message):
        iterator.restore(tmp_path / "train_ds-000-of-004")
    assert iterator.step == 0


@pytest.mark.parametrize(
    ("fields", "binding"),
    [
        ({"pack": False}, "DatasetConfig.pack = True"),
        ({"shuffle": False}, "SHUFFLE_TRAIN_EXAMPLES"),
        ({"use_cached": False}, "USE_CACHED_TASKS"),
        ({"use_custom_packing_ops": True}, "use_custom_packing_ops"),
        ({"module": "my.tasks"}, "MIXTURE_OR_TASK_MODULE"),
        ({"runtime_preprocessors": [1]}, "runtime_preprocessors"),
        ({"batch_size": 10}, "BATCH_SIZE"),
        ({"task_feature_lengths": {"inputs": 8}}, "TASK_FEATURE_LENGTHS"),
        ({"start_step": -1}, "start_step"),
        ({"converter": EncoderConverter}, "decoder-only"),
    ],
)
def test_what_contradicts_the_stream_is_named_with_its_binding(tasks_dir, fields, binding):
    with pytest.raises(ConfigurationError, match=binding):
        open_door(tasks_dir, 0, 3, **fields)


def test_epochs_are_refused_and_the_clock_is_no_seed(tasks_dir):
    with pytest.raises(ConfigurationError, match="TRAIN_STEPS"):
        t5x.get_dataset(DatasetConfig("web"), 0, 1, DecoderConverter, num_epochs=2, tasks_dir=tasks_dir)
    same(next(open_door(tasks_dir, seed=None)), next(open_door(tasks_dir, seed=0)))
    assert open_door(tasks_dir, seed=5).batches.seed == 5


@pytest.mark.parametrize(
    "name", ["web", "DIRECTORY", types.SimpleNamespace(name="web"), tasks.Mixture("m", {"web": 1}), {"web": 2}]
)
def test_the_mixture_by_name_directory_or_object(tasks_dir, whole, name):
    name = f"{tasks_dir}/web" if name == "DIRECTORY" else name
    same(next(open_door(tasks_dir, name=name)), without_domain(whole.batch(0)))


def test_one_gin_line(tasks_dir):
    taken = []

    @gin.configurable("train", module="some_trainer")
    def train(get_dataset_fn=None):
        taken.append(get_dataset_fn(DatasetConfig("two"), 0, 2, DecoderConverter))

    try:
        gin.clear_config()
        gin.parse_config(
            f"""
            train.get_dataset_fn = @tasks.t5x.get_dataset
            tasks.t5x.get_dataset.tasks_dir = '{tasks_dir}'
            two/tasks.Mixture.components = {{'web': 0.75, 'code': 0.25}}
            """
        )
        train()
        assert taken[0].batches.domains == ("code", "web")
        assert t5x.StepIterator is type(taken[0])
    finally:
        gin.clear_config()


TRAIN_SCRIPT = """
import hashlib, json, sys
import gin
import seqio
from t5x import utils

def train(train_dataset_cfg, train_eval_dataset_cfg, vocabulary, checkpoint_cfg, get_dataset_fn=None):
    for cfg in (train_dataset_cfg, train_eval_dataset_cfg):
        assert seqio.get_mixture_or_task(cfg.mixture_or_task_name).output_features["targets"].vocabulary == vocabulary
    converter = seqio.DecoderFeatureConverter
    iterator = get_dataset_fn(train_dataset_cfg, 0, 1, converter)
    digest = hashlib.sha256(next(iterator)["decoder_target_tokens"].tobytes()).hexdigest()
    iterator.save("ram://bucket/checkpoint_5/train_ds-000-of-001")
    other = get_dataset_fn(train_dataset_cfg, 1, 2, converter)
    other.load("ram://bucket/checkpoint_5/train_ds-001-of-002")
    assert other.step == 1
    features = sorted(converter(pack=True).get_model_feature_lengths(train_dataset_cfg.task_feature_lengths))
    print(json.dumps({"name": train_dataset_cfg.mixture_or_task_name, "digest": digest, "save_dataset": checkpoint_cfg.save_dataset,
                      "seed": train_dataset_cfg.seed, "features": sorted(iterator.element_spec), "seqio_features": features}))

if __name__ == "__main__":
    configured = gin.configurable(train)
    gin.parse_config_files_and_bindings(sys.argv[1:], [])
    configured()
"""

PRETRAIN = """
from __gin__ import dynamic_registration
import __main__ as train_script
from t5x import utils

VOCABULARY = None
train_script.train:
  train_dataset_cfg = @train/utils.DatasetConfig()
  train_eval_dataset_cfg = @train_eval/utils.DatasetConfig()
  vocabulary = %VOCABULARY
  checkpoint_cfg = @utils.SaveCheckpointConfig()
train/utils.DatasetConfig:
  mixture_or_task_name = %MIXTURE_OR_TASK_NAME
  task_feature_lengths = %TASK_FEATURE_LENGTHS
  seed = None
  use_cached = %USE_CACHED_TASKS
  shuffle = %SHUFFLE_TRAIN_EXAMPLES
train_eval/utils.DatasetConfig.mixture_or_task_name = %MIXTURE_OR_TASK_NAME
utils.SaveCheckpointConfig.save_dataset = False
"""

T5X_UTILS = """
import dataclasses

@dataclasses.dataclass
class DatasetConfig:
    mixture_or_task_name: object
    task_feature_lengths: object = None
    split: str = 'train'
    batch_size: int = 4
    shuffle: bool = False
    seed: object = 3
    use_cached: bool = False
    pack: bool = True
    module: object = None

@dataclasses.dataclass
class SaveCheckpointConfig:
    save_dataset: bool = False
"""


def test_the_ready_gin_file_under_dynamic_registration(tmp_path):
    """castor.gin after a pretrain.gin, in its own process, with real SeqIO.

    The vocabulary and the stream are the same; the state is in a bucket.
    """
    vocabulary = caches.make_vocabulary()
    vocabulary.save(str(tmp_path / "vocabulary"))
    facts = {"path": str(tmp_path / "vocabulary"), "fingerprint": vocabulary.fingerprint, "size": vocabulary.vocab_size}
    for name in ("web", "code"):
        records = [
            dataclasses.replace(r, features={"targets": r.features["targets"] % 600 + 2})
            for r in caches.make_records(20)
        ]
        caches.make_cache(tmp_path / "tasks" / name, records, name=name, vocabulary=facts)
    (tmp_path / "t5x").mkdir()
    (tmp_path / "t5x" / "__init__.py").write_text("")
    (tmp_path / "t5x" / "utils.py").write_text(T5X_UTILS)
    (tmp_path / "train.py").write_text(TRAIN_SCRIPT)
    (tmp_path / "pretrain.gin").write_text(PRETRAIN)
    (tmp_path / "mine.gin").write_text(
        "import castor.tasks.batches.catalog\nMIXTURE_OR_TASK_NAME = @both/tasks.Mixture()\nboth/tasks.Mixture.name = 'both'\n"
        "both/tasks.Mixture.components = {'web': 2, 'code': 1}\nTASK_FEATURE_LENGTHS = {'targets': 48}\n"
        f"TASKS_DIR = '{tmp_path}/tasks'\n"
    )
    castor = configuration.find_file("t5x/castor.gin")
    done = subprocess.run(
        [sys.executable, "train.py", "pretrain.gin", str(castor), "mine.gin"],
        cwd=tmp_path,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    said = json.loads(done.stdout.splitlines()[-1])
    batches = tasks.Batches(
        tasks.Mixture("both", {"web": 2, "code": 1}, (str(tmp_path / "tasks"),)), 4, {"targets": 48}
    )
    batch = without_domain(batches.batch(0))
    assert said["digest"] == hashlib.sha256(batch["decoder_target_tokens"].tobytes()).hexdigest()
    assert (said["name"], said["save_dataset"], said["seed"]) == ("both", True, 0)
    assert said["features"] == said["seqio_features"] == sorted(batch)
