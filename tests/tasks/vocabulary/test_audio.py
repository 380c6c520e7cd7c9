"""tasks/vocabulary/audio.py: the spectrogram is where the tone is, blocks do not show, and sound comes back."""

import numpy as np
import pytest

from castor.tasks.vocabulary import audio


def tone(hertz: float, seconds: float, amplitude: float = 0.5) -> np.ndarray:
    return (amplitude * np.sin(2 * np.pi * hertz * np.arange(int(seconds * 16_000)) / 16_000)).astype(np.float32)


@pytest.mark.parametrize("samples,frames", [(0, 1), (1, 1), (160, 1), (161, 2), (16_000, 100)])
def test_frames(samples, frames):
    assert audio.frames_for(samples) == frames
    assert audio.log_mel(np.zeros(samples)).shape == (frames, 80)


def test_silence_is_the_floor_and_bad_samples_are_silence():
    assert (audio.log_mel(np.zeros(1600)) == audio.FLOOR_DB).all()
    assert (audio.log_mel(np.full(1600, np.nan)) == audio.FLOOR_DB).all()
    wild = audio.log_mel(np.array([1e30, -np.inf, np.nan, 3.0] * 1000, np.float32))
    assert np.isfinite(wild).all() and wild.max() <= audio.FLOOR_DB + audio.RANGE_DB


@pytest.mark.parametrize("hertz", [200, 1000, 4000])
def test_a_tone_is_in_its_band(hertz):
    levels = audio.log_mel(tone(hertz, 1.0))[10:-10].mean(axis=0)
    bank = audio.mel_bank()
    centre = np.linspace(0, 8000, 257)[bank.argmax(axis=1)]
    assert abs(centre[levels.argmax()] - hertz) < 0.05 * hertz + 20
    assert -40 < levels.max() < 0


def test_blocks_do_not_show(monkeypatch):
    sound = tone(300, 3.0) + tone(1234.5, 3.0, 0.1)
    whole = audio.log_mel(sound)
    monkeypatch.setattr(audio, "_GROUP", 37)
    assert np.abs(audio.log_mel(sound) - whole).max() < 1e-3


def test_the_bank_has_no_empty_band():
    assert (audio.mel_bank().sum(axis=1) > 0).all()


def test_sound_comes_back():
    sound = tone(440, 1.0) + tone(1500, 1.0, 0.2)
    levels = audio.log_mel(sound)
    back = audio.waveform_of(levels)
    assert back.shape == (16_000,) and back.dtype == np.float32 and np.abs(back).max() <= 1
    assert np.array_equal(back, audio.waveform_of(levels))
    error = np.abs(audio.log_mel(back) - levels)[5:-5]
    assert error[levels[5:-5] > -60].mean() < 3
    spectrum = np.abs(np.fft.rfft(back))
    assert abs(spectrum.argmax() - 440) < 15


def test_nothing_and_nonsense_come_back_as_silence():
    assert audio.waveform_of(np.zeros((0, 80))).shape == (0,)
    assert np.abs(audio.waveform_of(np.full((4, 80), audio.FLOOR_DB))).max() < 1e-6
    assert np.isfinite(audio.waveform_of(np.full((4, 80), np.nan))).all()
