"""Fixtures of the tests of jobs and rules."""

import pytest

import gin


@pytest.fixture(autouse=True)
def published_values():
    """Clears the gin bindings of earlier tests, so that unbound parameters have their defaults."""
    gin.clear_config()
