"""train/checkpoints/checkpoints.py: saved state is restored, mismatches are named, incomplete checkpoints are never
read.
"""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from castor.tasks.errors import CheckpointError
from castor.train.checkpoints.checkpoints import CheckpointPolicy, CheckpointStore, DamagedCheckpoint

METADATA = {"mixture": "m1", "vocabulary": "v1"}
PARAMETERS = {"layers": {"query": jnp.arange(12.0).reshape(3, 4)}, "embedding": jnp.ones((5, 2))}
OPTIMIZER = ({"mu": {"embedding": jnp.full((5, 2), 3.0)}}, jnp.array(7, jnp.int32))


def abstract(tree):
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), tree)


@pytest.fixture
def saved(tmp_path):
    store = CheckpointStore(str(tmp_path))
    assert store.latest() is None
    store.save(5, PARAMETERS, OPTIMIZER, METADATA)
    store.wait()
    yield store
    store.close()


def test_what_is_saved_comes_back(saved, tmp_path):
    parameters, optimizer = saved.restore(5, abstract(PARAMETERS), abstract(OPTIMIZER), METADATA)
    jax.tree.map(np.testing.assert_array_equal, (parameters, optimizer), (PARAMETERS, OPTIMIZER))
    assert saved.latest() == 5 and saved.metadata(5)["step"] == 5
    reader = CheckpointStore(str(tmp_path), read_only=True)
    alone, nothing = reader.restore(5, abstract(PARAMETERS))
    jax.tree.map(np.testing.assert_array_equal, alone, PARAMETERS)
    assert nothing is None and (tmp_path / "checkpoint_5" / "parameters").is_dir()
    reader.close()


def test_another_shape_is_named(saved):
    other = PARAMETERS | {"embedding": jnp.ones((6, 2))}
    with pytest.raises(
        CheckpointError,
        match=r"parameter embedding as float32\[5, 2\]; this run has float32\[6, 2\].*another MODEL_DIR",
    ):
        saved.restore(5, abstract(other))
    with pytest.raises(CheckpointError, match="lacks the parameter extra"):
        saved.restore(5, abstract(PARAMETERS | {"extra": jnp.ones(1)}))
    with pytest.raises(CheckpointError, match="holds the parameter layers/query, which this run does not have"):
        saved.restore(5, abstract({"embedding": PARAMETERS["embedding"]}))
    with pytest.raises(CheckpointError, match="optimizer state"):
        saved.restore(5, abstract(PARAMETERS), abstract(({"nu": OPTIMIZER[0]["mu"]}, OPTIMIZER[1])))


def test_other_data_is_named(saved, tmp_path):
    with pytest.raises(CheckpointError, match="trained with vocabulary v1; the task caches of this run use v2"):
        saved.restore(5, abstract(PARAMETERS), None, METADATA | {"vocabulary": "v2"})
    with pytest.raises(CheckpointError, match="trained on mixture m1; this run reads m2.*allow_other_data"):
        saved.restore(5, abstract(PARAMETERS), None, METADATA | {"mixture": "m2"})
    lenient = CheckpointStore(str(tmp_path), CheckpointPolicy(allow_other_data=True))
    lenient.restore(5, abstract(PARAMETERS), None, METADATA | {"mixture": "m2"})
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


def damage(directory, how) -> None:
    """Damages the largest data file of the parameters (empty, half, one flipped bit, removed), or the metadata."""
    path = max(
        (part for part in (directory / "parameters").rglob("*") if part.is_file()), key=lambda part: part.stat().st_size
    )
    if how == "facts":
        path = next((directory / "facts").iterdir())
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes({"emptied": b"", "cut": data[: len(data) // 2], "turned": data, "facts": b"{"}.get(how, b""))
    if how == "removed":
        path.unlink()


@pytest.mark.parametrize("how", ["emptied", "cut", "turned", "removed", "facts"])
def test_a_damaged_checkpoint_is_named_and_quarantined(tmp_path, how):
    random = np.random.default_rng(0)
    parameters = {"embedding": jnp.asarray(random.normal(size=(256, 16)), jnp.float32)}
    with contextlib.closing(CheckpointStore(str(tmp_path))) as store:
        for step in (3, 5):
            store.save(step, parameters, OPTIMIZER, METADATA)
        store.wait()
        damage(tmp_path / "checkpoint_5", how)
        with pytest.raises(DamagedCheckpoint, match="checkpoint_5 cannot be read") as raised:
            store.restore(5, abstract(parameters))
        assert store.quarantine(raised.value, 5) == 3 and store.latest() == 3
        assert (tmp_path / "checkpoint_5.damaged").is_dir() and not (tmp_path / "checkpoint_5").exists()
        with pytest.raises(DamagedCheckpoint):
            store.quarantine(raised.value, 3)  # no earlier checkpoint is left
        store.save(5, parameters, OPTIMIZER, METADATA)
        store.wait()
        np.testing.assert_array_equal(store.restore(5, abstract(parameters))[0]["embedding"], parameters["embedding"])
    with contextlib.closing(CheckpointStore(str(tmp_path))) as again:
        assert again.latest() == 5


def test_a_missing_checkpoint_is_named(saved):
    with pytest.raises(CheckpointError, match="no checkpoint 4.*Available: 5"):
        saved.metadata(4)


def test_when_to_save_and_what_to_keep(tmp_path):
    config = CheckpointPolicy(period=2, keep=2, keep_period=4)
    assert [step for step in range(1, 8) if config.due(step, 7)] == [2, 4, 6, 7]
    assert [step for step in range(1, 8) if CheckpointPolicy(period=0).due(step, 7)] == [7]
    store = CheckpointStore(str(tmp_path), config)
    for step in (2, 4, 6, 8, 10):
        store.save(step, PARAMETERS, OPTIMIZER, METADATA)
    store.wait()
    assert kept(tmp_path) == [4, 8, 10]
    store.close()


def test_the_best_by_held_out_loss_stay(tmp_path):
    with contextlib.closing(CheckpointStore(str(tmp_path), CheckpointPolicy(keep=1, keep_best=2))) as store:
        for step, loss in ((2, 3.0), (4, 1.0), (6, None), (8, 2.0), (10, 2.5), (12, None)):
            store.save(step, PARAMETERS, OPTIMIZER, METADATA, loss)
        store.wait()
        assert kept(tmp_path) == [4, 8, 12]
    with contextlib.closing(
        CheckpointStore(str(tmp_path), CheckpointPolicy(keep=1, keep_best=2))
    ) as again:  # the next start knows the losses too
        again.save(14, PARAMETERS, OPTIMIZER, METADATA, 1.5)
        again.wait()
        assert kept(tmp_path) == [4, 14]


def kept(directory) -> list[int]:
    return sorted(int(path.name.split("_")[1]) for path in directory.glob("checkpoint_*"))
