import io
import zlib

import hypothesis
import hypothesis.strategies as st
import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest
import small_media

from castor.pipelines.document import BadInput
from castor.pipelines.media import images

GOOD = {
    "JPEG": small_media.encode_picture(small_media.picture(), "JPEG", quality=90),
    "PROGRESSIVE": small_media.encode_picture(small_media.picture(), "JPEG", quality=90, progressive=True),
    "PNG": small_media.encode_picture(small_media.picture(), "PNG"),
    "WEBP": small_media.encode_picture(small_media.picture(), "WEBP", lossless=True),
}


def error_of(data, **options):
    with pytest.raises(BadInput) as caught:
        images.decode_image(data, **options)
    return caught.value.error


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")


@pytest.mark.parametrize("name", GOOD)
def test_pixels_come_back(name):
    pixels = images.decode_image(GOOD[name])
    assert pixels.dtype == np.uint8 and pixels.shape == (48, 64, 3)
    tolerance = 0 if name in ("PNG", "WEBP") else 4
    assert np.abs(pixels.astype(int) - small_media.picture()).mean() <= tolerance


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_and_probed(orientation):
    image = PIL.Image.fromarray(small_media.picture())
    exif = image.getexif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=95, exif=exif)
    wanted = np.asarray(PIL.ImageOps.exif_transpose(PIL.Image.open(io.BytesIO(buffer.getvalue()))))
    np.testing.assert_array_equal(images.decode_image(buffer.getvalue()), wanted)
    facts = images.probe_image(buffer.getvalue())
    assert (facts.height, facts.width) == wanted.shape[:2]


def test_transparent_pixels_lie_on_white():
    pixels = np.zeros((4, 4, 4), np.uint8)
    pixels[:2, :, 3] = 255
    decoded = images.decode_image(small_media.encode_picture(pixels, "PNG"))
    assert (decoded[:2] == 0).all() and (decoded[2:] == 255).all()


def test_sixteen_bits_are_scaled_not_clipped():
    grey = np.array([[0, 255, 256, 32768, 65535]], np.uint16)
    assert images.decode_image(small_media.encode_picture(grey, "PNG"))[0, :, 0].tolist() == [0, 0, 1, 128, 255]


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "CMYK", "YCbCr"])
def test_every_mode_becomes_rgb(mode):
    buffer = io.BytesIO()
    PIL.Image.fromarray(small_media.picture()).convert(mode).save(
        buffer, format="JPEG" if mode in ("CMYK", "YCbCr") else "PNG"
    )
    assert images.decode_image(buffer.getvalue()).shape == (48, 64, 3)


def test_size_is_judged_by_the_header():
    header = (60_000).to_bytes(4, "big") * 2 + bytes([1, 0, 0, 0, 0])
    bomb = (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + png_chunk(b"IDAT", zlib.compress(bytes(1000)))
        + png_chunk(b"IEND", b"")
    )
    assert error_of(bomb) == "too_large"
    assert error_of(GOOD["PNG"], max_pixels=64 * 48 - 1) == "too_large"
    assert images.decode_image(GOOD["PNG"], max_pixels=64 * 48).shape == (48, 64, 3)
    lying = bytearray(GOOD["JPEG"])
    at = lying.index(b"\xff\xc0") + 5
    lying[at : at + 4] = b"\xff\xdc\xff\xdc"
    assert error_of(bytes(lying)) == "too_large"


def test_a_text_chunk_that_inflates_is_refused():
    text = png_chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(50_000_000)))
    data = GOOD["PNG"]
    assert error_of(data[:33] + text + data[33:]) == "damaged_image"


def test_what_is_no_picture():
    assert error_of(b"") == "empty"
    for data in (b"<!DOCTYPE html><title>404</title>", b"<svg/>", b"GIF89a", bytes(100)):
        assert error_of(data) == "unsupported_format"


def test_animation_is_counted():
    frames = [PIL.Image.fromarray(small_media.picture(seed=i)) for i in range(3)]
    buffer = io.BytesIO()
    frames[0].save(buffer, format="WEBP", save_all=True, append_images=frames[1:])
    assert images.probe_image(buffer.getvalue()).frames == 3


@pytest.mark.parametrize("name", GOOD)
def test_no_partial_picture(name):
    data = GOOD[name]
    for cut in sorted({*range(0, len(data), max(1, len(data) // 60)), *range(len(data) - 8, len(data))}):
        with pytest.raises(BadInput):
            images.decode_image(data[:cut])


@hypothesis.settings(derandomize=True, deadline=None, max_examples=150)
@hypothesis.given(bit=st.integers(0, len(GOOD["PNG"]) * 8 - 1))
def test_every_flipped_bit_of_a_png_is_found(bit):
    data = bytearray(GOOD["PNG"])
    data[bit // 8] ^= 1 << bit % 8
    with pytest.raises(BadInput):
        images.decode_image(bytes(data))


@hypothesis.settings(derandomize=True, deadline=None, max_examples=300)
@hypothesis.given(
    name=st.sampled_from(sorted(GOOD)),
    changes=st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), min_size=1, max_size=8),
)
def test_mutations_never_crash(name, changes):
    data = bytearray(GOOD[name])
    for place, value in changes:
        data[int(place * len(data))] = value
    try:
        pixels = images.decode_image(bytes(data), max_pixels=1 << 20)
    except BadInput as error:
        assert error.error in ("unsupported_format", "damaged_image", "too_large")
    else:
        assert pixels.ndim == 3 and pixels.shape[2] == 3 and pixels.dtype == np.uint8


def test_messages_are_the_same_in_every_run():
    damaged = GOOD["JPEG"][:20] + bytes(200)
    messages = set()
    for _ in range(3):
        with pytest.raises(BadInput) as caught:
            images.decode_image(damaged)
        messages.add(caught.value.message)
    assert len(messages) == 1 and "0x" not in messages.pop()
