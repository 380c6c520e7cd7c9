"""Codecs: a picture or a spectrogram to a grid of integers and back, so that every modality can be a span of one token stream.

`Codec` is the interface that the vocabulary knows. `PatchCodec` is the one fitted in closed form, without gradient or random number:

    patch       the array is cut into patches (8x8 RGB pixels; a few frames of a log-mel), each a vector of 8-bit levels
    project     onto the principal components of such vectors
    quantize    each component to its own few levels: finite scalar quantization (arXiv 2309.15505). How many levels each gets
                is the allocation of least squared error under the code budget (exact, by dynamic programming), and they stand where the
                sample's distribution wants them (Lloyd 1982): the bounding function of FSQ, fitted instead of tanh
    code        the mixed-radix number of the levels; one integer a patch
    reconstruct by a linear map of the levels of the patch and of its eight neighbours: the least-squares estimate of the pixels, which
                smooths the seams and is worth 0.4 to 0.8 dB over looking at the patch alone

Everything that is fitted comes from sums over the sample (`Fitting`), all integers, so they can be taken anywhere in any order and give the
same codec. The codec's own arithmetic is integer too (held in float64, exact below 2^53): codes and pixels are the same on every machine.
"""

import abc
import dataclasses
import functools
import io
import zipfile
import zlib
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from castor.tasks.errors import VocabularyError
from castor.tasks.storage import storage

FORMAT = 1
MAX_CODES = 1 << 20
_BASIS_SCALE = 1 << 14  # fixed point of the principal components; 192 pixels of 8 bits stay below 2^30
_POINT_SHIFT = 1 << 10  # reconstruction points are kept in 1/16 level, so that their products sum exactly
_WEIGHT_SCALE = 1 << 16
_COMPONENTS = 16  # the components that may get levels; the seventh is already out of reach of 65,536 codes
_MOST_LEVELS = (64, 64, 32, 32) + (16,) * (_COMPONENTS - 4)
_BINS = 2048  # of a component's histogram, a 64th of its standard deviation wide: +-16 standard deviations
_LLOYD_STEPS = 60
_ROWS = 1 << 15  # vectors in one exact float64 product


