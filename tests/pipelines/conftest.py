"""Makes small_job importable by name, here, in Beam's worker processes and in sandboxes."""

import os
import pathlib
import sys

import gin
import pytest

HERE = str(pathlib.Path(__file__).parent)
if HERE not in sys.path:
    sys.path.append(HERE)
os.environ["PYTHONPATH"] = os.pathsep.join([HERE, *filter(None, [os.environ.get("PYTHONPATH")])])


@pytest.fixture(autouse=True)
def published_values():
    """No gin binding of an earlier test: what a test does not say has its default."""
    gin.clear_config()
