"""The real TPU compiler on small programs: a plain matrix product against known values, and compiler errors."""

import io
import math

import numpy as np
import pytest

pytest.importorskip("libtpu", reason="the TPU compiler (libtpu) is not installed")

from castor.tasks.errors import ConfigurationError
from castor.train.compiler import aot
from castor.train.compiler.chips import CHIPS, GIB, Topology
from castor.train.compiler.collectives import Fabric
from castor.train.compiler.hlo import parse
from castor.train.compiler.predict import predict

aot.quiet()


@pytest.mark.parametrize("name", ["v5e:2x2", "v5p:2x2x1"])
def test_a_plain_product_has_its_flops_and_nearly_the_peak_rate(name):
    import jax
    import jax.numpy as jnp

    topology = Topology.of(name)
    mesh = jax.sharding.Mesh(np.array(aot.devices(topology)[:1]), ("data",))
    where = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    a, b = (jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=where) for shape in ((4096, 2048), (2048, 16384)))
    prediction = predict(
        parse(io.StringIO(jax.jit(jnp.matmul).lower(a, b).compile().as_text())), Fabric.of(mesh, topology)
    )
    assert prediction.flops == 2 * 4096 * 2048 * 16384
    assert 0.95 < prediction.flops / CHIPS[topology.chip.name].peak / prediction.scheduled <= 1.0
    assert prediction.hbm_bytes >= 2 * 4096 * 16384 and not prediction.collectives


def test_slices_are_described_in_order():
    devices = aot.devices(Topology.of("v5p:2x2x1", 2))
    assert [device.slice_index for device in devices] == [0] * 4 + [1] * 4
    assert len(aot.devices(Topology.of("v4:4x4x4"))) == 64  # chips, not cores


def test_a_slice_that_does_not_exist_is_refused_in_one_line():
    with pytest.raises(ConfigurationError, match="v5e:3x5"):
        aot.devices(Topology.of("v5e:3x5"))


@pytest.mark.parametrize(
    ("message", "needed", "granted"),
    [
        (
            "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (480.00G) "
            "exceeds available HBM (15.75G).",
            480,
            15.75,
        ),
        (
            "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. Used 20.10G "
            "of 15.75G hbm. Exceeded hbm by 4.35G.",
            20.1,
            15.75,
        ),
    ],
)
def test_refusals_say_how_much_was_asked_for(message, needed, granted):
    error = aot.out_of_memory(message)
    assert error.needed == pytest.approx(needed * GIB) and error.granted == granted * GIB and "GiB" in error.what
    assert aot.out_of_memory("RESOURCE_EXHAUSTED: for reasons of its own").needed is None


def test_no_device_holds_the_whole_batch_where_context_and_sequence_cut_it_together():
    """By default the compiler gathers all rows for the gradients of weights, and the whole table for an embedding
    lookup.
    """
    from castor.train.model.decoder import DecoderConfig
    from castor.train.optimizers import AdamW
    from castor.train.partitioning import Partitioner
    from castor.train.step import TrainStep

    rows, length = 4, 512
    model = DecoderConfig(
        vocab_size=2048,
        embed=256,
        layers=2,
        heads=2,
        head_dim=128,
        mlp=512,
        dtype="bfloat16",
        remat="full",
        loss_chunk=128,
    )
    partitioner = Partitioner.create({"fsdp": 2, "context": 2, "sequence": 2}, aot.devices(Topology.of("v5e:2x4")))
    compiled = aot.compile_step(TrainStep(model, AdamW(), partitioner, num_domains=1), rows, length)
    arrays = [
        array
        for body in parse(io.StringIO(compiled.text)).computations.values()
        for each in body.instructions.values()
        for array in each.arrays
    ]
    floating = [array.shape for array in arrays if array.dtype in ("bf16", "f32")]
    assert (
        len(floating) > 1000
        and max(map(math.prod, floating)) < model.vocab_size * model.embed == rows * length * model.embed
    )
