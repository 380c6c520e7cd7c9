"""gin/recipes/: the stages of the demo and of real corpora, compared with golden/first_layout.json."""

import json
import pathlib

import pytest

import gin
from castor.launch.recipes import recipes
from castor.tasks import configuration
from castor.tasks.configuration import Flags

GOLDEN = json.loads((pathlib.Path(__file__).parent / "golden" / "first_layout.json").read_text())


@pytest.fixture(autouse=True)
def clear_gin():
    yield
    gin.clear_config()


def stages_of(flags: Flags) -> dict[str, dict]:
    configuration.parse(flags)
    return {
        stage.name: {
            "arguments": recipes.command_line(stage),
            "output": stage.output,
            "needs": list(stage.needs),
        }
        for stage in recipes.Recipe().resolved()
    }


def test_the_demo_with_its_earlier_settings_runs_the_commands_of_the_first_layout():
    earlier = (
        "TRAIN_STEPS = 400",
        "TASK_FEATURE_LENGTHS = {'targets': 512}",
        "TRAIN_GIN = ('models/tiny.gin', 'runs/pretrain.gin', 'mixtures/five.gin')",
    )
    found = stages_of(Flags(("recipes/demo.gin",), ("OUTPUT = 'o'", *earlier)))
    # Two macros are new; both are bound to what the jobs took by default.
    found["raw"]["arguments"].remove("--gin.launch.demo_corpus.DemoCorpus.images=320")
    found["vocabulary"]["arguments"].remove("--gin.SAMPLE_BYTES=10000000")
    assert found == GOLDEN["demo"]
    assert list(found) == list(GOLDEN["demo"])


def test_the_defaults_behind_the_two_new_macros_are_those_bound():
    from castor.launch.recipes.demo_corpus import DemoCorpus

    configuration.parse(Flags(("pipelines/vocabulary.gin",)))
    assert DemoCorpus().images == 320 and configuration.macro("SAMPLE_BYTES") == 10000000


def test_real_corpora_run_the_commands_of_the_first_layout():
    found = stages_of(Flags(("recipes/real.gin",), ("OUTPUT = 'o'", "CORPORA = 'c'")))
    found["vocabulary"]["arguments"].remove("--gin.SAMPLE_BYTES=10000000")
    assert found == GOLDEN["real"]


def test_every_stage_and_the_demo_say_what_they_do():
    configuration.parse(Flags(("recipes/demo.gin",)))
    recipe = recipes.Recipe()
    assert "minutes" in recipe.about
    assert all(0 < len(stage.about) <= 80 for stage in recipe.stages)


def test_a_recipe_adds_its_own_stages_to_those_it_includes(tmp_path):
    (tmp_path / "mine.gin").write_text(
        "include 'recipes/demo.gin'\n"
        "launch.recipes.Recipe.stages = [@before/Stage(), @raw/Stage(), %STAGES]\n"
        "before/Stage:\n  name = 'before'\n  command = ('demo',)\n  output = 'x'\n"
        "web/RefineStage.gin_files = ('mine.gin',)\n"
    )
    found = stages_of(Flags((str(tmp_path / "mine.gin"),), ("OUTPUT = 'o'",)))
    assert list(found) == ["before", *GOLDEN["demo"]]
    assert "--gin_file=mine.gin" in found["web"]["arguments"]
