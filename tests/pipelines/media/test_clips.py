import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import small_media

from castor.pipelines.document import BadInput
from castor.pipelines.media import clips

GOOD = {
    "mp4": small_media.film(3.0),
    "webm": small_media.film(3.0, container="webm", codec="libvpx", audio_codec="libopus"),
    "mkv": small_media.film(3.0, container="matroska", codec="libx264", audio_codec="aac"),
    "silent": small_media.film(2.0, audio_codec=None),
}


def error_of(data, **options):
    with pytest.raises(BadInput) as caught:
        clips.decode_video(data, **options)
    return caught.value.error


@pytest.mark.parametrize("name", ["mp4", "webm", "mkv"])
def test_the_frame_on_display_at_each_second(name):
    clip = clips.decode_video(GOOD[name])
    assert clip.frames.shape == (3, 64, 96, 3) and clip.frames.dtype == np.uint8
    assert clip.times.tolist() == [0.0, 1.0, 2.0]
    assert clip.seconds == pytest.approx(3.0, abs=0.01)
    np.testing.assert_allclose(clip.frames[:, 30, 10, 0], [0, 40, 80], atol=8)
    np.testing.assert_allclose(clip.frames[:, 30, 80, 0], [20, 20, 20], atol=8)
    assert (clip.width, clip.height, clip.source_frames) == (96, 64, 30)
    assert clip.waveform.dtype == np.float32 and len(clip.waveform) / 16_000 == pytest.approx(3.0, abs=0.08)
    again = clips.decode_video(GOOD[name])
    assert again.frames.tobytes() == clip.frames.tobytes() and again.waveform.tobytes() == clip.waveform.tobytes()


@pytest.mark.parametrize("rate", [0.5, 2.0, 5.0, 40.0])
def test_rates_below_and_above_the_films(rate):
    clip = clips.decode_video(GOOD["silent"], frames_per_second=rate)
    assert len(clip.frames) == len(clip.times) == round(2.0 * rate)
    np.testing.assert_allclose(clip.frames[:, 30, 10, 0], 40 * np.floor(clip.times + 1e-9), atol=8)
    assert clip.waveform is None


def test_frames_are_scaled_down_never_up():
    assert clips.decode_video(GOOD["silent"], max_side=48).frames.shape[1:] == (32, 48, 3)
    assert clips.decode_video(GOOD["silent"], max_side=4000).frames.shape[1:] == (64, 96, 3)


@pytest.mark.parametrize("degrees", [90, -90, 180])
def test_rotation_is_applied(degrees):
    clip = clips.decode_video(small_media.film(2.0, rotation=degrees, audio_codec=None))
    shape = (64, 96) if degrees == 180 else (96, 64)
    assert clip.frames.shape[1:3] == shape and (clip.height, clip.width) == shape
    frame = clip.frames[1, :, :, 0].astype(int)  # red on what was the left half
    halves = {180: (frame[:, 70:], frame[:, :20]), 90: (frame[70:], frame[:20]), -90: (frame[:20], frame[70:])}[degrees]
    assert halves[0].mean() > halves[1].mean() + 10


def test_limits():
    assert error_of(GOOD["mp4"], max_seconds=2.0) == "too_long"
    assert error_of(GOOD["mp4"], max_pixels=96 * 64 - 1) == "too_large"
    assert error_of(b"") == "empty"
    for data in (
        b"this is text",
        small_media.encode_sound(small_media.tone()),
        small_media.encode_picture(small_media.picture()),
    ):
        assert error_of(data) == "unsupported_format"


def test_a_file_of_empty_parts_is_given_up_early():
    ebml = b"\x1aE\xdf\xa3\x80\x18S\x80g\x01\xff\xff\xff\xff\xff\xff\xff"
    assert error_of(ebml + b"\xec\x80" * 10_000_000) == "damaged_container"
    assert error_of(b"\0\0\0\x08free" * 2_000_000) == "damaged_container"


def test_sound_alone_is_no_film():
    assert error_of(small_media.encode_sound(small_media.tone(), 16_000, "OGG", "VORBIS")) == "no_video_stream"


@pytest.mark.parametrize("name", ["mp4", "webm", "mkv"])
def test_no_partial_film(name):
    data = GOOD[name]
    for cut in sorted({*range(0, len(data), max(1, len(data) // 30)), len(data) - 1}):
        with pytest.raises(BadInput):
            clips.decode_video(data[:cut])


@hypothesis.settings(derandomize=True, deadline=None, max_examples=150)
@hypothesis.given(
    name=st.sampled_from(sorted(GOOD)),
    changes=st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), min_size=1, max_size=6),
)
def test_mutations_never_crash(name, changes):
    data = bytearray(GOOD[name])
    for place, value in changes:
        data[int(place * len(data))] = value
    try:
        clip = clips.decode_video(bytes(data), max_seconds=30, max_pixels=1 << 20)
    except BadInput:
        return
    assert clip.frames.dtype == np.uint8 and len(clip.frames) == len(clip.times)
