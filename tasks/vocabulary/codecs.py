"""Codecs: map an image or a spectrogram to a grid of integer codes and back, so that it can be a span of a token
stream.

`Codec` is the interface that the vocabulary uses. `PatchCodec` implements it; codec_fit.py fits one in closed form:

    patch        cut the array into patches (8x8 RGB pixels; a few frames of a log-mel), vectors of 8-bit levels
    project      onto the principal components of such vectors
    quantize     each component to a few levels: finite scalar quantization (arXiv 2309.15505). The number of levels per
                 component minimizes the squared error under the code budget (exact, by dynamic programming). Their
                 positions follow the sample's distribution (Lloyd 1982), in place of FSQ's tanh bounding function
    code         combine the levels into one mixed-radix integer per patch
    reconstruct  by a linear map of the levels of the patch and its eight neighbours: the least-squares estimate of the
                 pixels. Neighbours smooth the seams and add 0.4 to 0.8 dB over the patch alone

Example of a code: levels (3, 1) of components with 8 and 4 levels give code 3 + 8 * 1 = 11 of 32.

The codec's arithmetic is integer arithmetic in float64, exact below 2^53: codes and pixels are equal on every machine.
"""

import abc
import dataclasses
import functools
import io
import zipfile
import zlib
from typing import ClassVar

import numpy as np

from castor.tasks.errors import VocabularyError
from castor.tasks.storage import storage
from castor.tasks.vocabulary import patches

FORMAT = 1
MAX_CODES = 1 << 20
BASIS_SCALE = 1 << 14  # fixed point of the principal components; 192 pixels of 8 bits stay below 2^30
WEIGHT_SCALE = 1 << 16


class Codec(abc.ABC):
    """Maps arrays to grids of codes and back. Codes are int32 in [0, num_codes).

    num_codes: number of codes.
    """

    num_codes: int

    @abc.abstractmethod
    def encode(self, array: np.ndarray) -> np.ndarray:
        """The codes of an array [H, W] or [H, W, C]: int32 [H / patch height, W / patch width].

        Raises ValueError if a side is not divisible by the patch.
        """

    @abc.abstractmethod
    def decode(self, codes: np.ndarray) -> np.ndarray:
        """The array of codes [h, w], of the shape and dtype that `encode` takes. Codes out of range are clamped."""

    @abc.abstractmethod
    def to_bytes(self) -> bytes:
        """The codec as an .npz file; equal codecs have equal bytes."""

    def save(self, path: str) -> None:
        storage.write_bytes_atomic(path, self.to_bytes())

    @staticmethod
    def load(path: str) -> "Codec":
        """Reads a codec written by `save`. Raises VocabularyError for a missing, damaged or inconsistent file."""
        try:
            data = storage.read_bytes(path)
        except OSError as error:
            raise VocabularyError(f"codec {path} cannot be read: {error}.", _REMEDY) from error
        return Codec.from_bytes(data, path)

    @staticmethod
    def from_bytes(data: bytes, name: str = "codec") -> "Codec":
        """The codec in the bytes of an .npz file.

        data: content of the file.

        name: name of the file for error messages.

        Raises VocabularyError for damaged bytes.
        """
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
    """A codec of principal components with scalar quantization, see the docstring of this file. `codec_fit` fits one.

    d is the product of `patch`; K is the number of components with more than one level.

    patch: height, width and channels of a patch, in array elements.

    num_codes: reserved codes, at least the product of `levels`.

    low: value of level 0. Levels are round((value - low) / step), clamped to 0..255.

    step: difference of adjacent levels. With (low, step) = (0, 1) the array is an 8-bit image and decodes to uint8;
    otherwise it decodes to float32.

    basis: int32 [d, K], principal components in units of 1/2^14.

    levels: int32 [K], levels per component.

    thresholds: int64 [K, most - 1], ascending, in units of the projection, padded with the largest integer.

    points: int32 [K, most], reconstruction points relative to the mean, in 1/16 level.

    weights: int32 [9 K, d], in units of 1/2^20 level per point.

    mean: int32 [d], mean patch in 1/16 level.
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
        indices = patches.quantize(
            patches.cut(patches.to_levels(array, self.low, self.step), self.patch), self.basis, self.thresholds
        )
        return (indices * self._radix).sum(axis=-1).astype(np.int32)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        codes = np.clip(np.asarray(codes, dtype=np.int64), 0, int(np.prod(self.levels, dtype=np.int64)) - 1)
        if codes.ndim != 2 or not codes.size:
            raise ValueError(f"codes must be a grid [h, w] with h, w >= 1, got shape {codes.shape}")
        indices = (codes[..., None] // self._radix) % self.levels
        values = self.points[np.arange(len(self.levels)), indices]
        exact = (
            patches.product(patches.neighbourhood(values), self.weights) + self.mean.astype(np.float64) * WEIGHT_SCALE
        )
        vectors = np.clip(np.floor(exact / (16 * WEIGHT_SCALE) + 0.5), 0, 255).astype(np.uint8)
        return patches.from_levels(patches.join(vectors, self.patch), self.low, self.step)

    @property
    def neutral(self) -> int:
        """The code closest to the mean patch; it replaces missing codes."""
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
        """The codec in the arrays of an .npz file. Raises KeyError or ValueError for inconsistent arrays."""
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
