"""Recipes: order, skipping, redoing what changed, setting a stale model aside, failing with the stage's own words."""

import json
import pathlib

import pytest

from castor.launch.recipes import recipes
from castor.launch.recipes.recipes import Recipe, Stage
from castor.tasks.errors import CastorError, ConfigurationError

SMALL = {f"launch.demo_corpus.DemoCorpus.{kind}": 1 for kind in ("images", "sounds", "clips", "pages")}


def corpus_stage(name: str, needs=(), **bindings) -> Stage:
    """A real stage that takes a second: a demo corpus of one item a kind."""
    return Stage(
        name,
        ("demo", "--corpus_only", "--output={OUTPUT}/" + name),
        "{OUTPUT}/" + name,
        (),
        {**SMALL, **bindings},
        needs,
    )


def make(tmp_path: pathlib.Path, *stages: Stage) -> Recipe:
    return Recipe("test", stages, {"OUTPUT": str(tmp_path / "out")})


def states(outcomes) -> dict[str, str]:
    return {outcome.stage.name: outcome.state for outcome in outcomes}


def test_a_second_run_does_nothing_and_a_change_redoes_what_depends_on_it(tmp_path):
    a, b, c = corpus_stage("a"), corpus_stage("b", needs=("a",)), corpus_stage("c")
    order = []
    first = recipes.run(make(tmp_path, b, a, c), listen=lambda name, state: order.append((name, state)))
    assert states(first) == {"a": "done", "b": "done", "c": "done"}
    assert order.index(("a", "done")) < order.index(("b", "running"))
    assert (tmp_path / "out" / "b" / "corpus.json").is_file()

    assert states(recipes.run(make(tmp_path, b, a, c))) == {"a": "up to date", "b": "up to date", "c": "up to date"}

    changed = corpus_stage("a", **{"launch.demo_corpus.DemoCorpus.seed": 1})
    assert states(recipes.run(make(tmp_path, b, changed, c))) == {"a": "done", "b": "done", "c": "up to date"}


def test_a_missing_output_is_made_again(tmp_path):
    import shutil

    recipe = make(tmp_path, corpus_stage("a"))
    recipes.run(recipe)
    shutil.rmtree(tmp_path / "out" / "a")
    assert states(recipes.run(recipe)) == {"a": "done"}


def test_a_failing_stage_stops_what_needs_it_and_says_why(tmp_path, capsys):
    bad = corpus_stage("bad", **{"launch.demo_corpus.DemoCorpus.pictures": 1})
    outcomes = recipes.run(make(tmp_path, bad, corpus_stage("after", needs=("bad",))))
    assert states(outcomes) == {"bad": "failed"}
    assert outcomes[0].exit_code == 2
    from castor.launch.commands.run import _explain

    with pytest.raises(CastorError, match=r"stage bad: .*pictures"):
        _explain(outcomes[0])


def test_only_runs_the_named_stages(tmp_path):
    recipe = make(tmp_path, corpus_stage("a"), corpus_stage("b"))
    assert states(recipes.run(recipe, only=("b",))) == {"b": "done"}
    with pytest.raises(ConfigurationError, match="no stage c"):
        recipes.run(recipe, only=("c",))


def test_a_model_begun_from_other_inputs_is_archived(tmp_path):
    folder, model = tmp_path / "stages", tmp_path / "model"
    folder.mkdir()
    stage = Stage("train", ("train",), str(model))
    recipes._archive_model(stage, folder, "first")
    model.mkdir()
    (model / "weights").write_text("1")
    recipes._archive_model(stage, folder, "first")
    assert (model / "weights").is_file(), "the same inputs go on with the same model"
    recipes._archive_model(stage, folder, "second")
    assert not model.exists() and (tmp_path / "model.first" / "weights").is_file()
    assert json.loads((folder / "train.begun.json").read_text()) == {"fingerprint": "second"}


