"""Patches: cuts an array into vectors of 8-bit levels and joins them again, with exact integer products.

Products are computed in float64, where every sum stays below 2^53: the result does not depend on the order of
summation.
"""

import numpy as np

_ROWS = 1 << 15  # vectors per exact float64 product


def to_levels(array: np.ndarray, low: float, step: float) -> np.ndarray:
    """The 8-bit levels round((value - low) / step) of an array, clamped to 0..255: uint8 [H, W, C].

    array: [H, W] or [H, W, C]. NaN becomes the lowest level.

    low: value of level 0.

    step: difference of adjacent levels.

    Raises ValueError for an empty array and another number of axes.
    """
    array = np.asarray(array)
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or not array.size:
        raise ValueError(f"expected an array [H, W] or [H, W, C] that is not empty, got shape {array.shape}")
    if array.dtype == np.uint8 and (low, step) == (0.0, 1.0):
        return array
    scaled = np.nan_to_num((array.astype(np.float64) - low) / step, nan=0.0, posinf=255.0, neginf=0.0)
    return np.clip(np.floor(scaled + 0.5), 0, 255).astype(np.uint8)


def from_levels(levels: np.ndarray, low: float, step: float) -> np.ndarray:
    """The inverse of `to_levels`: uint8 for (low, step) = (0, 1), else float32; [H, W] if there is one channel."""
    array = levels if (low, step) == (0.0, 1.0) else (levels * step + low).astype(np.float32)
    return array[..., 0] if array.shape[-1] == 1 else array


def cut(levels: np.ndarray, patch: tuple[int, int, int]) -> np.ndarray:
    """Cuts levels into patches: [H, W, C] -> vectors [H / height, W / width, d].

    levels: uint8 [H, W, C].

    patch: height, width and channels of a patch; d is their product.

    Raises ValueError if H or W is not divisible, or C differs.
    """
    height, width, channels = patch
    if levels.shape[0] % height or levels.shape[1] % width or levels.shape[2] != channels:
        raise ValueError(f"an array of shape {levels.shape} does not divide into patches of {patch}")
    rows, columns = levels.shape[0] // height, levels.shape[1] // width
    return levels.reshape(rows, height, columns, width, channels).swapaxes(1, 2).reshape(rows, columns, -1)


def join(vectors: np.ndarray, patch: tuple[int, int, int]) -> np.ndarray:
    """The inverse of `cut`: vectors [h, w, d] -> levels [h * height, w * width, channels]."""
    height, width, channels = patch
    rows, columns, _ = vectors.shape
    return (
        vectors.reshape(rows, columns, height, width, channels)
        .swapaxes(1, 2)
        .reshape(rows * height, columns * width, channels)
    )


def quantize(grid: np.ndarray, basis: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """The level index of each component: vectors [h, w, d] -> int64 [h, w, K].

    basis: int [d, K].

    thresholds: int64 [K, most - 1], ascending.
    """
    projected = product(grid, basis).astype(np.int64)
    indices = np.empty(projected.shape, np.int64)
    for k in range(len(thresholds)):
        indices[..., k] = np.searchsorted(thresholds[k], projected[..., k], side="right")
    return indices


def neighbourhood(values: np.ndarray) -> np.ndarray:
    """Each cell joined with its eight neighbours: [h, w, K] -> [h, w, 9 K]. Border cells are repeated outwards."""
    h, w, _ = values.shape
    padded = np.pad(values, ((1, 1), (1, 1), (0, 0)), mode="edge")
    return np.concatenate([padded[i : i + h, j : j + w] for i in range(3) for j in range(3)], axis=-1)


def product(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The exact integer product left @ right, as float64. Every sum stays far below 2^53."""
    return np.asarray(left, np.float64) @ np.asarray(right, np.float64)


def gram(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The exact product left^T @ right as int64, summed over groups of rows that float64 represents exactly."""
    total = np.zeros((left.shape[1], right.shape[1]), np.int64)
    for start in range(0, len(left), _ROWS):
        total += product(left[start : start + _ROWS].T, right[start : start + _ROWS]).astype(np.int64)
    return total
