"""Images as grids of patches: chooses the grid for an image and resizes the image to the grid.

The resolution is variable. The grid follows the aspect ratio, as large as the token budget and the image allow, and
the stream stores height and width. Nothing is cropped, and no side is enlarged by a full patch. This file works on
pixels, not on files.
"""

import math

import numpy as np

PATCH = 8  # side of a square patch in pixels; each patch is one code
CHANNELS = 3
MAX_SIDE = 128  # largest side of a grid in patches; the largest of the <size_k> tokens


def grid_for(height: int, width: int, budget: int) -> tuple[int, int]:
    """Rows and columns of patches for an image, each from 1 to MAX_SIDE, with rows * columns <= max(budget, 1).

    Example: 480 x 640 pixels and a budget of 1024 give 27 x 36 = 972 patches.

    The longer side is scaled to the budget and rounded down. The shorter side then gets the nearest number of patches
    that fits.

    height: pixels.

    width: pixels.

    budget: largest number of patches.

    Raises ValueError for an image without pixels.
    """
    if height < 1 or width < 1:
        raise ValueError(f"an image has at least one pixel, got {height} x {width}")
    budget = max(int(budget), 1)
    long, short = max(height, width), min(height, width)
    scale = min(math.sqrt(budget / (height * width)), 1 / PATCH)
    along = min(max(int(long * scale + 1e-9), 1), MAX_SIDE, budget)
    across = min(max(round(along * short / long), 1), budget // along, along)
    return (along, across) if height >= width else (across, along)


def resize_to_grid(pixels: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """The image resized to a grid, bicubic with antialiasing: uint8 [H, W, 3] -> uint8 [8 rows, 8 columns, 3].

    pixels: uint8 [H, W, 3].

    rows: rows of patches.

    columns: columns of patches.

    Raises ValueError for another shape.
    """
    import PIL.Image

    pixels = np.ascontiguousarray(pixels, np.uint8)
    if pixels.ndim != 3 or pixels.shape[2] != CHANNELS:
        raise ValueError(f"expected uint8 [H, W, 3], got {pixels.dtype}{list(pixels.shape)}")
    size = (columns * PATCH, rows * PATCH)
    if pixels.shape[:2] == (size[1], size[0]):
        return pixels
    return np.asarray(PIL.Image.fromarray(pixels).resize(size, PIL.Image.Resampling.BICUBIC))


def fit_to_budget(pixels: np.ndarray, budget: int) -> np.ndarray:
    """The image as the model gets it: uint8 [H, W, 3] -> uint8 [8 rows, 8 columns, 3] with rows * columns <= budget."""
    return resize_to_grid(pixels, *grid_for(*pixels.shape[:2], budget))
