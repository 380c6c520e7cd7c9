"""Peak signal-to-noise ratio, the measure of a codec's quality."""

import numpy as np


def psnr(expected: np.ndarray, actual: np.ndarray, peak: float = 255.0) -> float:
    """Peak signal-to-noise ratio in dB over all elements; infinite for equal arrays.

    expected: array of any shape.

    actual: array of the same shape.

    peak: largest possible difference, 255 for 8-bit pixels.
    """
    difference = np.asarray(expected, np.float64) - np.asarray(actual, np.float64)
    return psnr_of_error(float((difference**2).sum()), difference.size, peak)


def psnr_of_error(squared_error: float, elements: int, peak: float = 255.0) -> float:
    """PSNR in dB from a sum of squared errors and the number of elements."""
    return float("inf") if not squared_error else 10 * float(np.log10(peak**2 * elements / squared_error))
