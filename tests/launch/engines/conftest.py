"""Engines for tests, each brought up once. Where one cannot be had, its tests are skipped and say why; in CI they fail."""

import os
import pathlib
import sys

import pytest

from launch.engines.flink import Flink
from launch.engines.prism import Prism
from launch.engines.processes import Engine

HERE = pathlib.Path(__file__).parent
SMALL_JOB = str(HERE.parents[1] / "pipelines")  # its folder: importable here and in every worker
sys.path.extend(folder for folder in (str(HERE), SMALL_JOB) if folder not in sys.path)
os.environ["PYTHONPATH"] = os.pathsep.join([SMALL_JOB, *filter(None, [os.environ.get("PYTHONPATH")])])

from engine_jobs import prepare

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
