"""train/optimizers.py: schedules by value, decay that spares the norms, states that lie where their parameters lie."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tasks.errors import ConfigurationError
from train import optimizers
from train.model import Transformer
from train.optimizers import Adafactor, AdamW, WarmupCosine, WarmupRsqrt
from train.partitioning import MESH_AXES, Partitioner
from train.step import Trainer, _kept_axes

SMALL = Transformer(vocab_size=128, embed=32, layers=2, heads=4, head_dim=8, mlp=64)


def test_schedules_by_value():
    cosine = WarmupCosine(peak=1.0, warmup_steps=10, total_steps=110, final_share=0.1).build()
    np.testing.assert_allclose([cosine(s) for s in (0, 4, 9, 59, 109)], [0.1, 0.5, 1.0, 0.55, 0.1], rtol=1e-5)
    rsqrt = WarmupRsqrt(peak=1.0, warmup_steps=100).build()
    np.testing.assert_allclose([rsqrt(s) for s in (0, 49, 99, 399)], [0.01, 0.5, 1.0, 0.5], rtol=1e-5)
    assert float(WarmupCosine(total_steps=3, warmup_steps=40).build()(2)) > 0


def test_decay_spares_the_norms():
    parameters = {"layers": {"gate": jnp.ones((2, 4, 4)), "mlp_norm": {"scale": jnp.ones((2, 4))}}}
    adamw = AdamW(WarmupCosine(peak=1.0, warmup_steps=0), weight_decay=0.5).build()
    updates, _ = adamw.update(jax.tree.map(jnp.zeros_like, parameters), adamw.init(parameters), parameters)
    assert float(jnp.abs(updates["layers"]["mlp_norm"]["scale"]).max()) == 0.0
    assert float(updates["layers"]["gate"].max()) < -0.1


@pytest.mark.parametrize("optimizer", [AdamW(), Adafactor(WarmupRsqrt(1e-2, 2), clip=1.0, weight_decay=1e-3)])
def test_an_optimizer_learns_and_its_state_lies_with_its_parameters(optimizer):
    mesh = jax.sharding.AbstractMesh((1, 2, 1, 2), MESH_AXES)
    state = Trainer(SMALL, optimizer, Partitioner(mesh), 1).abstract_state()
    spec = jax.sharding.PartitionSpec
    assert state.parameters["layers"]["gate"].sharding.spec == spec(None, "fsdp", "tensor")
    moments = [leaf for leaf in jax.tree.leaves(state.optimizer) if leaf.shape == (2, 32, 64)]
    assert moments and all(leaf.sharding.spec == spec(None, "fsdp", "tensor") for leaf in moments)

    trainer = Trainer(SMALL, optimizer, Partitioner.create({}, jax.devices()[:1]), 1)
    tokens = np.random.default_rng(0).integers(1, 128, (2, 16)).astype(np.int32)
    ones = np.ones_like(tokens)
    batch = {"decoder_input_tokens": tokens, "decoder_target_tokens": tokens, "decoder_loss_weights": ones, "decoder_segment_ids": ones}
    batch |= {"decoder_positions": np.tile(np.arange(16, dtype=np.int32), (2, 1)), "domain": 0 * ones}
    state, step, found = trainer.init(), jax.jit(trainer.step), []
    for _ in range(5):
        state, results = step(state, batch)
        found.append(float(results["loss"]))
    assert np.all(np.isfinite(found)) and found[-1] < found[0]


def test_adafactors_rows_and_columns_keep_the_axes_that_remain():
    names = ("layers", "embed", "mlp")
    assert _kept_axes((2, 32, 64), (2, 32, 64), names) == names
    assert _kept_axes((2, 32, 64), (2, 64), names) == ("layers", "mlp")
    assert _kept_axes((2, 32, 64), (2, 32), names) == ("layers", "embed")
    assert _kept_axes((2, 32, 64), (1,), names) == (None,)


def test_a_schedule_that_is_none_is_refused():
    with pytest.raises(ConfigurationError, match="schedule"):
        optimizers.learning_rate(AdamW(schedule=0.1))
