"""Code fingerprints: what a module leads to, and what it does not."""

import importlib
import pathlib

import pytest

from castor import tasks
from castor.tasks import fingerprint

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
HOMES = {f"castor.tasks.{home}" for home in tasks._HOMES.values()}
LOOKED_THROUGH = {
    "castor.launch.command": "a recipe's stage names the subcommand (launch/recipes/recipes.py)",
    "castor.launch.data_jobs": "a job's fingerprint begins with its own module (pipelines/execution/job.py)",
    "castor.pipelines.execution.explain": "explains manifests, makes nothing",
    "castor.pipelines.execution.job_config": "classes of a manifest: a job's fingerprint begins with their modules",
    "castor.tasks": "its table, which its imports for type checkers repeat (below)",
    "castor.train.evaluation.metric_tasks": "an option of castor evaluate: a recipe's stage reads it",
}
"""Modules that import others by a name they compute, and why no fingerprint misses those."""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Writes a user's own modules, and gives a function that tells what one of them leads to."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def lead(**texts: str) -> set[str]:
        for name, text in texts.items():
            (tmp_path / f"{name}.py").write_text(text)
        fingerprint.forget()
        return set(fingerprint.code_of(*texts))

    yield lead
    fingerprint.forget()


def test_names_that_tasks_hands_out_have_one_list():
    """The table that is read at run time and the imports that type checkers and fingerprints read say the same."""
    found = {}
    for module, _, name in fingerprint._names((REPOSITORY / "tasks" / "__init__.py").read_bytes())[0]:
        if name:
            found[name] = module
    assert found == {name: f"castor.tasks.{home}" for name, home in tasks._HOMES.items()}
    assert all(hasattr(importlib.import_module(module), name) for name, module in found.items())


@pytest.mark.parametrize(
    "text",
    [
        "from castor import tasks",
        "import castor.tasks",
        "from castor.tasks import Batches",
        "def late():\n    from castor.tasks import Batches",
        "try:\n    pass\nexcept OSError:\n    from castor.tasks import Batches",
        "import typing\nif typing.TYPE_CHECKING:\n    from castor import tasks",
    ],
)
def test_names_that_tasks_hands_out_lead_to_their_homes(own, text):
    assert HOMES <= own(own_loop=text)


@pytest.mark.parametrize("text", ["from castor.tasks import hashing", "import castor.tasks.hashing as h"])
def test_a_module_of_tasks_does_not_lead_to_all_of_tasks(own, text):
    assert own(own_loop=text) == {"own_loop", "castor.tasks", "castor.tasks.hashing"}


@pytest.mark.parametrize(
    "text",
    [
        "import importlib\nimportlib.import_module('castor.tasks.hashing')",
        "import subprocess, sys\nsubprocess.run([sys.executable, '-P', '-m', 'castor.tasks.hashing'])",
    ],
)
def test_modules_named_in_strings_are_followed(own, text):
    assert "castor.tasks.hashing" in own(own_loop=text)
    assert "castor.tasks.hashing" not in own(own_loop="'castor.tasks.hashing'")


def test_relative_imports_are_followed(own, tmp_path):
    (tmp_path / "own_package").mkdir()
    for name, text in {"__init__": "", "a": "from . import b\nfrom .c import name\n", "b": "", "c": "name = 1"}.items():
        (tmp_path / "own_package" / f"{name}.py").write_text(text)
    found = own(own_loop="import own_package.a")
    assert found == {"own_loop", "own_package", "own_package.a", "own_package.b", "own_package.c"}


def test_installed_packages_and_the_library_never_count(own):
    assert own(own_loop="import json, numpy.linalg, gin\nimport absent_altogether") == {"own_loop"}


def test_files_that_a_module_reads_from_its_folder_count():
    found = fingerprint.code_of("castor.pipelines.core.lists")
    lists = {path.name for path in (REPOSITORY / "pipelines" / "core" / "wordlists").iterdir()}
    assert {name.rpartition("/")[2] for name in found if "/" in name} == lists and lists
    assert "castor.pipelines.corpus.card/card.html" in fingerprint.code_of("castor.pipelines.corpus.card")
    assert "castor.launch.engines.packages/pom.xml" in fingerprint.code_of("castor.launch.engines.packages")


def test_code_is_read_once_until_forgotten(own, tmp_path):
    own(own_loop="A = 1")
    before = fingerprint.of_code("own_loop")
    (tmp_path / "own_loop.py").write_text("A = 2")
    assert fingerprint.of_code("own_loop") == before
    fingerprint.forget()
    assert fingerprint.of_code("own_loop") != before


def test_every_import_by_a_computed_name_is_accounted_for():
    computed = set()
    for room in ("tasks", "pipelines", "train", "launch"):
        for path in (REPOSITORY / room).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            if text.count("importlib.import_module(") > len(fingerprint._names(text.encode())[1]):
                parts = path.relative_to(REPOSITORY).with_suffix("").parts
                computed.add(".".join(("castor", *parts)).removesuffix(".__init__"))
    assert computed == set(LOOKED_THROUGH)
