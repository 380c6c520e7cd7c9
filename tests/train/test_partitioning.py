"""train/partitioning.py: meshes that fit or say why not, the rule table without collisions, the rows of a process."""

import dataclasses
import math

import jax
import numpy as np
import pytest

from castor.tasks.errors import ConfigurationError
from castor.train.model import decoder
from castor.train.model.decoder import DecoderConfig
from castor.train.partitioning import MESH_AXES, RULES, MeshConfig, Partitioner


def on(**sizes):
    """A partitioner of an abstract mesh: specs and sizes need no devices."""
    return Partitioner.abstract(sizes, math.prod(sizes.values()))


def test_sizes_are_resolved():
    assert MeshConfig.of({}).sizes(8) == (8, 1, 1, 1, 1)
    assert MeshConfig.of({"fsdp": 4}).sizes(4) == (1, 4, 1, 1, 1)
    assert MeshConfig.of({"data": -1, "tensor": 2}).sizes(8) == (4, 1, 1, 1, 2)
    assert MeshConfig.of(MeshConfig(2, 2, 1, 1, 2)).sizes(8) == (2, 2, 1, 1, 2)


def test_slices_hold_copies_unless_told_otherwise():
    assert MeshConfig.of({"fsdp": -1, "tensor": 2}).sizes(16, num_slices=2) == (2, 4, 1, 1, 2)
    assert MeshConfig.of({"data": -1, "fsdp": 2}).sizes(16, num_slices=2) == (8, 2, 1, 1, 1)
    assert MeshConfig.of({}).sizes(16, num_slices=2) == (16, 1, 1, 1, 1)
    with pytest.raises(
        ConfigurationError, match="data=1 the axes fsdp, tensor would cross the 2 slices.*Make data a multiple of 2"
    ):
        MeshConfig.of({"data": 1, "fsdp": 8, "tensor": 2}).sizes(16, num_slices=2)


@pytest.mark.parametrize(
    "mesh, match",
    [
        ({"data": 3}, "does not fit the 8 device"),
        ({"data": -1, "fsdp": 3}, "does not fit"),
        ({"data": -1, "fsdp": -1}, "is not a mesh"),
        ({"data": 0}, "is not a mesh"),
        ({"model": 8}, "names the axis 'model'"),
    ],
)
def test_meshes_that_do_not_fit(mesh, match):
    with pytest.raises(ConfigurationError, match=match):
        MeshConfig.of(mesh).sizes(8)


def test_every_parameter_and_activation_has_its_place():
    place = on(data=2, fsdp=2, tensor=2)
    for name, axes in decoder.logical_axes(DecoderConfig(vocab_size=128)).items():
        place.spec(axes, name)
    spec = jax.sharding.PartitionSpec
    assert place.spec(("layers", "embed", "heads", "head")) == spec(
        None, ("fsdp", "context"), ("sequence", "tensor"), None
    )
    assert place.spec(("vocab", "embed")) == spec(("sequence", "tensor"), ("fsdp", "context"))
    assert place.spec(("batch", "length")) == spec(("data", "fsdp"), "context")
    assert place.spec(("batch", "residual_length", "act_embed")) == spec(
        ("data", "fsdp"), ("context", "sequence"), None
    )
    assert place.spec(("batch", "length", "act_heads", "head")) == spec(
        ("data", "fsdp"), "context", ("sequence", "tensor"), None
    )
    assert {axis for axes in RULES.values() for axis in axes} == set(MESH_AXES)


def test_two_axes_on_one_mesh_axis_are_refused_by_name():
    with pytest.raises(
        ConfigurationError, match="parameter gate.*'mlp' and 'heads' both map to the mesh axis 'sequence'"
    ):
        on(tensor=2).spec(("mlp", "heads"), "parameter gate")
    rules = tuple((RULES | {"mlp": ("fsdp",)}).items())
    with pytest.raises(ConfigurationError, match="'embed' and 'mlp' both map to the mesh axis 'fsdp'"):
        dataclasses.replace(on(fsdp=2), rules=rules).spec(("layers", "embed", "mlp"))
    with pytest.raises(ConfigurationError, match="'colour', which has no rule"):
        on().spec(("colour",))


@pytest.mark.parametrize(
    "sizes, config, match",
    [
        (
            {"tensor": 3},
            {"vocab_size": 384, "heads": 4},
            r"Transformer.heads = 4 is not a multiple of 3, the size of the mesh axes \(tensor=3\)",
        ),
        ({"tensor": 2}, {"vocab_size": 129}, "Transformer.vocab_size = 129"),
        ({"fsdp": 5}, {"vocab_size": 128}, "Transformer.embed = 128"),
    ],
)
def test_widths_that_the_mesh_does_not_divide(sizes, config, match):
    with pytest.raises(ConfigurationError, match=match):
        DecoderConfig(**config).check_mesh(on(**sizes))


def test_a_single_process_holds_the_whole_batch():
    place = Partitioner.create({}, jax.devices()[:1])
    assert place.data_layout(8) == (0, 1)
    placed = place.place_batch({"x": np.arange(32, dtype=np.int32).reshape(8, 4)}, 8)
    np.testing.assert_array_equal(placed["x"], np.arange(32).reshape(8, 4))


def described(name, slices=1):
    pytest.importorskip("libtpu", reason="the TPU compiler (libtpu) is not installed")
    from castor.train.compiler import aot
    from castor.train.compiler.chips import Topology

    aot.quiet()
    return aot.devices(Topology.of(name, slices))


@pytest.mark.parametrize(
    "name, slices, mesh, sets",
    [
        ("v5e:16x16", 1, {"fsdp": -1}, 64),  # four chips per host, each with its own rows
        ("v5e:16x16", 2, {"fsdp": -1, "context": 4}, 64),
        (
            "v5e:16x16",
            1,
            {"fsdp": 32, "tensor": 8},
            16,
        ),  # a host's chips hold two shards of the batch, four hosts the same two
        ("v4:4x4x4", 2, {"data": -1, "fsdp": 4, "sequence": 2}, 32),
    ],
)
def test_on_a_tpu_slice_every_row_is_on_one_set_of_hosts(name, slices, mesh, sets):
    place = Partitioner.create(mesh, described(name, slices))
    of_slice = place.mesh.devices.reshape(slices, -1)
    assert all(len({getattr(device, "slice_index", 0) for device in part}) == 1 for part in of_slice)
    rows = place.rows_of(1024)
    distinct = set(rows.values())
    assert len(distinct) == sets and sorted(row for held in distinct for row in held) == list(range(1024))
    assert place.data_layout(1024) == (sorted(distinct).index(rows[0]), sets)
    if mesh == {"fsdp": -1}:  # rows follow the wiring, not the hosts, so blocks of rows by host cannot be placed
        assert any(held[-1] - held[0] + 1 != len(held) for held in distinct)


def test_hosts_that_share_a_part_of_their_rows_are_refused():
    devices = described("v5e:4x4")
    by_host = sorted(devices, key=lambda device: device.process_index)
    grid = np.array(by_host[1:] + by_host[:1]).reshape(1, 8, 1, 1, 2)  # pairs that span two hosts
    place = Partitioner(jax.sharding.Mesh(grid, MESH_AXES))
    with pytest.raises(ConfigurationError, match=r"process \d+ holds rows .* shares only some of them"):
        place.data_layout(8)
