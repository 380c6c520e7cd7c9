"""tasks/vocabulary/codecs.py: exact arithmetic, optimal allocation, order-independent fits, verifiable files."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from castor.tasks.errors import VocabularyError
from castor.tasks.vocabulary import audio, codec_fit, codecs, patches, psnr, quantizers

PATCH = (8, 8, 3)


def pictures(count: int, seed: int = 0, rows: int = 6, columns: int = 9) -> list[np.ndarray]:
    """Smooth coloured fields with an edge: uint8 [8 rows, 8 columns, 3]."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0 : 8 * rows, 0 : 8 * columns] / 40.0
    made = []
    for _ in range(count):
        a, b, c, d = random.uniform(-3, 3, 4)
        base = np.sin(a * x + b * y + c)[..., None] * random.uniform(20, 90, 3) + random.uniform(60, 190, 3)
        base = base + 40 * ((x * d + y) > 1)[..., None]
        made.append(np.clip(base + random.normal(0, 3, base.shape), 0, 255).astype(np.uint8))
    return made


@pytest.fixture(scope="module")
def codec() -> codecs.PatchCodec:
    return codec_fit.fit(pictures(30), PATCH, 4096)


def test_codes_lie_in_range_and_decode_to_a_likeness(codec):
    for picture in pictures(5, seed=9):
        codes = codec.encode(picture)
        assert codes.shape == (6, 9) and codes.dtype == np.int32
        assert 0 <= codes.min() and codes.max() < np.prod(codec.levels) <= codec.num_codes
        decoded = codec.decode(codes)
        assert decoded.shape == picture.shape and decoded.dtype == np.uint8
        assert psnr.psnr(picture, decoded) > 27


def test_more_codes_are_better():
    sample, held_out = pictures(30), pictures(6, seed=9)
    quality = []
    for number in (16, 256, 4096, 65536):
        fitted = codec_fit.fit(sample, PATCH, number)
        quality.append(np.mean([psnr.psnr(p, fitted.decode(fitted.encode(p))) for p in held_out]))
    assert quality == sorted(quality)


def test_the_neighbourhood_is_worth_something(codec):
    """The decoder beats the projection of the patch alone, which is what it would be without its neighbours."""
    better = 0
    for picture in pictures(8, seed=9):
        decoded = codec.decode(codec.encode(picture))
        vectors = patches.cut(picture, PATCH)
        indices = patches.quantize(vectors, codec.basis, codec.thresholds)
        points = codec.points[np.arange(len(codec.levels)), indices] / 16
        alone = points @ (codec.basis.T / 2**14) + codec.mean / 16
        better += psnr.psnr(picture, decoded) > psnr.psnr(picture, patches.join(np.clip(alone, 0, 255), PATCH))
    assert better == 8


@given(st.lists(st.integers(-(2**40), 2**40), min_size=1, max_size=12))
@settings(derandomize=True, deadline=None, max_examples=50)
def test_any_integers_decode(codec, codes):
    assert codec.decode(np.array([codes])).shape == (8, 8 * len(codes), 3)


def test_fit_adds_up_in_any_order_to_the_same_bytes():
    sample = pictures(12)
    state: codec_fit.Fitting | codecs.PatchCodec = codec_fit.Fitting(PATCH, 1024)
    for number in range(codec_fit.Fitting.PASSES):
        parts = [state.measure(a) for a in sample]
        np.random.default_rng(number).shuffle(parts)
        halves = [codec_fit.Fitting.merge(parts[:5]), codec_fit.Fitting.merge(parts[5:]), codec_fit.Fitting.merge([])]
        state = state.advance(codec_fit.Fitting.merge(halves))
    assert state.to_bytes() == codec_fit.fit(sample, PATCH, 1024).to_bytes()


def test_allocation_is_the_best_there_is():
    random = np.random.default_rng(3)
    for _ in range(20):
        errors = [list(v * np.sort(random.random(5))[::-1]) for v in (9.0, 4.0, 1.0)]
        found = quantizers.allocate(errors, 24)
        cost = {
            levels: sum(e[n - 1] for e, n in zip(errors, levels, strict=True))
            for levels in itertools.product(range(1, 6), repeat=3)
            if math.prod(levels) <= 24
        }
        assert math.prod(found) <= 24
        assert cost[found] == min(cost.values())


@pytest.mark.parametrize("value", [0, 128, 255])
def test_pictures_that_never_vary(value):
    flat = np.full((16, 16, 3), value, np.uint8)
    fitted = codec_fit.fit([flat], PATCH, 64)
    assert np.array_equal(fitted.decode(fitted.encode(flat)), flat)
    assert codecs.Codec.from_bytes(fitted.to_bytes()).neutral == fitted.neutral == 0


def test_a_single_patch_and_two_codes():
    fitted = codec_fit.fit(pictures(1, rows=1, columns=1), PATCH, 2)
    assert fitted.decode(fitted.encode(pictures(1, rows=1, columns=1)[0])).shape == (8, 8, 3)


def test_an_empty_sample_is_refused():
    with pytest.raises(ValueError, match="empty"):
        codec_fit.fit([], PATCH, 64)
    with pytest.raises(ValueError, match="num_codes"):
        codec_fit.Fitting(PATCH, 1)


def test_shapes_that_do_not_divide_are_refused(codec):
    for shape in ((7, 8, 3), (8, 8), (8, 8, 4), (0, 8, 3)):
        with pytest.raises(ValueError):
            codec.encode(np.zeros(shape, np.uint8))


def test_spectrograms_of_floats_nan_included():
    random = np.random.default_rng(0)
    sample = [random.normal(-60, 12, (40, 80)).cumsum(axis=1) / 9 - 40 for _ in range(5)]
    fitted = codec_fit.fit(sample, (4, 80, 1), 256, audio.FLOOR_DB, audio.STEP_DB)
    odd = np.full((8, 80), np.nan)
    odd[0], odd[1] = np.inf, -1e30
    decoded = fitted.decode(fitted.encode(odd))
    assert decoded.shape == (8, 80) and decoded.dtype == np.float32 and np.isfinite(decoded).all()


def test_save_load_and_the_same_bytes(codec, tmp_path):
    path = str(tmp_path / "codec.npz")
    codec.save(path)
    loaded = codecs.Codec.load(path)
    assert loaded.to_bytes() == codec.to_bytes() == codec_fit.fit(pictures(30), PATCH, 4096).to_bytes()
    picture = pictures(1, seed=5)[0]
    assert np.array_equal(loaded.decode(loaded.encode(picture)), codec.decode(codec.encode(picture)))


def test_a_damaged_file_is_named(codec, tmp_path):
    path = tmp_path / "image_codec.npz"
    data = codec.to_bytes()
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 1
    for bad in (b"", data[: len(data) // 2], b"PK" + b"\0" * 100, bytes(flipped)):
        path.write_bytes(bad)
        with pytest.raises(VocabularyError, match="image_codec.npz"):
            codecs.Codec.load(str(path))
    with pytest.raises(VocabularyError, match="absent.npz"):
        codecs.Codec.load(str(tmp_path / "absent.npz"))
    np.savez(path, kind=np.array(["a", None], object))
    with pytest.raises(VocabularyError):
        codecs.Codec.load(str(path))


def test_psnr():
    assert psnr.psnr(np.zeros(4), np.zeros(4)) == math.inf
    assert psnr.psnr(np.zeros(4), np.full(4, 255.0)) == 0
    assert psnr.psnr(np.zeros(100), np.full(100, 25.5)) == pytest.approx(20)
