"""Fits a PatchCodec in closed form, without gradients or random numbers, from sums over a sample of arrays.

    pass 1   moments of the patches              -> principal components
    pass 2   histograms of the projections       -> levels per component (quantizers.py)
    pass 3   reconstructed x true patch vectors  -> least-squares reconstruction

All sums are integers. They can be computed on any workers and added in any order, and the codec is the same.
"""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from castor.tasks.vocabulary import patches, quantizers
from castor.tasks.vocabulary.codecs import BASIS_SCALE, MAX_CODES, WEIGHT_SCALE, PatchCodec

_POINT_SHIFT = 1 << 10  # reconstruction points are stored in 1/16 level, so that their products sum exactly
_COMPONENTS = 16  # components that may get levels; 65,536 codes never give levels to more than six
_MOST_LEVELS = (64, 64, 32, 32) + (16,) * (_COMPONENTS - 4)
_BINS = 2048  # histogram bins of 1/64 standard deviation: +-16 standard deviations


@dataclasses.dataclass(frozen=True, eq=False)
class Fitting:
    """A PatchCodec being fitted. In each of three passes, `measure` every array, `merge` the results and `advance`.

    A measurement is a tuple of int64 arrays of fixed shapes. Integer addition is associative, so the sample can be
    spread over any number of workers.

    patch: height, width and channels of a patch.

    num_codes: codes to reserve, 2 to MAX_CODES.

    low: value of level 0, see PatchCodec.

    step: difference of adjacent levels, see PatchCodec.

    The other fields are results of completed passes.

    Raises ValueError for num_codes outside its range.
    """

    patch: tuple[int, int, int]
    num_codes: int
    low: float = 0.0
    step: float = 1.0
    basis: np.ndarray | None = None
    mean: np.ndarray | None = None
    centre: np.ndarray | None = None
    width: np.ndarray | None = None
    levels: np.ndarray | None = None
    thresholds: np.ndarray | None = None
    points: np.ndarray | None = None

    PASSES: ClassVar[int] = 3

    def __post_init__(self):
        if not 2 <= self.num_codes <= MAX_CODES:
            raise ValueError(f"num_codes must be in 2..{MAX_CODES}, got {self.num_codes}")

    def measure(self, array: np.ndarray) -> tuple[np.ndarray, ...]:
        """The sums of the current pass over one array, of the shape and dtype that `PatchCodec.encode` takes."""
        grid = patches.cut(patches.to_levels(array, self.low, self.step), self.patch)
        vectors = grid.reshape(-1, grid.shape[-1])
        if self.basis is None:
            return np.array(len(vectors), np.int64), vectors.sum(axis=0, dtype=np.int64), patches.gram(vectors, vectors)
        if self.levels is None:
            projected = patches.product(vectors, self.basis).astype(np.int64)
            bins = np.clip((projected - self.centre) // self.width + _BINS // 2, 0, _BINS - 1)
            flat = bins + np.arange(bins.shape[1]) * _BINS
            return (
                np.bincount(flat.ravel(), minlength=bins.shape[1] * _BINS)
                .reshape(bins.shape[1], _BINS)
                .astype(np.int64),
            )
        indices = patches.quantize(grid, self.basis, self.thresholds)
        features = patches.neighbourhood(self.points[np.arange(len(self.levels)), indices]).reshape(len(vectors), -1)
        return patches.gram(features, features), patches.gram(features, vectors), features.sum(axis=0, dtype=np.int64)

    @staticmethod
    def merge(parts: Sequence[tuple[np.ndarray, ...]]) -> tuple[np.ndarray, ...]:
        """The sum of measurements; () for none."""
        parts = [part for part in parts if part]
        return tuple(np.sum(column, axis=0, dtype=np.int64) for column in zip(*parts, strict=True))

    def advance(self, total: tuple[np.ndarray, ...]) -> "Fitting | PatchCodec":
        """The state after the current pass, or the codec after the last pass. Raises ValueError for an empty sample."""
        if not total:
            raise ValueError("a codec cannot be fitted to an empty sample")
        if self.basis is None:
            return self._with_components(*total)
        if self.levels is None:
            return self._with_levels(*total)
        return self._finish(*total)

    def _with_components(self, count: np.ndarray, total: np.ndarray, outer: np.ndarray) -> "Fitting":
        if not count:
            raise ValueError("a codec cannot be fitted to an empty sample")
        mean = total / float(count)
        covariance = outer / float(count) - np.outer(mean, mean)
        variances, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
        vectors = vectors[:, ::-1][:, :_COMPONENTS]
        variances = variances[::-1][:_COMPONENTS]
        vectors = vectors[:, variances > 1e-6]  # constant components carry no information
        largest = np.abs(np.round(vectors, 6)).argmax(axis=0)
        vectors = vectors * np.sign(vectors[largest, np.arange(vectors.shape[1])])
        basis = np.round(vectors * BASIS_SCALE).astype(np.int32)
        exact = basis.astype(np.float64)
        centre = np.round(mean @ exact).astype(np.int64)
        spread = np.sqrt(np.maximum(np.einsum("ik,ij,jk->k", exact, covariance, exact), 0))
        return dataclasses.replace(
            self,
            basis=basis,
            mean=np.round(mean * 16).astype(np.int32),
            centre=centre,
            width=np.maximum(spread / 64, 1).astype(np.int64),
        )

    def _with_levels(self, histograms: np.ndarray) -> "Fitting":
        values = (np.arange(_BINS) - _BINS // 2 + 0.5)[None, :] * self.width[:, None]
        candidates = [
            quantizers.lloyd_quantizers(values[k], histograms[k], _MOST_LEVELS[k]) for k in range(len(histograms))
        ]
        levels = quantizers.allocate([[error for _, error in family] for family in candidates], self.num_codes)
        chosen = [k for k, count in enumerate(levels) if count > 1]
        most = max([levels[k] for k in chosen], default=1)
        thresholds = np.full((len(chosen), most - 1), np.iinfo(np.int64).max)
        points = np.zeros((len(chosen), most), np.int32)
        for row, k in enumerate(chosen):
            place = candidates[k][levels[k] - 1][0]
            thresholds[row, : levels[k] - 1] = np.round((place[1:] + place[:-1]) / 2).astype(np.int64) + self.centre[k]
            points[row, : levels[k]] = np.round(place / _POINT_SHIFT)
        counts = np.array([levels[k] for k in chosen], np.int32)
        return dataclasses.replace(
            self, basis=self.basis[:, chosen], levels=counts, thresholds=thresholds, points=points
        )

    def _finish(self, gram: np.ndarray, cross: np.ndarray, total: np.ndarray) -> PatchCodec:
        # `cross` has the sums with the uncentered vectors; the contribution of the mean is subtracted here.
        target = cross - np.outer(total, self.mean / 16.0)
        size = len(gram)
        ridge = np.eye(size) * (1e-4 * np.trace(gram) / max(size, 1) + 1.0)
        weights = np.linalg.solve(gram + ridge, target) * (16 * WEIGHT_SCALE) if size else np.zeros((0, len(self.mean)))
        weights = np.round(np.clip(weights, -(1 << 30), 1 << 30)).astype(np.int32)
        return PatchCodec(
            self.patch,
            self.num_codes,
            self.low,
            self.step,
            self.basis,
            self.levels,
            self.thresholds,
            self.points,
            weights,
            self.mean,
        )


def fit(
    arrays: Sequence[np.ndarray], patch: tuple[int, int, int], num_codes: int, low: float = 0.0, step: float = 1.0
) -> PatchCodec:
    """A codec fitted to arrays in memory. The vocabulary job does the same with a distributed sample.

    arrays: arrays of the shape and dtype that `PatchCodec.encode` takes.

    patch: height, width and channels of a patch.

    num_codes: codes to reserve, 2 to MAX_CODES.

    low: value of level 0, see PatchCodec.

    step: difference of adjacent levels, see PatchCodec.

    Raises ValueError for an empty sample.
    """
    state: Fitting | PatchCodec = Fitting(patch, num_codes, low, step)
    for _ in range(Fitting.PASSES):
        total: tuple[np.ndarray, ...] = ()
        for array in arrays:
            total = Fitting.merge([total, state.measure(array)])
        state = state.advance(total)
    return state
