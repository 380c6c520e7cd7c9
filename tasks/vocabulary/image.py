"""Pictures as grids of patches: how large a picture the model sees, and how it is brought to that size.

Resolution is variable: the grid follows the picture's own shape, as large as a budget of tokens and the picture's own size allow, and the
stream tells height and width. Nothing is cropped, and a side is enlarged by less than a patch. This file knows pixels, not files.
"""

import math

import numpy as np

PATCH = 8  # pixels, square: one code each
CHANNELS = 3
MAX_SIDE = 128  # patches: the largest of the <size_k> tokens


def grid_for(height: int, width: int, budget: int) -> tuple[int, int]:
    """Rows and columns of patches for a picture of `height` x `width` pixels, rows * columns <= max(budget, 1), each in 1..MAX_SIDE.

    Of all grids that fit, the largest of nearly the right shape: the longer side is scaled to the budget and rounded down, then the shorter
    takes the nearest whole number of patches that still fits.
    """
    if height < 1 or width < 1:
        raise ValueError(f"a picture has at least one pixel, got {height} x {width}")
    budget = max(int(budget), 1)
    long, short = max(height, width), min(height, width)
    scale = min(math.sqrt(budget / (height * width)), 1 / PATCH)
    along = min(max(int(long * scale + 1e-9), 1), MAX_SIDE, budget)
    across = min(max(round(along * short / long), 1), budget // along, along)
    return (along, across) if height >= width else (across, along)


def resize_to_grid(pixels: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """uint8 [H, W, 3] -> uint8 [8 rows, 8 columns, 3], bicubic with antialiasing."""
    import PIL.Image

    pixels = np.ascontiguousarray(pixels, np.uint8)
    if pixels.ndim != 3 or pixels.shape[2] != CHANNELS:
        raise ValueError(f"expected uint8 [H, W, 3], got {pixels.dtype}{list(pixels.shape)}")
    size = (columns * PATCH, rows * PATCH)
    if pixels.shape[:2] == (size[1], size[0]):
        return pixels
    return np.asarray(PIL.Image.fromarray(pixels).resize(size, PIL.Image.Resampling.BICUBIC))


def fit_to_budget(pixels: np.ndarray, budget: int) -> np.ndarray:
    """The picture as the model sees it: uint8 [H, W, 3] -> uint8 [8 rows, 8 columns, 3] with rows * columns <= budget."""
    return resize_to_grid(pixels, *grid_for(*pixels.shape[:2], budget))
