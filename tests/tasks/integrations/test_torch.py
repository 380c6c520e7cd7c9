"""PyTorch reads the batches by step and as a stream: in order with any workers, resumable at any step, without a copy.

Tests with torch itself run if torch is installed (castor[torch]). Torch is large and not a development dependency.
"""

import subprocess
import sys

import numpy as np
import pytest
import small_caches as caches

from castor import tasks
from castor.tasks.errors import ConfigurationError


def test_the_missing_library_is_named():
    program = "import sys; sys.modules['torch'] = None; import castor.tasks.integrations.torch"
    done = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True)
    assert "ConfigurationError" in done.stderr and "castor[torch]" in done.stderr


OPTIONS = {"batch_size": 6, "lengths": {"targets": 48}, "seed": 4}


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="castor[torch] is not installed")


@pytest.fixture(scope="module")
def door(torch):
    from castor.tasks.integrations import torch

    return torch


@pytest.fixture(scope="module")
def web(tmp_path_factory):
    return caches.make_cache(tmp_path_factory.mktemp("tasks") / "web", caches.make_records(40), name="web")


@pytest.fixture(scope="module")
def batches(web):
    return tasks.Batches(web, **OPTIONS)


def same(tensors, arrays):
    assert tensors.keys() == arrays.keys()
    for name, tensor in tensors.items():
        assert tensor.numpy().dtype == arrays[name].dtype
        np.testing.assert_array_equal(tensor.numpy(), arrays[name])


def test_map_style(torch, door, web, batches):
    dataset = door.BatchDataset(web, range(50, 60), **OPTIONS)
    assert len(dataset) == 10 and isinstance(dataset, torch.utils.data.Dataset)
    same(dataset[9], batches.batch(59))
    for step, batch in zip(
        range(50, 60), torch.utils.data.DataLoader(dataset, batch_size=None, num_workers=2), strict=True
    ):
        same(batch, batches.batch(step))


@pytest.mark.parametrize("workers", [0, 1, 2, 3])
@pytest.mark.parametrize("stop", [5, 6, 7, 24])
def test_the_stream_is_in_order_whatever_the_workers(torch, door, web, batches, workers, stop):
    stream = door.BatchStream(web, start=5, stop=stop, **OPTIONS)
    loader = torch.utils.data.DataLoader(stream, batch_size=None, num_workers=workers)
    for _ in range(2):
        for step, batch in zip(range(5, stop), loader, strict=True):
            same(batch, batches.batch(step))


def test_a_stream_has_no_end_and_knows_its_step(door, web, batches):
    stream = door.BatchStream(web, start=10**9, **OPTIONS)
    assert stream.state_dict() == {"step": 10**9}
    iterator = iter(stream)
    for step in range(10**9, 10**9 + 3):
        same(next(iterator), batches.batch(step))
    state = stream.state_dict()
    assert state == {"step": 10**9 + 3}
    again = door.BatchStream(web, **OPTIONS, shard=1, num_shards=2)
    again.load_state_dict(state)
    assert again.state_dict() == state
    same(next(iter(again)), {name: array[3:] for name, array in batches.batch(10**9 + 3).items()})


def test_no_copy_of_what_may_be_written(torch, door):
    array = np.arange(6, dtype=np.int32)
    frozen = array.copy()
    frozen.flags.writeable = False
    tensors = door._tensors({"a": array, "b": frozen})
    array[0] = 9
    assert tensors["a"].data_ptr() == array.ctypes.data and tensors["a"][0] == 9
    tensors["b"][0] = 7
    assert frozen[0] == 0


@pytest.mark.parametrize("workers", [0, 2, 3])
@pytest.mark.parametrize("taken", [0, 1, 4, 12])
def test_torchdata_resumes(door, web, batches, workers, taken):
    loaders = pytest.importorskip("torchdata.stateful_dataloader", reason="torchdata is not installed")

    def loader():
        return loaders.StatefulDataLoader(
            door.BatchStream(web, start=5, stop=20, **OPTIONS), batch_size=None, num_workers=workers
        )

    first = loader()
    iterator = iter(first)
    for step in range(5, 5 + taken):
        same(next(iterator), batches.batch(step))
    second = loader()
    second.load_state_dict(first.state_dict())
    for step, batch in zip(range(5 + taken, 20), second, strict=True):
        same(batch, batches.batch(step))


def test_bad_steps_are_refused(door, web):
    for start in (-1, 1.5, True, "3"):
        with pytest.raises(ConfigurationError, match="step"):
            door.BatchStream(web, start=start, **OPTIONS)
    with pytest.raises(ConfigurationError, match="steps"):
        door.BatchStream(web, stop=2.5, **OPTIONS)