def test_malformed_recipes_are_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="needs 'z'"):
        make(tmp_path, corpus_stage("a", needs=("z",)))
    with pytest.raises(ConfigurationError, match="form a cycle: "):
        make(tmp_path, corpus_stage("a", needs=("b",)), corpus_stage("b", needs=("a",)))
    with pytest.raises(ConfigurationError, match="two stages"):
        make(tmp_path, corpus_stage("a"), corpus_stage("a"))


def test_variables_fill_strings_and_keep_types(tmp_path):
    stage = Stage(
        "s", ("train", "--x={OUTPUT}/y"), "{OUTPUT}/m", (), {"TRAIN_STEPS": "{STEPS}", "INPUTS": ["{OUTPUT}/*"]}
    )
    (filled,) = Recipe("t", (stage,), {"OUTPUT": "o", "STEPS": 7}).resolved()
    assert filled.command == ("train", "--x=o/y") and filled.bindings == {"TRAIN_STEPS": 7, "INPUTS": ["o/*"]}
    assert recipes.command_line(filled) == ["train", "--x=o/y", "--gin.TRAIN_STEPS=7", "--gin.INPUTS=['o/*']"]


def test_a_data_stage_is_up_to_date_while_inputs_and_configuration_are_as_its_manifest_says(tmp_path):
    """The real code job on a folder of two sources: skipped, redone for a new threshold, redone for a new file."""
    raw = tmp_path / "raw"
    (raw / "repo").mkdir(parents=True)
    (raw / "repo" / "LICENSE").write_text("SPDX-License-Identifier: MIT\n")
    (raw / "repo" / "one.py").write_text("def one():\n    return 1\n" * 20)

    def recipe(**bindings):
        said = {
            "NAME": "code",
            "INPUT_ROOT": str(raw),
            "INPUTS": ["*"],
            "OUTPUT": "{OUTPUT}/code",
            "NUM_SHARDS": 1,
            "DEAD_LETTER_THRESHOLD": 1.0,
        } | bindings
        return make(tmp_path, Stage("code", ("data", "code"), "{OUTPUT}/code", ("pipelines/code.gin",), said))

    first = recipes.run(recipe())
    assert states(first) == {"code": "done"}, first[0].log.read_text()
    assert states(recipes.run(recipe())) == {"code": "up to date"}
    assert states(recipes.run(recipe(DEAD_LETTER_THRESHOLD=0.9))) == {"code": "done"}
    (raw / "repo" / "two.py").write_text("def two():\n    return 2\n" * 20)
    assert states(recipes.run(recipe(DEAD_LETTER_THRESHOLD=0.9))) == {"code": "done"}


def test_the_report_is_written_from_what_is_there(tmp_path):
    """Manifests, metrics and samples in; every name escaped; parts that are missing left out."""
    from castor.launch.reports import report

    out = tmp_path / "out"
    (out / "corpora" / "web").mkdir(parents=True)
    funnel = {"read": 5, "kept": 3, "rejected": {"rule.<b>": 1}, "duplicates": {}, "dead_letters": {"read.cut": 1}}
    (out / "corpora" / "web" / "manifest.json").write_text(json.dumps({"name": "web", "funnel": funnel}))
    (out / "model").mkdir()
    lines = [
        {"step": 0, "loss": 5.0, "loss/web": 5.0},
        {"step": 1, "loss": 4.0, "loss/web": 4.0},
        {"step": 1, "loss": 3.0, "loss/web": 3.0},
    ]
    (out / "model" / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (out / "samples").mkdir()
    (out / "samples" / "samples.json").write_text(json.dumps([{"prompt": "<script>", "text": "said & done"}]))
    page = report.write(make(tmp_path, corpus_stage("a"))).read_text()
    assert (
        "rule.&lt;b&gt;" in page and "<script>" not in page and "&lt;script&gt;" in page and "said &amp; done" in page
    )
    assert report.curves(out / "model" / "metrics.jsonl") == [report.Curve("web", (0, 1), (5.0, 3.0))]
    assert "<polyline" in page and "Vocabulary" not in page
