"""The wheel carries what it needs: from outside a checkout the command finds its gin files, its templates and its rooms."""

import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

import pytest

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
    subprocess.run([sys.executable, "-c", build], cwd=checkout, check=True, capture_output=True)
    (wheel,) = home.glob("*.whl")
    site = home / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    shutil.rmtree(checkout)
    return site


def castor(site: pathlib.Path, cwd: pathlib.Path, *arguments: str) -> subprocess.CompletedProcess:
    # -S and -I would hide the dependencies with the checkout; the path entry of the wheel wins over an editable install.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"PYTHONPATH": str(site)}
    program = "import sys, castor.launch.command as c; assert 'site' in c.__file__, c.__file__; sys.exit(c.main(sys.argv[1:]))"
    return subprocess.run(
        [sys.executable, "-c", program, *arguments], cwd=cwd, env=environment, capture_output=True, text=True
    )


def test_recipes_and_configurations_are_found(installed, tmp_path):
    done = castor(installed, tmp_path, "demo", "--dry_run")
    assert done.returncode == 0, done.stderr
    assert "castor data vocabulary" in done.stdout


def test_every_gin_file_and_template_travels(installed):
    for folder, package, pattern in (
        ("gin", "castor_gin", "*.gin"),
        ("launch", "launch", "*.html"),
        ("tasks", "tasks", "*.html"),
        ("pipelines", "pipelines", "*.html"),
        ("pipelines", "pipelines", "*.txt"),
    ):
        for path in (REPOSITORY / folder).rglob(pattern):
            assert (installed / package / path.relative_to(REPOSITORY / folder)).is_file(), path


def test_nothing_lands_in_gin_configs_own_package(installed):
    assert not (installed / "gin").exists()
