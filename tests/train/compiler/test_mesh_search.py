"""train/compiler/mesh_search.py: every factorization that divides, in a sensible order."""

import dataclasses
import math

import pytest

import gin
from castor.launch import abstract_runs
from castor.tasks.configuration import Flags
from castor.train.compiler import mesh_search
from castor.train.compiler.chips import Topology
from castor.train.partitioning import MESH_AXES

TOPOLOGY = Topology.of("v5e:4x4")


@pytest.fixture(scope="module")
def run():
    flags = Flags(
        ("models/small.gin", "runs/pretrain.gin"), ("BATCH_SIZE = 64", "TASK_FEATURE_LENGTHS = {'targets': 2048}")
    )
    planned = abstract_runs.configure(flags)
    gin.clear_config()
    return dataclasses.replace(planned, model=dataclasses.replace(planned.model, vocab_size=32128))


@pytest.fixture(scope="module")
def ways(run):
    return mesh_search.candidates(run, run.model, TOPOLOGY, ("none", "full"))


def test_meshes_are_the_factorings_of_the_chips_with_slices_along_data():
    found = list(mesh_search.meshes(Topology.of("v5e:4x4", 2), MESH_AXES))
    assert all(math.prod(mesh.values()) == 32 and mesh["data"] % 2 == 0 for mesh in found)
    assert len({tuple(mesh.items()) for mesh in found}) == len(found) > 10


def test_ways_divide_the_model_and_the_batch(run, ways):
    assert ways
    for way in ways:
        mesh = dict(way.mesh)
        assert math.prod(mesh.values()) == 16
        assert 64 % (mesh["data"] * mesh["fsdp"] * way.accumulate) == 0
        assert 12 % (mesh["tensor"] * mesh["sequence"]) == 0
        assert way.bytes <= mesh_search.SLACK * TOPOLOGY.chip.usable
    assert len({way.name for way in ways}) == len(ways)
    assert [way.mesh for way in ways[:5]].count(ways[0].mesh) < 5  # other meshes get their turn


def test_recomputing_and_taking_parts_save_memory_and_cost_time(ways):
    by = {(way.mesh, way.remat, way.accumulate): way for way in ways}
    compared = 0
    for (mesh, remat, parts), way in by.items():
        full, half = by.get((mesh, "full", parts)), by.get((mesh, remat, 2 * parts))
        if remat == "none" and full:
            assert full.bytes < way.bytes and full.seconds > way.seconds
            compared += 1
        if half:
            assert half.bytes < way.bytes and half.seconds >= way.seconds
    assert compared


def test_the_best_is_a_gin_file_that_trains_so(run, ways):
    way = next(way for way in ways if dict(way.mesh)["tensor"] > 1)
    again = abstract_runs.configure(Flags(("models/small.gin", "runs/pretrain.gin"), way.bindings))
    gin.clear_config()
    assert again.mesh == {axis: size for axis, size in way.mesh if size > 1 or axis == "data"}
    assert (again.model.remat, again.accumulate) == (way.remat, way.accumulate)
