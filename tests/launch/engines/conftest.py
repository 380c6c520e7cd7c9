"""Engines for tests, each brought up once. Where one cannot be had, its tests are skipped and say why; in CI they fail."""

import os
import pathlib
import sys

import pytest

from launch.engines.flink import Flink
from launch.engines.prism import Prism
from launch.engines.processes import Engine, EngineError

SMALL_JOB = str(pathlib.Path(__file__).parents[2] / "pipelines")  # its folder: importable here and in every worker
if SMALL_JOB not in sys.path:
    sys.path.append(SMALL_JOB)
os.environ["PYTHONPATH"] = os.pathsep.join([SMALL_JOB, *filter(None, [os.environ.get("PYTHONPATH")])])

ENGINES = {"prism": Prism, "flink": Flink}


@pytest.fixture(scope="session", params=["multi_processing", "prism", "flink"])
def engine(request):
    """A running engine other than Beam's in-process one."""
    if request.param == "multi_processing":
        yield Engine(request.param, "", ("--direct_running_mode=multi_processing", "--direct_num_workers=2"), None)
        return
    made = ENGINES[request.param]()
    prepare(made)
    with made.start() as running:
        yield running


def prepare(engine) -> None:
    """Fetches what an engine is made of, or skips the test."""
    try:
        engine.prepare()
    except EngineError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"this engine cannot be had here: {error}")
