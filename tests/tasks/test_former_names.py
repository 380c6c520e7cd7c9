"""Manifests, gin files and operative configurations of the first layout keep working under the present names.

golden/first_layout/names.json lists the configurables of the first layout (selector: module) and the dataclasses that
its manifests can name (class path: fields). manifests.json and operative.gin come from a run of the demo.
"""

import dataclasses
import importlib
import json
import pathlib
import subprocess
import sys

import pytest

import gin
from castor.pipelines.execution import explain, job_config
from castor.tasks import configuration, former_names
from castor.tasks.configuration import Flags
from castor.tasks.errors import CorpusError

GOLDEN = pathlib.Path(__file__).parent / "golden" / "first_layout"
NAMES = json.loads((GOLDEN / "names.json").read_text())
MANIFESTS = json.loads((GOLDEN / "manifests.json").read_text())


def class_of(path: str) -> type:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def test_every_former_module_leads_to_one_that_is_there():
    missing = []
    for former, present in former_names.MODULES.items():
        if importlib.util.find_spec(present) is None or present in former_names.MODULES:
            missing.append(f"{former} -> {present}")
    assert not missing, "rows must lead to the present place, in one step"


def test_every_former_class_and_field_leads_to_one_that_is_there():
    for present in former_names.CLASSES.values():
        assert class_of(present).__qualname__ == present.rpartition(".")[2] and present not in former_names.CLASSES
        assert class_of(present).__module__ == present.rpartition(".")[0]
    for path, renamed in former_names.FIELDS.items():
        fields = {field.name for field in dataclasses.fields(class_of(path))}
        assert set(renamed.values()) <= fields and not set(renamed) & fields


@pytest.mark.parametrize("path", NAMES["classes"])
def test_a_class_that_manifests_name_is_found_with_its_fields(path):
    present = former_names.class_path(path)
    assert present.startswith("castor.pipelines.")
    fields = {field.name for field in dataclasses.fields(class_of(present))}
    lost = [name for name in NAMES["classes"][path] if former_names.field(present, name) not in fields]
    assert not lost, f"rebuild would drop what old manifests say of {lost}"


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_manifest_of_the_first_layout_rebuilds(name):
    config = MANIFESTS[name]["config"]
    kind = class_of(former_names.class_path(config["class"]))
    # These fields say where, not what, so no manifest has them.
    places = {name: ("elsewhere",) if name == "corpora" else "elsewhere" for name in kind.not_configuration}
    rebuilt = job_config.rebuild(config, **places)
    assert type(rebuilt) is kind and rebuilt.output == "elsewhere"
    described = rebuilt.config()
    assert with_present_names(config).items() <= described.items(), "a setting was lost"
    assert described["class"].startswith("castor.pipelines."), "manifests written now name what is there now"
    assert job_config.rebuild(described, **places) == rebuilt


def with_present_names(value):
    if isinstance(value, list):
        return [with_present_names(item) for item in value]
    if not isinstance(value, dict):
        return value
    path = former_names.class_path(value.get("class", ""))
    named = {former_names.field(path, key): with_present_names(item) for key, item in value.items()}
    return named | {"class": path} if path else named


def test_the_rule_behind_a_reason_is_found_in_a_manifest_of_the_first_layout():
    kind, settings = explain.rule_of(MANIFESTS["demo/corpora/web"]["config"], "gopher_quality.too_few_words")
    assert kind == "pipelines.filters.gopher_quality.Filter" and settings["min_words"] == 50


@pytest.mark.parametrize("path", ["os.path", "pipelines.os.path", "subprocess.Popen", "pipelines.nothing.Job", "Job"])
def test_a_manifest_makes_nothing_from_outside(path):
    with pytest.raises(CorpusError, match="not part of Castor"):
        job_config.rebuild({"class": path})


def test_an_operative_configuration_of_the_first_layout_makes_its_run():
    program = (
        "import sys\n"
        "from castor.launch import training_runs\n"
        "from castor.tasks.configuration import Flags\n"
        "run = training_runs.configure(Flags((sys.argv[1],)))\n"
        "print(run.train_steps, run.batch_size, run.model.layers, run.optimizer.b2)\n"
        "print(run.checkpoints.keep, run.evaluation.steps)\n"
        "print(sorted(set('tasks pipelines train launch'.split()) & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", program, str(GOLDEN / "operative.gin")], capture_output=True, text=True
    )
    assert done.stdout.splitlines() == ["400 8 4 0.95", "3 4", "[]"], done.stderr


@pytest.mark.parametrize("selector", NAMES["selectors"])
def test_a_selector_of_the_first_layout_names_the_same_configurable(selector):
    module = former_names.module(NAMES["selectors"][selector])
    importlib.import_module(module)
    assert gin.get_configurable(selector).__module__ == module


