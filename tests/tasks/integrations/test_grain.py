"""Grain reads the batches at random and through worker processes.

The values are the same, and any number of hosts can load a saved state.
"""

import concurrent.futures
import pickle
import subprocess
import sys

import numpy as np
import pytest
import small_caches as caches

from castor import tasks
from castor.tasks.errors import CacheError, ConfigurationError

grain = pytest.importorskip("grain", reason="castor[grain] is not installed")

from castor.tasks.integrations import grain as castor_grain  # noqa: E402 (only where Grain is installed)

OPTIONS = {"batch_size": 6, "lengths": {"targets": 48}, "seed": 4}
STEPS = range(100, 112)
HERE = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
AHEAD = grain.ReadOptions(
    num_threads=1, prefetch_buffer_size=2
)  # more threads at once trip over CPython 3.11.7's ast.parse


@pytest.fixture(scope="module")
def web(tmp_path_factory):
    return caches.make_cache(tmp_path_factory.mktemp("tasks") / "web", caches.make_records(40), name="web")


@pytest.fixture(scope="module")
def batches(web):
    return tasks.Batches(web, **OPTIONS)


def same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype
        np.testing.assert_array_equal(a[name], b[name])


def test_element_i_is_the_batch_of_step_i(web, batches):
    source = castor_grain.BatchSource(web, STEPS, **OPTIONS)
    assert isinstance(source, grain.sources.RandomAccessDataSource) and len(source) == len(STEPS)
    for index in (0, 11, -1, np.int64(3)):
        same(source[index], batches.batch(STEPS[index]))
    same(castor_grain.BatchSource(web, 5, **OPTIONS)[4], batches.batch(4))
    with pytest.raises(IndexError):
        source[12]


def test_travels_as_its_arguments(web, batches):
    source = castor_grain.BatchSource(web, STEPS, **OPTIONS)
    first = pickle.dumps(source)
    source[0]
    assert pickle.dumps(source) == first and len(first) < 1000
    copy = pickle.loads(first)
    same(copy[7], batches.batch(107))
    assert repr(copy) == repr(source) == f"BatchSource(fingerprint='{batches.fingerprint}', steps=range(100, 112))"
    half = castor_grain.BatchSource(web, STEPS, **OPTIONS, shard=1, num_shards=2)
    assert repr(half) == repr(source)
    same({k: v[3:] for k, v in source[0].items()}, half[0])
    assert repr(castor_grain.BatchSource(web, STEPS, **{**OPTIONS, "seed": 5})) != repr(source)


def test_a_name_bound_in_gin_needs_no_gin_in_the_worker(web, batches):
    import gin

    try:
        gin.parse_config(f"five/tasks.Mixture.components = {{'{web}': 1}}")
        frozen = pickle.dumps(castor_grain.BatchSource("five", STEPS, **OPTIONS))
    finally:
        gin.clear_config()
    same(pickle.loads(frozen)[0], batches.batch(100))


def test_map_dataset(web, batches):
    dataset = grain.MapDataset.source(castor_grain.BatchSource(web, STEPS, **OPTIONS))
    same(dataset[5], batches.batch(105))
    iterator = iter(dataset.to_iter_dataset(HERE))
    for step in STEPS[:4]:
        same(next(iterator), batches.batch(step))
    state = iterator.get_state()
    again = iter(dataset.to_iter_dataset(HERE))
    again.set_state(state)
    for step in STEPS[4:]:
        same(next(again), batches.batch(step))


def test_data_loader_with_workers_and_its_state_on_other_hosts(web, batches):
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # Grain's workers read absl's flags
    sampler = grain.samplers.SequentialSampler(num_records=len(STEPS), shard_options=grain.sharding.NoSharding())

    def loader(worker_count, **shard):
        source = castor_grain.BatchSource(web, STEPS, **OPTIONS, **shard)
        options = AHEAD if worker_count else HERE
        return iter(
            grain.DataLoader(data_source=source, sampler=sampler, worker_count=worker_count, read_options=options)
        )

    for step, batch in zip(STEPS, loader(2), strict=True):
        same(batch, batches.batch(step))
    one = loader(0)
    for _ in range(5):
        next(one)
    halves = [loader(0, shard=shard, num_shards=2) for shard in range(2)]
    for half in halves:
        half.set_state(one.get_state())
    for step in STEPS[5:]:
        parts = [next(half) for half in halves]
        same({name: np.concatenate([part[name] for part in parts]) for name in parts[0]}, batches.batch(step))


def test_threads_get_the_same_batches(web, batches):
    source = pickle.loads(pickle.dumps(castor_grain.BatchSource(web, STEPS, **OPTIONS)))
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for index, batch in enumerate(pool.map(source.__getitem__, [*range(len(STEPS))] * 4)):
            same(batch, batches.batch(STEPS[index % len(STEPS)]))


def test_bad_arguments_are_refused_at_once(web, tmp_path):
    for steps in (1.5, True, [1, 2], range(-2, 3), "3"):
        with pytest.raises(ConfigurationError, match="steps"):
            castor_grain.BatchSource(web, steps, **OPTIONS)
    with pytest.raises(ConfigurationError, match="BATCH_SIZE"):
        castor_grain.BatchSource(web, 3, **{**OPTIONS, "batch_size": 0})
    with pytest.raises(CacheError):
        castor_grain.BatchSource(str(tmp_path / "none"), 3, **OPTIONS)


def test_the_missing_library_is_named():
    program = "import sys; sys.modules['grain'] = None; import castor.tasks.integrations.grain"
    done = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True)
    assert "ConfigurationError" in done.stderr and "castor[grain]" in done.stderr
