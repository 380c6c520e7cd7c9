"""The sharded run against the run on one device: gradients, losses, and checkpoints that change meshes.

Several processes: tests/launch/engines/test_local_pod.py.
"""

import dataclasses
import json

import jax
import numpy as np

from castor.train import partitioning
from castor.train.model.decoder import DecoderConfig
from castor.train.optimizers import AdamW, WarmupCosine
from castor.train.partitioning import Partitioner
from castor.train.step import TrainStep

MESH = {"data": 2, "fsdp": 2, "tensor": 2}
ROWS, LENGTH, DOMAINS = 16, 16, 3
MODEL = DecoderConfig(vocab_size=128, embed=16, layers=2, heads=4, head_dim=8, mlp=32, z_loss=1e-3)
# Mesh, and how model and step differ from those on one device. Each axis alone as far as possible, and combinations.
PARTITIONED = (
    ({"fsdp": 4, "tensor": 2}, {}, {}),
    ({"data": 2, "sequence": 4}, {"loss_chunk": 24}, {}),
    ({"context": 8}, {}, {}),
    ({"context": 2, "sequence": 2, "tensor": 2}, {}, {}),
    ({"fsdp": 2, "context": 2, "sequence": 2}, {"remat": "full", "loss_chunk": 8}, {"accumulate": 4}),
)


def make_batch() -> dict[str, np.ndarray]:
    """Packed rows of two segments with moving borders, and padding at the end of every other row."""
    random = np.random.default_rng(0)
    places = np.arange(LENGTH)[None]
    border, end = random.integers(2, LENGTH - 2, (ROWS, 1)), np.where(np.arange(ROWS) % 2, LENGTH, LENGTH - 3)[:, None]
    segments = np.where(places < end, 1 + (places >= border), 0)
    positions = np.where(places < end, places - border * (places >= border), 0)
    targets = np.where(segments > 0, random.integers(2, 128, (ROWS, LENGTH)), 0)
    batch = {
        "decoder_target_tokens": targets,
        "decoder_input_tokens": np.where(positions > 0, np.roll(targets, 1, axis=1), 0),
        "decoder_segment_ids": segments,
        "decoder_positions": positions,
        "domain": np.where(segments > 0, np.arange(ROWS)[:, None] % DOMAINS, -1),
    }
    return {name: array.astype(np.int32) for name, array in batch.items()} | {
        "decoder_loss_weights": (segments > 0).astype(np.float32)
    }


def first_step(mesh, devices, model, train_step, start=None):
    """The initial state, metrics, gradients (Adam's first moments) and parameters of one step.

    The state is initialized here, or `start` is put on the mesh.
    """
    partitioner = Partitioner.create(mesh, devices)
    # With a large eps, an update is nearly the gradient itself. Adam's first step would otherwise be the gradient's
    # sign, which amplifies rounding.
    optimizer = AdamW(WarmupCosine(peak=1.0, warmup_steps=0, total_steps=100), eps=1.0, clip=None)
    train_step = TrainStep(dataclasses.replace(MODEL, **model), optimizer, partitioner, DOMAINS, seed=1, **train_step)
    batch = partitioner.place_batch(make_batch(), ROWS)
    state = (
        jax.device_put(start, jax.tree.map(lambda leaf: leaf.sharding, train_step.abstract_state()))
        if start
        else train_step.init()
    )
    start = jax.device_get(state)
    state, metrics = train_step.compile_step(batch)(state, batch)
    return jax.device_get((start, metrics, state.optimizer, state.parameters))


def check_partitioned():
    """Runs in a subprocess with eight devices."""
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    expected = first_step({}, jax.devices()[:1], {}, {})
    assert expected[1]["gradient_norm"] > 0.1 and (expected[1]["domain_tokens"] > 0).all()

    def close(path, found, wanted):
        atol = 1e-5 * float(np.abs(wanted).max())
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=atol, err_msg=f"{mesh}: {jax.tree_util.keystr(path)}")

    # A process whose rows are not adjacent on the mesh: each device takes its own rows and share of the length.
    place = Partitioner.create({"fsdp": 4, "context": 2})
    rows = make_batch()["decoder_target_tokens"]
    held = [row for device in (2, 0, 3, 1) for row in range(4 * device, 4 * device + 4)]
    sharding = place.sharding(("batch", "length"))
    placed = partitioning._place(rows[held], rows.shape, {row: i for i, row in enumerate(held)}, sharding)
    np.testing.assert_array_equal(placed, rows)
    assert placed.sharding == sharding and placed.addressable_shards[0].data.shape == (4, LENGTH // 2)

    for number, (mesh, model, train_step) in enumerate(PARTITIONED):
        start = expected[0] if number else None  # the first mesh initializes too and must agree
        jax.tree_util.tree_map_with_path(close, first_step(mesh, None, model, train_step, start), expected)


def test_loss_and_gradients_are_those_of_one_device_on_every_mesh(on_eight_devices):
    on_eight_devices(__file__, "check_partitioned")


def losses(model_dir):
    return [json.loads(line)["loss"] for line in (model_dir / "metrics.jsonl").read_text().splitlines()]


def test_eight_devices_give_the_losses_of_one(castor, tmp_path):
    macros = {"BATCH_SIZE": 8, "EVAL_PERIOD": 0}
    code, _, err = castor("train", *castor.bindings(tmp_path / "one", TRAIN_STEPS=23, **macros))
    assert code == 0, err
    child = castor.start(
        "train", "--cpu_devices=8", *castor.bindings(tmp_path / "eight", TRAIN_STEPS=20, MESH=MESH, **macros)
    )
    _, err = child.communicate(timeout=300)
    assert child.returncode == 0, err
    assert "data 2 x fsdp 2 x tensor 2" in err
    np.testing.assert_allclose(losses(tmp_path / "eight"), losses(tmp_path / "one")[:20], rtol=1e-4)

    # One device resumes the checkpoint of eight.
    code, _, err = castor("train", *castor.bindings(tmp_path / "eight", TRAIN_STEPS=23, **macros))
    assert code == 0, err
    np.testing.assert_allclose(losses(tmp_path / "eight"), losses(tmp_path / "one"), rtol=1e-4)
