"""A stage whose code has changed is never taken for up to date: all that a real stage loads is in its fingerprint."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from castor.launch.recipes import recipes
from castor.launch.recipes.recipes import Stage
from castor.tasks import configuration, fingerprint

REPOSITORY = pathlib.Path(__file__).resolve().parents[3]
LOADED = """
import json, sys
from castor.launch.command import main
code = main(sys.argv[2:])
with open(sys.argv[1], "w") as file:
    json.dump([name for name in sys.modules if name.startswith("castor.")], file)
sys.exit(code)
"""
EDITED = """
import json, pathlib, sys
from castor.launch.recipes import recipes
from castor.tasks import fingerprint

assert pathlib.Path(fingerprint.__file__).is_relative_to(sys.argv[1]), "this is not the copy"
said = json.loads(sys.argv[2])
stage = recipes.Stage(said["name"], tuple(said["command"]), said["output"], tuple(said["gin_files"]), said["bindings"])
folder = pathlib.Path(said["output"]).parent
if stage.command[0] == "data":
    job = recipes.job_of(stage)
    files, promise = fingerprint.code_of(*job.code_roots()), job.fingerprint()
    manifest = pathlib.Path(stage.output, "manifest.json")
else:
    files = fingerprint.code_of(*recipes.code_roots(stage, recipes.gin_texts(stage)))
    promise = recipes.stage_fingerprint(stage, {}, folder)
    manifest = folder / f"{stage.name}.json"
manifest.parent.mkdir(parents=True, exist_ok=True)
pathlib.Path(stage.output).mkdir(exist_ok=True)
manifest.write_text(json.dumps({"fingerprint": promise}))

assert recipes.is_up_to_date(stage, {}, folder)
unseen = []
for path in sorted(set(files.values())):
    before = path.read_bytes()
    path.write_bytes(before + b"\\n# edited\\n")
    if recipes.is_up_to_date(stage, {}, folder):
        unseen.append(str(path))
    path.write_bytes(before)
assert recipes.is_up_to_date(stage, {}, folder)
print(json.dumps({"files": sorted(files), "unseen": unseen}))
"""


@pytest.fixture(scope="module")
def stages(tmp_path_factory, castor, world) -> dict[str, Stage]:
    """One stage of each kind, small: code -> tokenize, and train -> evaluate, infer."""
    root = tmp_path_factory.mktemp("stages")
    (root / "raw" / "repo").mkdir(parents=True)
    (root / "raw" / "repo" / "LICENSE").write_text("SPDX-License-Identifier: MIT\n")
    (root / "raw" / "repo" / "one.py").write_text("def one():\n    return 1\n" * 20)
    corpus, cache, model = str(root / "corpora" / "code"), str(root / "tasks" / "code"), str(root / "model")
    read = {"NAME": "code", "INPUT_ROOT": str(root / "raw"), "INPUTS": ["*"], "OUTPUT": corpus, "NUM_SHARDS": 1}
    cut = {"NAME": "code", "CORPUS": corpus, "VOCABULARY": str(world / "vocabulary"), "OUTPUT": cache, "NUM_SHARDS": 1}
    flags, _ = configuration.split_flags(castor.bindings(model, TRAIN_STEPS=2))
    bound = dict(line.split(" = ", 1) for line in flags.bindings)
    run = {name: eval(value, {}) for name, value in bound.items()}
    return {
        "code": Stage("code", ("data", "code"), corpus, ("pipelines/code.gin",), read | {"DEAD_LETTER_THRESHOLD": 1.0}),
        "tokenize": Stage("tokenize", ("data", "tokenize"), cache, ("pipelines/tokenize.gin",), cut),
        "train": Stage("train", ("train",), model, flags.files, run),
        "evaluate": Stage("evaluate", ("evaluate", f"--model_dir={model}"), str(root / "loss.json"), flags.files, run),
        "infer": Stage(
            "infer", ("infer", f"--model_dir={model}", f"--samples={root}/samples", "--text=the"), f"{root}/samples"
        ),
    }


@pytest.fixture(scope="module")
def loaded(stages, tmp_path_factory) -> dict[str, set[str]]:
    """Castor's modules that each stage has loaded when it is done, each in a process of its own."""
    folder, found = tmp_path_factory.mktemp("loaded"), {}
    for name, stage in stages.items():
        command = [sys.executable, "-P", "-c", LOADED, str(folder / name), *recipes.command_line(stage)]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        found[name] = set(json.loads((folder / name).read_text()))
    return found


@pytest.mark.parametrize("name", ["code", "tokenize", "train", "evaluate", "infer"])
def test_every_edit_of_what_a_stage_loads_is_seen(name, stages, loaded, tmp_path):
    for room in ("tasks", "pipelines", "train", "launch", "gin"):
        shutil.copytree(REPOSITORY / room, tmp_path / "castor" / room, ignore=shutil.ignore_patterns("__pycache__"))
    told = {**vars(stages[name]), "output": str(tmp_path / "out" / name)}
    if stages[name].command[0] == "data":
        told["bindings"] = told["bindings"] | {"OUTPUT": told["output"]}
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-P", "-c", EDITED, str(tmp_path), json.dumps(told)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout)
    assert told["unseen"] == []

    without = loaded[name] - set(told["files"])
    if stages[name].command[0] == "data":
        # What comes before the job ends in its configuration, which the fingerprint holds: the command, gin, and parts
        # that a gin file imports for those who want them and that this job's configuration leaves out.
        texts = recipes.gin_texts(stages[name])
        offered = fingerprint.code_of(*(module for text in texts for module in configuration.imported_modules(text)))
        without = {
            m for m in without - set(offered) if not m.startswith(("castor.launch", "castor.tasks.configuration"))
        }
    assert sorted(without) == []


def test_a_user_s_own_module_counts_where_gin_imports_it(tmp_path, monkeypatch):
    (tmp_path / "own_schedule.py").write_text("import own_helper\n")
    (tmp_path / "own_helper.py").write_text("PEAK = 1\n")
    (tmp_path / "run.gin").write_text("import own_schedule\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    stage = Stage("train", ("train",), str(tmp_path / "model"), (str(tmp_path / "run.gin"),))
    before = recipes.stage_fingerprint(stage, {}, tmp_path)
    (tmp_path / "own_helper.py").write_text("PEAK = 2\n")
    fingerprint.forget()
    assert recipes.stage_fingerprint(stage, {}, tmp_path) != before
    assert "own_schedule" not in sys.modules, "looking for code runs none"


def test_a_module_that_an_option_names_counts(tmp_path, monkeypatch):
    (tmp_path / "own_tasks.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    for said in (("--module_import=own_tasks",), ("--module_import", "own_tasks")):
        assert "own_tasks" in recipes.code_roots(Stage("evaluate", ("evaluate", *said), "loss.json"), ())


def test_a_subcommand_without_a_row_has_the_code_of_all():
    roots = recipes.code_roots(Stage("export", ("export", "--model_dir=m"), "exported"), ())
    from castor.launch.command import SUBCOMMANDS

    assert {row.module for row in SUBCOMMANDS} <= roots


def test_a_training_stage_without_gin_files_has_those_of_the_command():
    texts = recipes.gin_texts(Stage("train", ("train",), "model"))
    assert (REPOSITORY / "gin" / "models" / "tiny.gin").read_text() in texts
    assert (REPOSITORY / "gin" / "runs" / "pretrain.gin").read_text() in texts
