"""What the tests of jobs and rules share."""

import pytest

import gin


@pytest.fixture(autouse=True)
def published_values():
    """No gin binding of an earlier test: what a test does not say has its default."""
    gin.clear_config()
