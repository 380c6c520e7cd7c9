"""train/checkpoints.py: what is saved comes back; what does not fit is named; what was cut off is never seen."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tasks.errors import CheckpointError
from train.checkpoints import Checkpoints, CheckpointStore

FACTS = {"mixture": "m1", "vocabulary": "v1"}
PARAMETERS = {"layers": {"query": jnp.arange(12.0).reshape(3, 4)}, "embedding": jnp.ones((5, 2))}
OPTIMIZER = ({"mu": {"embedding": jnp.full((5, 2), 3.0)}}, jnp.array(7, jnp.int32))


def abstract(tree):
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), tree)


@pytest.fixture
def saved(tmp_path):
    store = CheckpointStore(str(tmp_path))
    assert store.latest() is None
    store.save(5, PARAMETERS, OPTIMIZER, FACTS)
    store.wait()
    yield store
    store.close()


def test_what_is_saved_comes_back(saved, tmp_path):
    parameters, optimizer = saved.restore(5, abstract(PARAMETERS), abstract(OPTIMIZER), FACTS)
    jax.tree.map(np.testing.assert_array_equal, (parameters, optimizer), (PARAMETERS, OPTIMIZER))
    assert saved.latest() == 5 and saved.facts(5)["step"] == 5
    reader = CheckpointStore(str(tmp_path), read_only=True)
    alone, nothing = reader.restore(5, abstract(PARAMETERS))
    jax.tree.map(np.testing.assert_array_equal, alone, PARAMETERS)
    assert nothing is None and (tmp_path / "checkpoint_5" / "parameters").is_dir()
    reader.close()


def test_another_shape_is_named(saved):
    other = PARAMETERS | {"embedding": jnp.ones((6, 2))}
    with pytest.raises(CheckpointError, match=r"parameter embedding as float32\[5, 2\]; this run has float32\[6, 2\].*another MODEL_DIR"):
        saved.restore(5, abstract(other))
    with pytest.raises(CheckpointError, match="lacks the parameter extra"):
        saved.restore(5, abstract(PARAMETERS | {"extra": jnp.ones(1)}))
    with pytest.raises(CheckpointError, match="holds the parameter layers/query, which this run does not have"):
        saved.restore(5, abstract({"embedding": PARAMETERS["embedding"]}))
    with pytest.raises(CheckpointError, match="optimizer state"):
        saved.restore(5, abstract(PARAMETERS), abstract(({"nu": OPTIMIZER[0]["mu"]}, OPTIMIZER[1])))


def test_other_data_is_named(saved, tmp_path):
    with pytest.raises(CheckpointError, match="trained with vocabulary v1; the task caches of this run use v2"):
        saved.restore(5, abstract(PARAMETERS), None, FACTS | {"vocabulary": "v2"})
    with pytest.raises(CheckpointError, match="trained on mixture m1; this run reads m2.*allow_other_data"):
        saved.restore(5, abstract(PARAMETERS), None, FACTS | {"mixture": "m2"})
    lenient = CheckpointStore(str(tmp_path), Checkpoints(allow_other_data=True))
    lenient.restore(5, abstract(PARAMETERS), None, FACTS | {"mixture": "m2"})
    lenient.close()


def test_a_save_that_was_cut_off_is_neither_seen_nor_kept(saved, tmp_path):
    leftover = tmp_path / "checkpoint_9.orbax-checkpoint-tmp-3" / "parameters"
    leftover.mkdir(parents=True)
    reader = CheckpointStore(str(tmp_path), read_only=True)
    assert reader.latest() == 5 and leftover.exists()
    reader.close()
    writer = CheckpointStore(str(tmp_path))
    assert writer.latest() == 5 and not leftover.exists()
    writer.close()


def test_a_damaged_checkpoint_and_a_missing_one_are_named(saved, tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint 4.*There are: 5"):
        saved.facts(4)
    for part in (tmp_path / "checkpoint_5" / "parameters").rglob("*"):
        if part.is_file():
            part.write_bytes(b"")
    with pytest.raises(CheckpointError, match="checkpoint_5 cannot be read"):
        saved.restore(5, abstract(PARAMETERS))


def test_when_to_save_and_what_to_keep(tmp_path):
    config = Checkpoints(period=2, keep=2, keep_period=4)
    assert [step for step in range(1, 8) if config.due(step, 7)] == [2, 4, 6, 7]
    assert [step for step in range(1, 8) if Checkpoints(period=0).due(step, 7)] == [7]
    store = CheckpointStore(str(tmp_path), config)
    for step in (2, 4, 6, 8, 10):
        store.save(step, PARAMETERS, OPTIMIZER, FACTS)
    store.wait()
    assert sorted(int(p.name.split("_")[1]) for p in tmp_path.glob("checkpoint_*")) == [4, 8, 10]
    store.close()
