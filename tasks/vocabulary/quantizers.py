"""Scalar quantizers fitted to a histogram, and the allocation of quantization levels under a code budget.

Example. errors = [[9, 4, 1], [3, 2, 1]] are the squared errors of two components with 1, 2 or 3 levels each. With at
most 4 codes, `allocate` chooses 3 levels and 1 level: 3 codes with error 1 + 3 = 4. Two levels each would give 4 + 2
= 6.
"""

import functools
from collections.abc import Sequence

import numpy as np

_LLOYD_STEPS = 60


def allocate(errors: Sequence[Sequence[float]], num_codes: int) -> tuple[int, ...]:
    """The number of levels of each component: at most `num_codes` in product, with the least total error.

    The search is exact dynamic programming. After n1, n2, ... levels, num_codes // (n1 n2 ...) codes are left, and this
    number takes few different values.

    errors: errors[k][n - 1] is the error of component k with n levels.

    num_codes: number of codes, at least 1.
    """

    @functools.cache
    def best(k: int, codes: int) -> tuple[float, tuple[int, ...]]:
        if k == len(errors):
            return 0.0, ()
        choices = []
        for count in range(1, min(codes, len(errors[k])) + 1):
            rest, levels = best(k + 1, codes // count)
            choices.append((float(errors[k][count - 1]) + rest, (count, *levels)))
        return min(choices)

    return best(0, num_codes)[1]


def lloyd_quantizers(values: np.ndarray, counts: np.ndarray, most: int) -> list[tuple[np.ndarray, float]]:
    """Lloyd's scalar quantizers (1982) of a histogram, with 1 to `most` points.

    values: float [bins], ascending centers of the bins.

    counts: int [bins], elements per bin.

    most: largest number of points.

    Returns (points, ascending; squared error per element) for each number of points.
    """
    weight = np.concatenate([[0.0], np.cumsum(counts, dtype=np.float64)])
    first = np.concatenate([[0.0], np.cumsum(counts * values)])
    second = float((counts * values**2).sum())
    family = []
    for number in range(1, most + 1):
        # Panter and Dite (1951): the density of the best points is the cube root of the probability density.
        dense = np.cumsum(np.cbrt(counts.astype(np.float64)))
        points = np.interp((np.arange(number) + 0.5) / number * dense[-1], dense, values)
        for step in range(_LLOYD_STEPS + 1):
            edges = np.concatenate([[0], np.searchsorted(values, (points[1:] + points[:-1]) / 2), [len(values)]])
            mass, moment = np.diff(weight[edges]), np.diff(first[edges])
            centroids = np.where(mass > 0, moment / np.maximum(mass, 1), points)
            if step == _LLOYD_STEPS or np.array_equal(centroids, points):
                break
            points = np.sort(centroids)
        error = second - float((2 * points * moment - points**2 * mass).sum())
        family.append((points, max(error, 0.0) / max(weight[-1], 1.0)))
    return family
