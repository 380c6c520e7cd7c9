import struct

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import small_media

from castor.pipelines.document import BadInput
from castor.pipelines.media import sounds

RATE = 16_000


def pitch(waveform: np.ndarray) -> float:
    """The loudest frequency in hertz."""
    spectrum = np.abs(np.fft.rfft(waveform * np.hanning(len(waveform))))
    return float(spectrum.argmax() * RATE / len(waveform))


def error_of(data, **options):
    with pytest.raises(BadInput) as caught:
        sounds.decode_audio(data, **options)
    return caught.value.error


def wav(fmt: bytes, body: bytes, claimed: int | None = None) -> bytes:
    size = len(body) if claimed is None else claimed
    return (
        b"RIFF"
        + struct.pack("<I", 36 + len(body))
        + b"WAVEfmt "
        + struct.pack("<I", len(fmt))
        + fmt
        + b"data"
        + struct.pack("<I", size)
        + body
    )


def pcm_format(tag=1, channels=1, rate=8000, bits=16) -> bytes:
    return struct.pack("<HHIIHH", tag, channels, rate, rate * channels * bits // 8, max(channels * bits // 8, 1), bits)


GOOD = {
    "wav": small_media.encode_sound(small_media.tone(0.4, 8000), 8000),
    "flac": small_media.encode_sound(small_media.tone(0.6, 22050), 22050, "FLAC"),
    "mp3": small_media.encode_sound(small_media.tone(0.6, 22050), 22050, "MP3"),
    "ogg": small_media.encode_sound(small_media.tone(0.6, 44100), 44100, "OGG", "VORBIS"),
    "opus": small_media.encode_sound(small_media.tone(0.6, 48000), 48000, "OGG", "OPUS"),
    "caf": small_media.encode_sound(small_media.tone(0.3, 8000), 8000, "CAF"),
    "mp4": small_media.film(0.6),
    "webm": small_media.film(0.6, container="webm", codec="libvpx", audio_codec="libopus"),
}


@pytest.mark.parametrize("name", GOOD)
def test_every_container_gives_the_tone_back(name):
    waveform = sounds.decode_audio(GOOD[name])
    assert waveform.dtype == np.float32 and waveform.ndim == 1
    seconds = {"wav": 0.4, "caf": 0.3}.get(name, 0.6)
    assert len(waveform) / RATE == pytest.approx(seconds, abs=0.08)
    assert pitch(waveform) == pytest.approx(440, abs=6)
    assert 0.3 < np.abs(waveform).max() < 0.8
    assert sounds.decode_audio(GOOD[name]).tobytes() == waveform.tobytes()


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW"])
def test_sample_formats_have_one_scale(subtype):
    waveform = sounds.decode_audio(small_media.encode_sound(small_media.tone(0.1), RATE, "WAV", subtype))
    np.testing.assert_allclose(
        waveform, small_media.tone(0.1), atol=0.03 if subtype in ("PCM_U8", "ULAW", "ALAW") else 1e-4
    )


def test_channels_are_averaged():
    left, right = small_media.tone(0.1), np.zeros(1600, np.float32)
    waveform = sounds.decode_audio(small_media.encode_sound(np.stack([left, right], axis=1), RATE, "WAV", "FLOAT"))
    np.testing.assert_allclose(waveform, left / 2, atol=1e-6)


def test_facts_are_of_the_file_as_it_came():
    sound = sounds.decode_sound(small_media.encode_sound(np.zeros((441, 2), np.float32), 44_100, "FLAC"))
    assert (sound.container, sound.codec, sound.sample_rate, sound.channels) == ("flac", "flac", 44_100, 2)


@hypothesis.settings(derandomize=True, deadline=None, max_examples=40)
@hypothesis.given(st.lists(st.floats(-1.25, 1.25, width=32), min_size=1, max_size=3000))
def test_flac_round_trip_is_exact_and_deterministic(values):
    waveform = np.array(values, np.float32)
    data = sounds.encode_flac(waveform)
    assert data == sounds.encode_flac(waveform)
    np.testing.assert_array_equal(sounds.decode_audio(data), sounds.to_pcm(waveform).astype(np.float32) / 32768)
    assert sounds.encode_flac(sounds.decode_audio(data)) == data


def test_headers_that_lie():
    body = bytes(1000)
    assert error_of(wav(pcm_format(), body, claimed=0x7FFFFFFF)) == "damaged_container"
    assert error_of(wav(pcm_format(), body, claimed=0xFFFFFFFF)) == "damaged_container"
    assert error_of(wav(pcm_format(rate=0), body)) == "damaged_container"
    assert error_of(wav(pcm_format(rate=2**31 - 1), body)) == "damaged_container"
    assert error_of(wav(pcm_format(channels=0), body)) == "damaged_container"
    assert error_of(wav(pcm_format(channels=30_000), body)) == "damaged_container"
    assert error_of(wav(pcm_format(tag=0x7777), body)) == "unsupported_codec"
    assert error_of(wav(pcm_format(), b"")) == "empty"
    assert error_of(b"RIFX" + wav(pcm_format(), body)[4:]) == "unsupported_format"


def test_samples_that_are_no_sound():
    for bad, kind in ((np.nan, "not_finite"), (np.inf, "not_finite"), (1e30, "out_of_range")):
        samples = small_media.tone(0.1)
        samples[700] = bad
        assert error_of(small_media.encode_sound(samples, RATE, "WAV", "FLOAT")) == kind


def test_what_is_no_sound():
    assert error_of(b"") == "empty"
    for data in (b"ID", b"hello, world", small_media.encode_picture(small_media.picture())):
        assert error_of(data) == "unsupported_format"
    assert error_of(small_media.film(0.5, audio_codec=None)) == "no_audio_stream"


def test_length_is_capped():
    assert error_of(GOOD["wav"], max_seconds=0.39) == "too_long"
    assert len(sounds.decode_audio(GOOD["wav"], max_seconds=0.4)) == 6400


@pytest.mark.parametrize("name", GOOD)
def test_no_partial_sound(name):
    data = GOOD[name]
    for cut in sorted({*range(0, len(data), max(1, len(data) // 40)), len(data) - 1}):
        with pytest.raises(BadInput):
            sounds.decode_audio(data[:cut])


@pytest.mark.parametrize("name", ["flac", "ogg", "opus"])
def test_every_flipped_bit_behind_a_checksum_is_found(name):
    data = GOOD[name]
    start = data.index(b"\xff\xf8") if name == "flac" else 0
    for place in range(start, len(data), max(1, (len(data) - start) // 60)):
        flipped = bytearray(data)
        flipped[place] ^= 0x10
        with pytest.raises(BadInput):
            sounds.decode_audio(bytes(flipped))


@hypothesis.settings(derandomize=True, deadline=None, max_examples=250)
@hypothesis.given(
    name=st.sampled_from(sorted(GOOD)),
    changes=st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), min_size=1, max_size=8),
)
def test_mutations_never_crash(name, changes):
    data = bytearray(GOOD[name])
    for place, value in changes:
        data[int(place**2 * len(data))] = value  # most of them in the headers
    try:
        waveform = sounds.decode_audio(bytes(data), max_seconds=60)
    except BadInput:
        return
    assert waveform.dtype == np.float32 and np.isfinite(waveform).all() and np.abs(waveform).max() < 20
