"""Shared by all tests: the real corpora or a skip with a reason, quiet libraries, and a shared compilation cache."""

import os
import pathlib
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # there is no TPU to fight over: its compiler alone is used

# Compiling takes longer than running the compiled programs. So every program is compiled once per session, for all
# tests and their processes, and without the passes that optimize machine code (the TPU's compiler has no such switch).
# `optimized` below enables these passes again where they matter.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _programs = tempfile.TemporaryDirectory(prefix="castor-programs-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _programs.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
os.environ.setdefault(
    "EPATH_USE_TF", "false"
)  # which that cache would settle before train/checkpoints/checkpoints.py does
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
if "fusion_emitters" not in os.environ.get("XLA_FLAGS", ""):  # the older way to write loops takes half the time
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_use_fusion_emitters=false".strip()

import hypothesis
import pytest

# The same examples on every machine, and no example fails for being slow there.
hypothesis.settings.register_profile("castor", derandomize=True, deadline=None)
hypothesis.settings.load_profile("castor")

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
# pytest puts tests/helpers on this process's path (pyproject.toml). Beam's workers, sandboxes and commands started by
# tests find tests/helpers through PYTHONPATH.
os.environ["PYTHONPATH"] = os.pathsep.join(
    [str(REPOSITORY / "tests" / "helpers"), *filter(None, [os.environ.get("PYTHONPATH")])]
)
pytest_plugins = ["train_world"]
REAL_DATA = pathlib.Path(os.environ.get("CASTOR_REAL_DATA", REPOSITORY.parent / "shared" / "data"))


@pytest.fixture(scope="session")
def real_data() -> pathlib.Path:
    """The folder of real corpora (web/, image/, audio/, video/, bad/, eval/)."""
    if not (REAL_DATA / "README.md").is_file():
        pytest.skip(f"the real corpora are not at {REAL_DATA}; set CASTOR_REAL_DATA to the folder that holds them")
    return REAL_DATA


@pytest.fixture(scope="session")
def real_data_if_present() -> str:
    """The same folder, or an empty text: for tests that have a corpus of their own to fall back on."""
    return str(REAL_DATA) if (REAL_DATA / "README.md").is_file() else ""


def pytest_collection_modifyitems(items):
    """Marks tests whose behaviour depends on the real corpora.

    CI runs these tests once without the corpora, like a user who has none.
    """
    for item in items:
        if {"real_data", "real_data_if_present"} & set(item.fixturenames):
            item.add_marker("data")


@pytest.fixture
def optimized(monkeypatch):
    """Machine code as good as that of a run, here and in processes that the test starts."""
    import jax

    before = os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] != "0"
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "0")
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)
