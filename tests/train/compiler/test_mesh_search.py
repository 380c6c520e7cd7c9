"""The ways that are tried: every factoring that divides, in a sensible order; results on disk are taken up again."""

import dataclasses
import json
import math

import pytest

from castor.launch import abstract_runs
from castor.launch.commands import mesh_search as command
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


def report(fits: bool, seconds: float) -> dict:
    step = {"seconds": seconds, "mfu": 0.5, "exposed_seconds": 0.0, "tokens_per_second": 1.0}
    return {"fits": fits, "memory": {"peak": 2**30, "usable": 2**34, "share": 0.1}, **({"step": step} if fits else {})}


def test_results_on_disk_are_taken_up_and_the_quickest_that_fits_is_best(ways, tmp_path):
    for way, told in zip(ways, (report(True, 2.0), report(False, 0.0), report(True, 1.0))):
        (tmp_path / way.name).mkdir()
        (tmp_path / way.name / "report.json").write_text(json.dumps(told))
    (tmp_path / ways[3].name).mkdir()
    (tmp_path / ways[3].name / "report.json").write_text('{"half a rep')
    results = command.compile_candidates(ways, tmp_path, ["false"], budget_s=0.0)
    assert set(results) == {way.name for way in ways[:3]}
    assert command.fastest(results) == ways[2].name
    assert command.fastest({ways[1].name: results[ways[1].name]}) is None


def test_a_compiler_that_dies_is_said_and_the_search_goes_on(ways, tmp_path, capsys):
    assert (
        command.compile_candidate(
            ways[0], tmp_path / "a", ["sh", "-c", "echo it broke >&2; kill -9 $$"], timeout_s=30.0
        )
        is None
    )
    assert "it broke" in capsys.readouterr().err


def test_what_asks_for_more_than_a_mesh_has_is_not_compiled(ways):
    small, large = sorted((way for way in ways if way.mesh == ways[0].mesh), key=lambda way: way.bytes)[:2]
    assert command.cannot_fit(large, ways, {small.name: report(False, 0.0)})
    assert not command.cannot_fit(small, ways, {large.name: report(False, 0.0)})


def test_the_best_is_a_gin_file_that_trains_so(run, ways):
    way = next(way for way in ways if dict(way.mesh)["tensor"] > 1)
    again = abstract_runs.configure(Flags(("models/small.gin", "runs/pretrain.gin"), way.bindings))
    assert again.mesh == {axis: size for axis, size in way.mesh if size > 1 or axis == "data"}
    assert (again.model.remat, again.accumulate) == (way.remat, way.accumulate)
