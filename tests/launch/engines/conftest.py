"""Engines for tests, each started once. If an engine is unavailable, its tests skip with a reason; in CI they fail."""

import pytest
from engine_jobs import prepare

from castor.launch.engines.flink import Flink
from castor.launch.engines.prism import Prism
from castor.launch.engines.processes import Engine

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
