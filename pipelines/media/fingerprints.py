"""Perceptual hashes of images: 64 bits that hardly change when an image is recompressed, rescaled or lightly retouched.

The hash is pHash (Zauner 2010, "Implementation and Benchmarking of Perceptual Image Hash Functions", section 3.2):

1. Brightness is averaged over 32 x 32 equal rectangles.
2. A cosine transform (DCT-II) is applied. Its 8 x 8 lowest frequencies are kept, without the constant row and column.
3. Each bit states whether a frequency is above the median of the 64.

Rotated or mirrored images have another hash, and so do images cropped by more than a few percent.

All arithmetic is on integers, or on floats that hold integers exactly. So a hash is the same on every machine and can
be kept in block lists. Golden vectors in tests/pipelines/media/test_fingerprints.py pin it. This file knows no Beam and
no file format.
"""

import dataclasses
import functools

import numpy as np

VERSION = 1
BITS = 64

_CELLS = 32
_LOW = 8
_LUMA = (299, 587, 114)  # thousandths, ITU-R BT.601
_SCALE = 1 << 12  # of the cosines as integers: 18 bits of brightness, 2 * 12 of cosines and 10 of terms stay under 63


@dataclasses.dataclass(frozen=True)
class Fingerprint:
    """A perceptual hash and how much it means.

    hash: the 64 bits; the lowest frequency is the highest bit.

    detail: standard deviation of the brightness of the 32 x 32 cells, 0..128 on a scale of 255. An image without detail
        (one colour, faint noise) has a meaningless hash: do not compare it.
    """

    hash: int
    detail: float


def perceptual_hash(pixels: np.ndarray) -> int:
    """uint8 [height, width, 3] RGB -> 64 bits. `fingerprint` also says whether they mean anything."""
    return fingerprint(pixels).hash


def fingerprint(pixels: np.ndarray) -> Fingerprint:
    """uint8 [height, width, 3] RGB -> Fingerprint. Raises ValueError for any other array, or an empty one."""
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise ValueError(f"expected uint8 [height, width, 3], got {pixels.dtype} {list(pixels.shape)}")
    cells = _cells(pixels)
    cosines = _cosines()
    frequencies = (cosines @ cells @ cosines.T).ravel()
    ordered = np.sort(frequencies)
    # The median of an even number of values is the mean of two. Comparing twice the value keeps integers.
    above = 2 * frequencies > ordered[BITS // 2 - 1] + ordered[BITS // 2]
    return Fingerprint(int.from_bytes(np.packbits(above).tobytes(), "big"), float(cells.std() / 1000))


def hamming(one: int, other: int) -> int:
    """Number of the 64 bits that differ. Example: hamming(0b0110, 0b0011) is 2."""
    return (one ^ other).bit_count()


def to_hex(value: int) -> str:
    """A hash as 16 hex digits, as metadata and lists hold it."""
    return f"{value:016x}"


def _cells(pixels: np.ndarray) -> np.ndarray:
    """Mean brightness of 32 x 32 equal rectangles, in thousandths, [32, 32] int64.

    Pixels on a border count towards both rectangles by area.
    """
    height, width, _ = pixels.shape
    down = _overlaps(height)
    rows = np.empty((_CELLS, width * 3))
    for row, weights in zip(rows, down):
        (inside,) = np.nonzero(weights)
        first, last = inside[0], inside[-1] + 1
        np.matmul(weights[first:last], pixels[first:last].reshape(last - first, -1).astype(np.float64), out=row)
    luma = rows.reshape(_CELLS, width, 3) @ np.array(_LUMA, np.float64)
    # Exact in any order of summation: integers of at most 255,000 times the number of pixels, below 2**53.
    return (luma @ _overlaps(width).T).astype(np.int64) // (height * width)


def _overlaps(length: int) -> np.ndarray:
    """Overlap of each pixel with each of 32 equal parts of a side, in 32nds of a pixel, [32, length] float64 of
    integers.

    Example: with length 48 a part is 1.5 pixels wide: the first has 32 of pixel 0 and 16 of pixel 1.
    """
    edges = np.arange(_CELLS + 1) * length
    pixels = np.arange(length) * _CELLS
    return np.clip(np.minimum(edges[1:, None], pixels + _CELLS) - np.maximum(edges[:-1, None], pixels), 0, None).astype(
        np.float64
    )


@functools.cache
def _cosines() -> np.ndarray:
    """Rows 1..8 of the DCT-II of 32 points, times 2**12, [8, 32] int64."""
    angles = np.pi / (2 * _CELLS) * np.outer(np.arange(1, _LOW + 1), 2 * np.arange(_CELLS) + 1)
    return np.rint(np.cos(angles) * _SCALE).astype(np.int64)
