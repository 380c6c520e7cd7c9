"""Perceptual hashes.

Hashes are stable for the same pixels, close for the same picture in another encoding, and distant for another picture.
"""

import io

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from castor.pipelines.media.fingerprints import _cells, fingerprint, hamming, perceptual_hash, to_hex
from castor.tasks.hashing import mix64


def picture(seed: int, height: int = 240, width: int = 320) -> np.ndarray:
    """uint8 [height, width, 3]: patches of colour, as in photographs.

    The random generator is local, so that no library update changes the picture.
    """
    y, x = np.mgrid[0:height, 0:width]
    result = np.zeros((height, width, 3), np.int64)
    for left, top, across, down, *colour in (
        (mix64(np.arange(12 * 7) + 1000 * seed) % np.uint64(256)).astype(int).reshape(12, 7)
    ):
        inside = (
            (x * 320 // width >= left)
            & (x * 320 // width < left + across)
            & (y * 256 // height >= top)
            & (y * 256 // height < top + down)
        )
        result[inside] = colour
    return (result + (x + y)[..., None] % 7).clip(0, 255).astype(np.uint8)


def jpeg(pixels: np.ndarray, quality: int) -> np.ndarray:
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return np.asarray(PIL.Image.open(buffer))


GOLDEN = {0: "5de47838a29b9693", 1: "fc55aa55e01ed0e8", 2: "7dc203276e34335b", 3: "ba829e33311ea2dd"}


def test_hashes_have_not_drifted():
    assert {seed: to_hex(perceptual_hash(picture(seed))) for seed in GOLDEN} == GOLDEN


@pytest.mark.parametrize("seed", range(6))
def test_the_same_picture_in_another_dress(seed):
    original = picture(seed)
    image = PIL.Image.fromarray(original)
    scaled = [np.asarray(image.resize(size, PIL.Image.BICUBIC)) for size in ((160, 120), (640, 480), (64, 48))]
    for changed in (jpeg(original, 90), jpeg(original, 30), *scaled):
        assert hamming(perceptual_hash(changed), perceptual_hash(original)) <= 6


def test_other_pictures_are_far():
    hashes = [perceptual_hash(picture(seed)) for seed in range(12)] + [
        perceptual_hash(np.ascontiguousarray(picture(0)[:, ::-1]))
    ]
    assert min(hamming(a, b) for i, a in enumerate(hashes) for b in hashes[:i]) > 10


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(0, 2**32 - 1))
def test_cells_are_means_by_area(height, width, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    fine = np.repeat(
        np.repeat(pixels @ np.array([299, 587, 114]), 32, axis=0), 32, axis=1
    )  # each pixel as 32 x 32: every side divides
    expected = fine.reshape(32, height, 32, width).sum(axis=(1, 3)) // (height * width)
    assert (_cells(pixels) == expected).all()


def test_flat_pictures_say_that_they_have_no_detail():
    for value in (0, 128, 255):
        assert fingerprint(np.full((50, 60, 3), value, np.uint8)).detail == 0.0
    assert fingerprint(picture(0)).detail > 10


def test_odd_shapes_and_what_is_no_picture():
    assert 0 <= perceptual_hash(np.zeros((1, 1, 3), np.uint8)) < 1 << 64
    assert perceptual_hash(picture(1)[:, ::-1][:, ::-1]) == perceptual_hash(picture(1))
    for wrong in (np.zeros((0, 4, 3), np.uint8), np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32)):
        with pytest.raises(ValueError, match="expected uint8"):
            perceptual_hash(wrong)