def test_only_import_statements_are_rewritten():
    text = (
        "# import train.loop\n"
        "import train.loop as loop  # the run\n"
        "from tasks import catalog\n"
        "from train import search as s\n"
        "import my.own.module\n"
        "include 'train.loop'\n"
        "A = '''\n"
        "import train.loop\n"
        "'''\n"
        "train.loop.Run.model_dir = {\n"
        "  'import': 'train.loop'}\n"
    )
    assert configuration.with_present_names(text) == (
        "# import train.loop\n"
        "import castor.train.run as loop  # the run\n"
        "from castor.tasks.batches import catalog\n"
        "from castor.train.compiler import mesh_search as s\n"
        "import my.own.module\n"
        "include 'train.loop'\n"
        "A = '''\n"
        "import train.loop\n"
        "'''\n"
        "train.loop.Run.model_dir = {\n"
        "  'import': 'train.loop'}\n"
    )
    assert configuration.imported_modules(text) == [
        "castor.train.run",
        "castor.tasks.batches.catalog",
        "castor.train.compiler.mesh_search",
        "my.own.module",
    ]


def test_parameters_of_castors_jobs_are_rewritten_in_bindings_and_in_blocks():
    text = (
        "# image.Job.rules = []\n"
        "image.Job.rules = [@StillImage()]\n"
        "mine/pipelines.audio.Job.limits = @pipelines.Sandbox()  # rules\n"
        "pipelines.video.Job:\n"
        "  rules = [\n"
        "      @ClipQuality(),\n"
        "  ]\n"
        "\n"
        "  limits = @pipelines.Sandbox()\n"
        "tokenize.Job.limits = @pipelines.Sandbox()\n"
        "mine.Job.rules = {'image.Job.rules': 1}\n"
        "rules = 1\n"
        "mine.Job:\n"
        "  limits = %rules\n"
    )
    assert configuration.with_present_names(text) == (
        "# image.Job.rules = []\n"
        "image.Job.filters = [@StillImage()]\n"
        "mine/pipelines.audio.Job.sandbox = @pipelines.Sandbox()  # rules\n"
        "pipelines.video.Job:\n"
        "  filters = [\n"
        "      @ClipQuality(),\n"
        "  ]\n"
        "\n"
        "  sandbox = @pipelines.Sandbox()\n"
        "tokenize.Job.sandbox = @pipelines.Sandbox()\n"
        "mine.Job.rules = {'image.Job.rules': 1}\n"
        "rules = 1\n"
        "mine.Job:\n"
        "  limits = %rules\n"
    )


@pytest.mark.parametrize("job", ["image", "audio", "video"])
def test_a_users_gin_file_with_former_parameters_makes_the_job(tmp_path, job):
    (tmp_path / "mine.gin").write_text(
        f"include 'pipelines/{job}.gin'\n{job}.Job.rules = []\n{job}.Job.limits = @mine/pipelines.Sandbox()\n"
        "mine/pipelines.Sandbox.cpu_seconds = 7.0\n"
    )
    module = importlib.import_module(f"castor.pipelines.{job}")
    try:
        configuration.parse(Flags((str(tmp_path / "mine.gin"),), ("INPUT_ROOT = 'raw'", "OUTPUT = 'out'")))
        made = module.Job()
        assert list(made.filters) == [] and made.sandbox.cpu_seconds == 7.0
        configuration.parse(
            Flags((str(tmp_path / "mine.gin"),), ("INPUT_ROOT = 'raw'", "OUTPUT = 'out'", f"{job}.Job.rules = [1]"))
        )
        assert list(module.Job().filters) == [1], "the last binding wins, under whichever name"
    finally:
        gin.clear_config()


def test_files_includes_and_bindings_import_by_former_names(tmp_path):
    (tmp_path / "inner.gin").write_text("import tasks.weights\ntasks.weights.Temperature.temperature = 3\n")
    (tmp_path / "outer.gin").write_text("include 'inner.gin'\nfrom tasks import schedule\n")
    flags = Flags(("outer.gin",), ("import pipelines.minhash", "tasks.weights.UniMax.budget = 10"), (str(tmp_path),))
    try:
        configuration.parse(flags)
        assert "castor.pipelines.deduplication.minhash" in sys.modules
        assert gin.query_parameter("tasks.weights.Temperature.temperature") == 3
        assert "import castor.tasks.mixing.weights" in gin.config_str()
    finally:
        gin.clear_config()


def test_a_fault_in_a_file_is_told_with_its_name_and_line(tmp_path):
    (tmp_path / "bad.gin").write_text("import tasks.weights\ntasks.weights.Temperature.heat = 3\n")
    with pytest.raises(configuration.ConfigurationError, match=r"bad\.gin.*line 2"):
        configuration.parse(Flags(("bad.gin",), (), (str(tmp_path),)))
    gin.clear_config()
