"""tasks/vocabulary/image.py: grids under the budget, of the picture's shape, never enlarged."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from castor.tasks.vocabulary import image


@given(st.integers(1, 20_000), st.integers(1, 20_000), st.integers(0, 20_000))
@settings(derandomize=True, deadline=None, max_examples=500)
def test_grid_keeps_budget_and_bounds(height, width, budget):
    rows, columns = image.grid_for(height, width, budget)
    assert 1 <= rows <= image.MAX_SIDE and 1 <= columns <= image.MAX_SIDE
    assert rows * columns <= max(budget, 1)
    assert (rows >= columns) == (height >= width) or rows == columns
    assert rows * 8 <= max(height + 4, 8) and columns * 8 <= max(width + 4, 8)
    assert image.grid_for(width, height, budget) == (columns, rows) or height == width


@pytest.mark.parametrize(
    "height,width,budget,expected",
    [
        (533, 400, 256, (18, 14)),
        (532, 800, 1024, (26, 39)),
        (64, 64, 1024, (8, 8)),
        (8, 8, 1, (1, 1)),
        (1, 5000, 64, (1, 64)),
    ],
)
def test_golden_grids(height, width, budget, expected):
    assert image.grid_for(height, width, budget) == expected


@given(st.integers(64, 4000), st.integers(64, 4000))
@settings(derandomize=True, deadline=None, max_examples=200)
def test_shape_is_kept_nearly(height, width):
    rows, columns = image.grid_for(height, width, 1024)
    if min(rows, columns) >= 6 and max(rows, columns) < image.MAX_SIDE:
        assert abs(np.log((rows / columns) / (height / width))) < 0.2
        assert rows * columns > 0.8 * min(1024, (height // 8) * (width // 8))


def test_resize():
    pixels = np.random.default_rng(0).integers(0, 256, (100, 50, 3), dtype=np.uint8)
    assert image.fit_to_budget(pixels, 40).shape == (8 * 8, 4 * 8, 3)
    exact = pixels[:96, :48]
    assert np.array_equal(image.resize_to_grid(exact, 12, 6), exact)
    with pytest.raises(ValueError, match="uint8"):
        image.resize_to_grid(pixels[..., 0], 2, 2)
    with pytest.raises(ValueError, match="pixel"):
        image.grid_for(0, 5, 4)
