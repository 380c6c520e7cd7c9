"""train/step.py: microbatches give the loss, gradient and update of the whole batch, on any mesh."""

import dataclasses
import re

import jax
import numpy as np

from castor.train.model.decoder import DecoderConfig
from castor.train.optimizers import AdamW, WarmupCosine
from castor.train.partitioning import Partitioner
from castor.train.step import TrainStep, split_microbatches

ROWS, LENGTH, DOMAINS = 16, 12, 3
MESH = {"data": 2, "fsdp": 2, "tensor": 2}
MODEL = DecoderConfig(vocab_size=128, embed=16, layers=1, heads=2, head_dim=8, mlp=32, z_loss=1e-3)
MOVES = re.compile(r"all-gather|all-to-all|all-reduce|collective-permute|reduce-scatter")


def make_batch() -> dict[str, np.ndarray]:
    """Rows of very different fill, so that a mean of means is far from the mean. Some rows are empty, and one domain is
    in a single row.
    """
    random = np.random.default_rng(0)
    filled = np.arange(LENGTH) < np.array([LENGTH, 2, 5, 0] * (ROWS // 4))[:, None]
    tokens = np.where(filled, random.integers(2, 128, (ROWS, LENGTH)), 0)
    batch = {
        "decoder_target_tokens": tokens,
        "decoder_input_tokens": np.roll(tokens, 1, axis=1) * filled,
        "decoder_segment_ids": filled,
        "decoder_positions": np.arange(LENGTH) * filled,
        "domain": np.where(filled, np.array([0, 1, 1, 1] * 3 + [2, 0, 0, 0])[:, None], -1),
    }
    return {name: array.astype(np.int32) for name, array in batch.items()} | {
        "decoder_loss_weights": filled.astype(np.float32)
    }


def make_train_step(partitioner, accumulate, model=MODEL) -> TrainStep:
    # With a large eps, an update is nearly the gradient itself. Adam's first step would otherwise be the gradient's
    # sign, which amplifies rounding.
    optimizer = AdamW(WarmupCosine(peak=1.0, warmup_steps=0, total_steps=100), eps=1.0, clip=None)
    return TrainStep(model, optimizer, partitioner, DOMAINS, seed=1, accumulate=accumulate)


def compare(mesh, devices, accumulates=(1, 4), rtol=1e-5):
    """Compares gradient (Adam's moment after one step), update and metrics of a batch with and without microbatches."""
    partitioner = Partitioner.create(mesh, devices)
    batch = partitioner.place_batch(make_batch(), ROWS)
    abstract = {
        name: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=array.sharding) for name, array in batch.items()
    }
    results, start = {}, make_train_step(partitioner, 1).init()
    for accumulate in accumulates:
        step = make_train_step(partitioner, accumulate).compile_step(abstract)
        state, metrics = step(jax.tree.map(jax.numpy.copy, start), batch)
        results[accumulate] = jax.device_get((metrics, state.parameters, state.optimizer))

    def close(found, expected):
        np.testing.assert_allclose(found, expected, rtol=rtol, atol=rtol * float(np.abs(expected).max()))

    whole = results[1][0]
    assert whole["tokens"] == make_batch()["decoder_loss_weights"].sum() and (whole["domain_tokens"] > 0).all()
    assert whole["gradient_norm"] > 0.1
    for accumulate in accumulates[1:]:
        jax.tree.map(close, results[accumulate], results[1])
        np.testing.assert_array_equal(results[accumulate][0]["domain_tokens"], whole["domain_tokens"])
    return partitioner, abstract, step.as_text()


def test_parts_are_the_batch():
    compare({}, jax.devices()[:1], (1, 4))


def check_on_a_mesh():
    """Runs in a subprocess with eight devices."""
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    partitioner, abstract, step = compare(MESH, None)
    # Splitting a batch moves nothing between devices.
    split = jax.jit(lambda batch: split_microbatches(batch, 4, partitioner)).lower(abstract).compile()
    assert not MOVES.search(split.as_text())
    # The sums of the gradients are sharded like the parameters: the MLP's [1, 16, 32] by 2 and 2, and so is the
    # embedding's [128, 16].
    (loop,) = [
        line for line in step.splitlines() if " while(" in line and "f32[64,8]" in line and "f32[1,8,16]" in line
    ]
    assert "f32[1,16,32]" not in loop and "f32[128,16]" not in loop


def test_parts_are_the_batch_on_a_mesh_and_every_device_keeps_its_rows(on_eight_devices):
    on_eight_devices(__file__, "check_on_a_mesh")


def test_every_row_is_in_one_part():
    partitioner = Partitioner.create({}, jax.devices()[:1])
    rows = np.arange(24, dtype=np.int32).reshape(12, 2)
    parts = np.asarray(split_microbatches({"x": rows}, 3, partitioner)["x"])
    assert parts.shape == (3, 4, 2) and sorted(parts.ravel().tolist()) == list(range(24))
    np.testing.assert_array_equal(parts[1], rows[1::3])


def test_evaluation_in_parts_is_that_of_the_batch():
    partitioner = Partitioner.create({}, jax.devices()[:1])
    parameters = make_train_step(partitioner, 1).init().parameters
    whole, parts = (
        jax.jit(make_train_step(partitioner, accumulate).evaluate)(parameters, make_batch()) for accumulate in (1, 4)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), whole, parts)


def test_every_part_has_its_own_dropout():
    partitioner = Partitioner.create({}, jax.devices()[:1])
    train_step = make_train_step(partitioner, 2, dataclasses.replace(MODEL, dropout=0.5))
    parameters, key = train_step.init().parameters, jax.random.key(0)
    row = {name: array[:1] for name, array in make_batch().items()}
    twice = {name: np.repeat(array, 2, axis=0) for name, array in row.items()}
    _, both = jax.jit(train_step._gradients)(parameters, twice, key)
    alone = jax.jit(lambda *arguments: train_step._losses(*arguments)[1])
    first, second = (float(alone(parameters, row, jax.random.fold_in(key, number)).nll) for number in (0, 1))
    assert abs(first - second) > 1e-3
    np.testing.assert_allclose(float(both.nll), first + second, rtol=1e-5)
