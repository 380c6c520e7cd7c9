"""launch/commands/mesh_search.py: results on disk are taken up again; a compiler that dies costs one candidate."""

import dataclasses
import json

import pytest

import gin
from castor.launch import abstract_runs
from castor.launch.commands import mesh_search as command
from castor.tasks.configuration import Flags
from castor.train.compiler import mesh_search
from castor.train.compiler.chips import Topology


@pytest.fixture(scope="module")
def ways():
    flags = Flags(
        ("models/small.gin", "runs/pretrain.gin"), ("BATCH_SIZE = 64", "TASK_FEATURE_LENGTHS = {'targets': 2048}")
    )
    config = abstract_runs.configure(flags)
    gin.clear_config()
    model = dataclasses.replace(config.model, vocab_size=32128)
    return mesh_search.candidates(config, model, Topology.of("v5e:4x4"), ("none", "full"))


def report(fits: bool, seconds: float) -> dict:
    step = {"seconds": seconds, "mfu": 0.5, "exposed_seconds": 0.0, "tokens_per_second": 1.0}
    return {"fits": fits, "memory": {"peak": 2**30, "usable": 2**34, "share": 0.1}, **({"step": step} if fits else {})}


def test_results_on_disk_are_taken_up_and_the_quickest_that_fits_is_best(ways, tmp_path):
    for way, made in zip(ways, (report(True, 2.0), report(False, 0.0), report(True, 1.0))):
        (tmp_path / way.name).mkdir()
        (tmp_path / way.name / "report.json").write_text(json.dumps(made))
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
