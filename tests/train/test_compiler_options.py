"""gin/compiler/*.gin: the TPU compiler knows every option, and compiles the step with them."""

import pathlib

import numpy as np
import pytest

import gin

pytest.importorskip("libtpu", reason="the TPU compiler (libtpu) is not installed")

import jax
import jax.numpy as jnp

from castor.tasks import configuration
from castor.tasks.configuration import Flags
from castor.train.compiler import aot
from castor.train.compiler.chips import CHIPS, Topology
from castor.train.model.decoder import DecoderConfig
from castor.train.optimizers import AdamW
from castor.train.partitioning import Partitioner
from castor.train.step import TrainStep, abstract_batch

FILES = sorted((pathlib.Path(__file__).resolve().parents[2] / "gin" / "compiler").glob("*.gin"))

aot.quiet()


@pytest.fixture(autouse=True)
def clear_gin():
    yield
    gin.clear_config()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_compiler_knows_every_option(path):
    from castor.train.run import RunConfig

    bindings = ("MODEL_DIR='model'", "MIXTURE_OR_TASK_NAME='five'")
    configuration.parse(
        Flags(files=("models/tiny.gin", "runs/pretrain.gin", f"compiler/{path.name}"), bindings=bindings)
    )
    options = RunConfig().compiler_options
    mesh = jax.sharding.Mesh(
        np.array(aot.devices(Topology.of(f"{path.stem}:{'2x2' if CHIPS[path.stem].wrap == 16 else '2x2x1'}"))[:1]),
        ("data",),
    )
    x = jax.ShapeDtypeStruct(
        (8, 128), jnp.float32, sharding=jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    )
    assert options and jax.jit(jnp.sin).lower(x).compile(dict(options))


def test_tiles_that_a_file_binds_are_the_model_s():
    bindings = ("MODEL_DIR='model'", "MIXTURE_OR_TASK_NAME='five'")
    configuration.parse(Flags(files=("models/tiny.gin", "runs/pretrain.gin", "compiler/v4.gin"), bindings=bindings))
    assert DecoderConfig(vocab_size=128).splash_blocks.q_backward == 512
    gin.clear_config()
    assert DecoderConfig(vocab_size=128).splash_blocks.q_backward == 1024


def test_the_step_is_compiled_with_them_on_tpu_alone():
    model = DecoderConfig(vocab_size=128, embed=128, layers=1, heads=1, head_dim=128, mlp=128)
    options = {"xla_tpu_no_such_option": "true"}
    for devices, refused in ((aot.devices(Topology.of("v5e:2x2")), True), (jax.devices()[:1], False)):
        train_step = TrainStep(model, AdamW(), Partitioner.create({}, devices), 1, compiler_options=options)
        batch = abstract_batch(train_step.partitioner, len(devices), 8)
        if refused:
            with pytest.raises(jax.errors.JaxRuntimeError, match="xla_tpu_no_such_option"):
                train_step.compile_step(batch)
        else:
            train_step.compile_step(batch)