class Codec(abc.ABC):
    """Arrays to grids of codes and back. Codes are int32 in [0, num_codes); `decode` takes any integers and raises on no value."""

    num_codes: int

    @abc.abstractmethod
    def encode(self, array: np.ndarray) -> np.ndarray:
        """Array [H, W] or [H, W, C] -> codes int32 [H / patch height, W / patch width]. Raises ValueError if that is not whole."""

    @abc.abstractmethod
    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Codes [h, w] -> array of the shape and dtype that `encode` takes. Codes out of range are clamped."""

    @abc.abstractmethod
    def to_bytes(self) -> bytes:
        """The codec as the bytes of its .npz file: equal codecs have equal bytes."""

    def save(self, path: str) -> None:
        storage.write_bytes_atomic(path, self.to_bytes())

    @staticmethod
    def load(path: str) -> "Codec":
        """Reads any codec saved by `save`. Raises VocabularyError, naming the file, where it is missing, damaged or inconsistent."""
        try:
            data = storage.read_bytes(path)
        except OSError as error:
            raise VocabularyError(f"codec {path} cannot be read: {error}.", _REMEDY) from error
        return Codec.from_bytes(data, path)

    @staticmethod
    def from_bytes(data: bytes, name: str = "codec") -> "Codec":
        """The codec in the bytes of an .npz file; `name` is what an error calls it."""
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                if bad := archive.testzip():
                    raise ValueError(f"bad checksum of {bad}")
            with np.load(io.BytesIO(data), allow_pickle=False) as archive:
                arrays = {key: archive[key] for key in archive.files}
            kind = str(arrays.pop("kind"))
            if kind != PatchCodec.kind:
                raise ValueError(f"unknown codec kind {kind!r}")
            return PatchCodec.from_arrays(arrays)
        except _DAMAGE as error:
            raise VocabularyError(f"codec {name} is damaged: {type(error).__name__}: {error}.", _REMEDY) from error


_DAMAGE = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    EOFError,
    RuntimeError,
    OverflowError,
    zipfile.BadZipFile,
    zlib.error,
)
_REMEDY = "Make the vocabulary again with castor data vocabulary."


@dataclasses.dataclass(frozen=True, eq=False)
class PatchCodec(Codec):
    """See the head of this file. Build one with `Fitting` or `fit`.

    patch: height, width and channels of a patch, in elements of the array; d = their product, K components have more than one level.
    num_codes: the codes reserved; the product of `levels` is at most this.
    low, step: level = round((value - low) / step), clamped to 0..255. (0, 1) is an 8-bit picture and decodes to uint8; else to float32.
    basis: int32 [d, K], principal components in units of 1/2^14.
    levels: int32 [K]; thresholds: int64 [K, most - 1] in units of the projection, ascending, padded with the largest integer;
    points: int32 [K, most] in 1/16 of a level, relative to the mean.
    weights: int32 [9 K, d] in units of 1/2^20 level per point; mean: int32 [d] in 1/16 level.
    """

    patch: tuple[int, int, int]
    num_codes: int
    low: float
    step: float
    basis: np.ndarray
    levels: np.ndarray
    thresholds: np.ndarray
    points: np.ndarray
    weights: np.ndarray
    mean: np.ndarray

    kind: ClassVar[str] = "patch_fsq"

    def encode(self, array: np.ndarray) -> np.ndarray:
        indices = _quantize(_cut(_to_levels(array, self.low, self.step), self.patch), self.basis, self.thresholds)
        return (indices * self._radix).sum(axis=-1).astype(np.int32)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        codes = np.clip(np.asarray(codes, dtype=np.int64), 0, int(np.prod(self.levels, dtype=np.int64)) - 1)
        if codes.ndim != 2 or not codes.size:
            raise ValueError(f"codes must be a grid [h, w] with h, w >= 1, got shape {codes.shape}")
        indices = (codes[..., None] // self._radix) % self.levels
        values = self.points[np.arange(len(self.levels)), indices]
        exact = _product(_neighbourhood(values), self.weights) + self.mean.astype(np.float64) * _WEIGHT_SCALE
        vectors = np.clip(np.floor(exact / (16 * _WEIGHT_SCALE) + 0.5), 0, 255).astype(np.uint8)
        return _from_levels(_join(vectors, self.patch), self.low, self.step)

    @property
    def neutral(self) -> int:
        """The code nearest to the mean patch: what stands in for codes that are missing."""
        used = np.arange(self.points.shape[1]) < self.levels[:, None]
        middle = np.abs(np.where(used, self.points, np.iinfo(np.int32).max)).argmin(axis=1)
        return int((middle * self._radix).sum())

    @functools.cached_property
    def _radix(self) -> np.ndarray:
        return np.concatenate([[1], np.cumprod(self.levels[:-1], dtype=np.int64)])[: len(self.levels)].astype(np.int64)

    def to_bytes(self) -> bytes:
        arrays = {
            "kind": np.array(self.kind),
            "format": np.array(FORMAT),
            "patch": np.array(self.patch, np.int32),
            "num_codes": np.array(self.num_codes, np.int32),
            "range": np.array([self.low, self.step], np.float64),
            **{name: getattr(self, name) for name in ("basis", "levels", "thresholds", "points", "weights", "mean")},
        }
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)  # stored, dated 1980: the same arrays give the same bytes
        return buffer.getvalue()

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> "PatchCodec":
        """Raises KeyError or ValueError unless the arrays are those of a sound codec."""
        if int(arrays["format"]) != FORMAT:
            raise ValueError(f"format {arrays['format']} is not {FORMAT}")
        patch = tuple(int(n) for n in arrays["patch"])
        low, step = (float(x) for x in arrays["range"])
        codec = cls(
            patch,
            int(arrays["num_codes"]),
            low,
            step,
            *(arrays[n] for n in ("basis", "levels", "thresholds", "points", "weights", "mean")),
        )
        d, k, most = int(np.prod(patch)), len(codec.levels), codec.points.shape[-1]
        shapes = {
            "basis": (d, k),
            "levels": (k,),
            "thresholds": (k, most - 1),
            "points": (k, most),
            "weights": (9 * k, d),
            "mean": (d,),
        }
        for name, shape in shapes.items():
            array = getattr(codec, name)
            if array.shape != shape or array.dtype != (np.int64 if name == "thresholds" else np.int32):
                raise ValueError(f"{name} is {array.dtype}{list(array.shape)}, not int{list(shape)}")
        if len(patch) != 3 or min(patch) < 1 or d > 1 << 14 or not (np.isfinite([low, step]).all() and step > 0):
            raise ValueError("patch or range out of bounds")
        if not 1 <= codec.num_codes <= MAX_CODES or (codec.levels < 2).any() or (codec.levels > most).any():
            raise ValueError("levels out of bounds")
        if (
            float(np.prod(codec.levels.astype(np.float64))) > codec.num_codes
            or (codec.thresholds[:, 1:] < codec.thresholds[:, :-1]).any()
        ):
            raise ValueError("levels and codes disagree")
        return codec


@dataclasses.dataclass(frozen=True, eq=False)
class Fitting:
    """A PatchCodec in the making. Three times: `measure` every array of the sample, `merge` the results, `advance` with the total.

    moments -> components -> histograms of the projections -> levels -> products of reconstructed and true vectors -> the codec

    What is measured is always a tuple of int64 arrays of fixed shapes, so adding is associative to the last bit and the sample can be
    spread over any number of workers.
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
        """Sums over one array (shape and dtype as `PatchCodec.encode` takes)."""
        grid = _cut(_to_levels(array, self.low, self.step), self.patch)
        vectors = grid.reshape(-1, grid.shape[-1])
        if self.basis is None:
            return np.array(len(vectors), np.int64), vectors.sum(axis=0, dtype=np.int64), _gram(vectors, vectors)
        if self.levels is None:
            projected = _product(vectors, self.basis).astype(np.int64)
            bins = np.clip((projected - self.centre) // self.width + _BINS // 2, 0, _BINS - 1)
            flat = bins + np.arange(bins.shape[1]) * _BINS
            return (
                np.bincount(flat.ravel(), minlength=bins.shape[1] * _BINS)
                .reshape(bins.shape[1], _BINS)
                .astype(np.int64),
            )
        indices = _quantize(grid, self.basis, self.thresholds)
        features = _neighbourhood(self.points[np.arange(len(self.levels)), indices]).reshape(len(vectors), -1)
        return _gram(features, features), _gram(features, vectors), features.sum(axis=0, dtype=np.int64)

    @staticmethod
    def merge(parts: Sequence[tuple[np.ndarray, ...]]) -> tuple[np.ndarray, ...]:
        """The sum of measures; of none, the empty tuple."""
        parts = [part for part in parts if part]
        return tuple(np.sum(column, axis=0, dtype=np.int64) for column in zip(*parts, strict=True))

    def advance(self, total: tuple[np.ndarray, ...]) -> "Fitting | PatchCodec":
        """The next state of the fit, or the codec after the third pass. Raises ValueError where the sample was empty."""
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
        vectors = vectors[:, variances > 1e-6]  # a component that never varies has no direction worth keeping
        largest = np.abs(np.round(vectors, 6)).argmax(axis=0)
        vectors = vectors * np.sign(vectors[largest, np.arange(vectors.shape[1])])
        basis = np.round(vectors * _BASIS_SCALE).astype(np.int32)
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
        candidates = [_lloyd_family(values[k], histograms[k], _MOST_LEVELS[k]) for k in range(len(histograms))]
        levels = allocate([[error for _, error in family] for family in candidates], self.num_codes)
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
        # cross holds the sums with the vectors themselves: what belongs to the mean comes off here.
        target = cross - np.outer(total, self.mean / 16.0)
        size = len(gram)
        ridge = np.eye(size) * (1e-4 * np.trace(gram) / max(size, 1) + 1.0)
        weights = (
            np.linalg.solve(gram + ridge, target) * (16 * _WEIGHT_SCALE) if size else np.zeros((0, len(self.mean)))
        )
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
    """A codec fitted to arrays in memory: what the vocabulary job does in pieces. Raises ValueError where there is nothing to fit to."""
    state: Fitting | PatchCodec = Fitting(patch, num_codes, low, step)
    for _ in range(Fitting.PASSES):
        total: tuple[np.ndarray, ...] = ()
        for array in arrays:
            total = Fitting.merge([total, state.measure(array)])
        state = state.advance(total)
    return state


def allocate(errors: Sequence[Sequence[float]], num_codes: int) -> tuple[int, ...]:
    """Levels a component: product at most `num_codes`, summed error least. `errors[k][n - 1]` is component k's error at n levels.

    Exact: the codes left after some components are num_codes // n1 // n2 ... = num_codes // (n1 n2 ...), of which there are few.
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


def psnr(expected: np.ndarray, actual: np.ndarray, peak: float = 255.0) -> float:
    """Peak signal-to-noise ratio in dB over all elements; infinite where they are equal."""
    difference = np.asarray(expected, np.float64) - np.asarray(actual, np.float64)
    return psnr_of_error(float((difference**2).sum()), difference.size, peak)


def psnr_of_error(squared_error: float, elements: int, peak: float = 255.0) -> float:
    """PSNR in dB from a sum of squared errors over a number of elements."""
    return float("inf") if not squared_error else 10 * float(np.log10(peak**2 * elements / squared_error))


def _lloyd_family(values: np.ndarray, counts: np.ndarray, most: int) -> list[tuple[np.ndarray, float]]:
    """Lloyd's scalar quantizers of a histogram with 1..most points: (points ascending, summed squared error a vector)."""
    weight = np.concatenate([[0.0], np.cumsum(counts, dtype=np.float64)])
    first = np.concatenate([[0.0], np.cumsum(counts * values)])
    second = float((counts * values**2).sum())
    family = []
    for number in range(1, most + 1):
        # Panter and Dite: the best points are as dense as the cube root of the density.
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


def _to_levels(array: np.ndarray, low: float, step: float) -> np.ndarray:
    """Array -> 8-bit levels [H, W, C]; what is not a number counts as the lowest level."""
    array = np.asarray(array)
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or not array.size:
        raise ValueError(f"expected an array [H, W] or [H, W, C] that is not empty, got shape {array.shape}")
    if array.dtype == np.uint8 and (low, step) == (0.0, 1.0):
        return array
    scaled = np.nan_to_num((array.astype(np.float64) - low) / step, nan=0.0, posinf=255.0, neginf=0.0)
    return np.clip(np.floor(scaled + 0.5), 0, 255).astype(np.uint8)


def _from_levels(levels: np.ndarray, low: float, step: float) -> np.ndarray:
    array = levels if (low, step) == (0.0, 1.0) else (levels * step + low).astype(np.float32)
    return array[..., 0] if array.shape[-1] == 1 else array


def _cut(levels: np.ndarray, patch: tuple[int, int, int]) -> np.ndarray:
    """[H, W, C] -> vectors [H / height, W / width, d]."""
    height, width, channels = patch
    if levels.shape[0] % height or levels.shape[1] % width or levels.shape[2] != channels:
        raise ValueError(f"an array of shape {levels.shape} does not divide into patches of {patch}")
    rows, columns = levels.shape[0] // height, levels.shape[1] // width
    return levels.reshape(rows, height, columns, width, channels).swapaxes(1, 2).reshape(rows, columns, -1)


def _join(vectors: np.ndarray, patch: tuple[int, int, int]) -> np.ndarray:
    height, width, channels = patch
    rows, columns, _ = vectors.shape
    return (
        vectors.reshape(rows, columns, height, width, channels)
        .swapaxes(1, 2)
        .reshape(rows * height, columns * width, channels)
    )


def _quantize(grid: np.ndarray, basis: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Vectors [h, w, d] -> level indices int64 [h, w, K]."""
    projected = _product(grid, basis).astype(np.int64)
    indices = np.empty(projected.shape, np.int64)
    for k in range(len(thresholds)):
        indices[..., k] = np.searchsorted(thresholds[k], projected[..., k], side="right")
    return indices


def _neighbourhood(values: np.ndarray) -> np.ndarray:
    """[h, w, K] -> [h, w, 9 K]: each cell with its eight neighbours, the border repeated."""
    h, w, _ = values.shape
    padded = np.pad(values, ((1, 1), (1, 1), (0, 0)), mode="edge")
    return np.concatenate([padded[i : i + h, j : j + w] for i in range(3) for j in range(3)], axis=-1)


def _product(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Exact integer product, in float64: every sum here stays far below 2^53, so no order of summation can change it."""
    return np.asarray(left, np.float64) @ np.asarray(right, np.float64)


def _gram(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Exact left^T right as int64, in blocks small enough for float64 to hold each sum."""
    total = np.zeros((left.shape[1], right.shape[1]), np.int64)
    for start in range(0, len(left), _ROWS):
        total += _product(left[start : start + _ROWS].T, right[start : start + _ROWS]).astype(np.int64)
    return total
