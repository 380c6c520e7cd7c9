"""The wheel is complete, and Castor's single import name does not collide with a user's modules.

Outside a checkout, the command finds its gin files, its templates and its packages. In a folder with a user's own
tasks.py, train.py, launch.py, pipelines.py, train/, tasks/ and even castor/, the command, its child processes and a
script all find Castor, both from a wheel and from an editable install.
"""

import ast
import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

import pytest
import small_caches as caches

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> pathlib.Path:
    """A wheel built from a copy of the checkout and unpacked as an installer would."""
    home = tmp_path_factory.mktemp("wheel")
    checkout = home / "checkout"
    checkout.mkdir()
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, checkout)
    for room in ("gin", "launch", "train", "pipelines", "tasks"):
        shutil.copytree(REPOSITORY / room, checkout / room, ignore=shutil.ignore_patterns("__pycache__"))
    build = "from setuptools import build_meta; print(build_meta.build_wheel('..'))"
    subprocess.run([sys.executable, "-P", "-c", build], cwd=checkout, check=True, capture_output=True)
    (wheel,) = home.glob("*.whl")
    site = home / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    shutil.rmtree(checkout)
    return site


def castor(site: pathlib.Path, cwd: pathlib.Path, *arguments: str) -> subprocess.CompletedProcess:
    # -S and -I would hide the dependencies along with the checkout. The path entry of the wheel takes precedence over
    # an editable install.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"PYTHONPATH": str(site)}
    program = "import sys, castor.launch.command as c; assert 'site' in c.__file__, c.__file__; sys.exit(c.main(sys.argv[1:]))"
    return subprocess.run(
        [sys.executable, "-P", "-c", program, *arguments], cwd=cwd, env=environment, capture_output=True, text=True
    )


def test_recipes_and_configurations_are_found(installed, tmp_path):
    done = castor(installed, tmp_path, "demo", "--dry_run")
    assert done.returncode == 0, done.stderr
    assert "castor data vocabulary" in done.stdout


def test_every_file_that_is_read_at_run_time_travels(installed):
    patterns = {"gin": ("*.gin",), "launch": ("*.html", "pom.xml", "Dockerfile"), "tasks": ("*.html",)}
    patterns["pipelines"] = ("*.html", "*.json", "wordlists/*.txt")
    for room, names in patterns.items():
        for path in (path for name in names for path in (REPOSITORY / room).rglob(name)):
            assert (installed / "castor" / path.relative_to(REPOSITORY)).is_file(), path
    for path in (path for room in ("launch", "train", "pipelines", "tasks") for path in (REPOSITORY / room).rglob("*")):
        assert path.suffix in (".py", ".pyc", "") or (installed / "castor" / path.relative_to(REPOSITORY)).is_file(), (
            path
        )


def test_nothing_else_travels(installed):
    assert {path.name for path in installed.iterdir() if not path.name.endswith(".dist-info")} == {"castor"}
    assert {path.name for path in (installed / "castor").iterdir()} == {"gin", "launch", "pipelines", "tasks", "train"}


def test_nothing_lands_in_gin_configs_own_package(installed):
    assert not (installed / "gin").exists()


OWN = "raise SystemExit(f'{__file__} is not Castor')\n"
LOOP = """
import castor.launch.command, castor.pipelines.document, castor.tasks
from castor.tasks import Batches, Mixture, configuration

mixture = Mixture("m", {"toy": 1.0}, cache_dirs=("tasks",))
batches = Batches(mixture, batch_size=4, lengths={"targets": 64}, seed=0)
print(sum(int(batches.batch(step)["decoder_loss_weights"].sum()) for step in range(5)), castor.tasks.__file__)
configuration.parse(configuration.Flags(files=("recipes/demo.gin",)))
"""


@pytest.fixture
def crowded(tmp_path) -> pathlib.Path:
    """A user's folder in which every name of Castor's rooms, and its own, is taken."""
    folder = tmp_path / "user"
    for name in ("tasks", "train", "launch", "pipelines"):
        (folder / name).mkdir(parents=True)
        (folder / f"{name}.py").write_text(OWN)
        (folder / name / "mine.py").write_text(OWN)
    (folder / "train" / "__init__.py").write_text(OWN)
    (folder / "castor").mkdir()
    (folder / "castor" / "notes.txt").write_text("mine")
    (folder / "gin").mkdir()
    (folder / "loop.py").write_text(LOOP)
    caches.make_cache(folder / "tasks" / "toy", caches.make_records(40))
    return folder


@pytest.mark.parametrize("kind", ["wheel", "editable"])
def test_castor_is_found_among_a_users_own_modules(kind, installed, crowded, tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    if kind == "wheel":
        environment["PYTHONPATH"] = str(installed)
    home = str(installed if kind == "wheel" else REPOSITORY)
    console = tmp_path / "bin" / "castor"  # as pip writes the command
    console.parent.mkdir()
    console.write_text("import sys\nfrom castor.launch.command import main\nsys.exit(main())\n")

    def run(*command: object) -> str:
        line = [sys.executable, *map(str, command)]
        done = subprocess.run(line, cwd=crowded, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    tokens, file = run("loop.py").split()
    assert int(tokens) > 500 and file.startswith(home)
    assert "toy" in run(console, "tasks", "list", "tasks")
    assert "pipelines/web.gin" in run(console, "data", "web", "--help")


def test_python_is_started_with_the_safe_path():
    """Every `python -m` and `python -c` that Castor starts leaves the working directory out."""
    unsafe = []
    for room in ("launch", "train", "pipelines", "tasks"):
        for path in sorted((REPOSITORY / room).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if not isinstance(node, ast.List) or len(node.elts) < 2:
                    continue
                first, second = (ast.unparse(element) for element in node.elts[:2])
                if first == "sys.executable" and second in ("'-m'", "'-c'", "'-u'"):
                    unsafe.append(f"{path.relative_to(REPOSITORY)}:{node.lineno}")
    assert not unsafe, "write [sys.executable, '-P', ...]"
