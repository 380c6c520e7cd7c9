"""The core and the extras: every library that Castor imports belongs to one, and one line names a missing library."""

import ast
import importlib.metadata
import os
import pathlib
import re
import subprocess
import sys

import pytest
import small_caches as caches

from castor.launch import command, extras

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
ROOMS = ("launch", "train", "pipelines", "tasks")
CORE_MODULES = {"gin": "gin-config", "google.protobuf": "protobuf", "google_crc32c": "google-crc32c"}
ABSENT = """
import importlib.abc, sys

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if any(name == module or name.startswith(module + ".") for module in {absent!r}):
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
import castor.launch.command
sys.exit(castor.launch.command.main(sys.argv[1:]))
"""
"""The command where some modules are not installed.

The real core installation is measured by benchmarks/install/sizes.py.
"""


def core() -> set[str]:
    lines = importlib.metadata.requires("castor")
    return {re.match(r"[\w.-]+", line)[0].lower() for line in lines if "extra ==" not in line}


def third_party() -> dict[str, str]:
    """Module -> a file that imports it, for every import of Castor's rooms that is neither Python's nor Castor's."""
    found = {}
    for path in (path for room in ROOMS for path in sorted((REPOSITORY / room).rglob("*.py"))):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            for name in names:
                top = name.partition(".")[0]
                if top not in sys.stdlib_module_names and top != "castor":
                    found[name if top == "google" else top] = str(path.relative_to(REPOSITORY))
    return found


def test_every_library_is_of_the_core_or_of_an_extra():
    unknown = {}
    for module, path in third_party().items():
        short = ".".join(module.split(".")[:2])
        if CORE_MODULES.get(short, module).lower() in core():
            continue
        if short.startswith("google.cloud"):
            assert module.startswith("google.cloud.storage"), path
            short = "google.cloud.storage"
        requirement = extras.DISTRIBUTIONS.get(short, module)
        if not any(requirement.lower() in wanted for wanted in extras._extras().values()):
            unknown[module] = path
    assert not unknown, (
        "add their distributions to an extra in setup.py, and their names to launch/extras.py where they differ"
    )


def test_the_extra_all_is_what_the_two_commands_need():
    wanted = extras._extras()
    assert wanted["all"] == wanted["data"] | wanted["train"] | wanted["seqio"]
    assert not core() & wanted["all"]
    heavy = {"apache-beam", "tensorflow", "seqio", "jax", "flax", "pillow", "av", "soundfile", "google-cloud-storage"}
    assert heavy <= wanted["all"]


@pytest.mark.parametrize("row", command.SUBCOMMANDS, ids=lambda row: row.name)
def test_every_subcommand_names_an_extra_there_is(row):
    assert row.extra in extras._extras()


@pytest.mark.parametrize(
    ("module", "preferred", "expected"),
    [
        ("apache_beam.io", "data", ("apache-beam", "data")),
        ("PIL", "data", ("pillow", "data")),
        ("PIL.Image", "train", ("pillow", "train")),
        ("av", "all", ("av", "all")),
        ("jax", "data", ("jax", "train")),
        ("google.cloud.storage", "train", ("google-cloud-storage", "gcs")),
        ("google.cloud.storage", "data", ("google-cloud-storage", "data")),
    ],
)
def test_the_remedy_is_the_extra_of_the_command_or_the_first(module, preferred, expected, monkeypatch):
    monkeypatch.setattr(extras, "_is_there", lambda name: False)
    requirement, extra = expected
    found = extras.remedy(ModuleNotFoundError(name=module), preferred)
    assert found == (requirement, f"pip install 'castor[{extra}]'")


@pytest.mark.parametrize("name", ["castor.no_such_module", "no_such_library", "gin", "numpy", "", None])
def test_no_extra_is_named_where_none_would_help(name):
    assert extras.remedy(ImportError(name=name)) is None


def test_a_library_that_is_there_but_broken_keeps_its_own_error():
    assert extras.remedy(ImportError("cannot import name 'x' from 'apache_beam'", name="apache_beam"), "data") is None


def run(tmp_path: pathlib.Path, absent: list[str], *arguments: str) -> subprocess.CompletedProcess:
    program = ABSENT.format(absent=absent)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [sys.executable, "-P", "-c", program, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True
    )


HEAVY = ["apache_beam", "msgpack", "zstandard", "PIL", "av", "soundfile", "soxr", "resiliparse", "fastwarc"]
HEAVY += ["jax", "flax", "optax", "orbax", "tensorboardX", "safetensors", "seqio", "tensorflow", "google.cloud"]


@pytest.mark.parametrize(
    ("arguments", "extra"),
    [
        (["data", "web", "--gin.INPUT_ROOT='x'", "--gin.OUTPUT='y'"], "data"),
        (["train", "--gin.MODEL_DIR='m'", "--gin.MIXTURE_OR_TASK_NAME='t'"], "train"),
        (["infer", "--model_dir=m"], "train"),
        (["demo"], "all"),
        (["tasks", "list", "gs://bucket/tasks"], None),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else value,
)
def test_a_command_without_its_extra_says_so_in_one_line(arguments, extra, tmp_path):
    done = run(tmp_path, HEAVY, *arguments)
    (line,) = done.stderr.strip().splitlines()
    assert done.returncode == 2 and line.startswith("castor: error: ")
    if extra:
        assert f"castor {arguments[0]} needs " in line and line.endswith(f": pip install 'castor[{extra}]'")


def test_the_core_lists_shows_verifies_previews_and_traces(tmp_path):
    caches.make_cache(tmp_path / "tasks" / "toy", caches.make_records(40))
    toy = str(tmp_path / "tasks" / "toy")
    for arguments in (
        ["--help"],
        *([row.name, "--help"] for row in command.SUBCOMMANDS),
        ["tasks", "list", "tasks"],
        ["tasks", "show", toy],
        ["tasks", "verify", toy],
        ["tasks", "lineage", toy, "--step=3", "--batch_size=4", "--length=64"],
    ):
        done = run(tmp_path, HEAVY, *arguments)
        assert done.returncode == 0, (arguments, done.stderr)
