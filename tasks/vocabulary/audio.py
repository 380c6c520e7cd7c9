"""Converts a waveform to a log-mel spectrogram and back.

The front end is Whisper's (Radford et al., arXiv 2212.04356): 16 kHz mono, windows of 25 ms every 10 ms, 80 mel
bands, with librosa's default Slaney mel scale and area-normalized triangles. Levels are decibels below a full-scale
sine, from FLOOR_DB to FLOOR_DB + RANGE_DB. The inverse is Griffin and Lim's algorithm (1984) with the momentum of
Perraudin et al. (2013). The code is plain numpy and works on groups of frames, so its working memory does not grow
with the length. This file works on samples, not on files.
"""

import functools

import numpy as np

SAMPLE_RATE = 16_000  # Hz
WINDOW = 400  # samples: 25 ms
HOP = 160  # samples: 10 ms
FFT = 512  # points of the transform
BANDS = 80
FLOOR_DB = -96.0
STEP_DB = 0.375  # difference of adjacent levels of the codec, which has 256
RANGE_DB = 255 * STEP_DB  # the peak against which a log-mel PSNR is measured

_GROUP = 4096  # frames per step
_PAD = (WINDOW - HOP) // 2


def frames_for(samples: int) -> int:
    """The number of frames of a waveform: one per started hop, at least one. 400 samples give 3 frames."""
    return max(1, -(-samples // HOP))


def log_mel(waveform: np.ndarray) -> np.ndarray:
    """The log-mel spectrogram in dB, float32 [frames_for(n), 80].

    waveform: float [n] in -1..1 at 16 kHz; values that are not finite become silence.
    """
    waveform = np.asarray(waveform, np.float32).ravel()
    frames = frames_for(len(waveform))
    result = np.empty((frames, BANDS), np.float32)
    window, bank = _window(), mel_bank().T.astype(np.float64)
    for start in range(0, frames, _GROUP):
        stop = min(start + _GROUP, frames)
        first, last = start * HOP - _PAD, (stop - 1) * HOP - _PAD + WINDOW
        piece = np.zeros(last - first, np.float32)
        lo, hi = max(first, 0), min(last, len(waveform))
        piece[lo - first : max(hi, lo) - first] = waveform[lo : max(hi, lo)]
        piece = np.clip(np.nan_to_num(piece, nan=0.0, posinf=0.0, neginf=0.0), -1.0, 1.0)
        windows = np.lib.stride_tricks.sliding_window_view(piece, WINDOW)[::HOP] * window
        spectrum = np.fft.rfft(windows, FFT, axis=1)
        power = spectrum.real**2 + spectrum.imag**2
        result[start:stop] = 10 * np.log10(np.maximum(power.astype(np.float64) @ bank, 10 ** (FLOOR_DB / 10)))
    return np.clip(result, FLOOR_DB, FLOOR_DB + RANGE_DB)


def waveform_of(levels_db: np.ndarray, iterations: int = 60) -> np.ndarray:
    """The waveform of a log-mel spectrogram by Griffin-Lim: float32 [160 T] at 16 kHz with |x| <= 1. Deterministic.

    levels_db: float [T, 80] in dB.

    iterations: number of Griffin-Lim iterations.
    """
    levels_db = np.clip(np.nan_to_num(np.asarray(levels_db, np.float32), nan=FLOOR_DB), FLOOR_DB, FLOOR_DB + RANGE_DB)
    if not len(levels_db):
        return np.zeros(0, np.float32)
    power = np.where(levels_db <= FLOOR_DB, 0, 10 ** (levels_db / 10)).astype(np.float32)
    magnitude = np.sqrt(_linear_power(power))
    phase = np.exp(2j * np.pi * np.random.default_rng(0).random(magnitude.shape, dtype=np.float32)).astype(np.complex64)
    spectrum, previous = magnitude * phase, np.zeros_like(phase)
    for _ in range(iterations):
        rebuilt = _stft(_inverse_stft(spectrum))
        ahead = rebuilt + np.float32(0.99) * (rebuilt - previous)
        spectrum = magnitude * (ahead / np.maximum(np.abs(ahead), 1e-9))
        previous = rebuilt
    return np.clip(_inverse_stft(spectrum), -1.0, 1.0)


@functools.cache
def mel_bank() -> np.ndarray:
    """Mel triangles of Slaney's Auditory Toolbox (1998), float32 [80, 257], of equal area.

    They are scaled so that a unit sine has at most 0 dB.
    """
    corners = _hertz(np.linspace(_mel(0.0), _mel(SAMPLE_RATE / 2), BANDS + 2))
    hertz = np.linspace(0, SAMPLE_RATE / 2, FFT // 2 + 1)
    rising = (hertz - corners[:-2, None]) / (corners[1:-1] - corners[:-2])[:, None]
    falling = (corners[2:, None] - hertz) / (corners[2:] - corners[1:-1])[:, None]
    bank = np.maximum(0, np.minimum(rising, falling)) * (2 / (corners[2:] - corners[:-2]))[:, None]
    full_scale = (_window().sum() / 2) ** 2  # power of a unit sine in its own bin
    return (bank / (full_scale * bank.max())).astype(np.float32)


def _mel(hertz: float) -> float:
    return hertz * 3 / 200 if hertz < 1000 else 15 + 27 * np.log(hertz / 1000) / np.log(6.4)


def _hertz(mel: np.ndarray) -> np.ndarray:
    return np.where(mel < 15, mel * 200 / 3, 1000 * np.exp(np.log(6.4) * (mel - 15) / 27))


@functools.cache
def _window() -> np.ndarray:
    return (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)).astype(np.float32)


def _linear_power(mel_power: np.ndarray) -> np.ndarray:
    """The non-negative spectrum [T, 257] closest to mel powers [T, 80], by Lee and Seung's (2001) updates."""
    bank = mel_bank()
    estimate = mel_power @ (bank / bank.sum(axis=1, keepdims=True) / np.maximum(bank.sum(axis=0), 1e-12))
    numerator = mel_power @ bank
    for _ in range(30):
        estimate = estimate * (numerator / np.maximum((estimate @ bank.T) @ bank, 1e-20))
    return estimate


def _stft(waveform: np.ndarray) -> np.ndarray:
    padded = np.pad(waveform, (_PAD, _PAD))
    return np.fft.rfft(np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP] * _window(), FFT, axis=1)


def _inverse_stft(spectrum: np.ndarray) -> np.ndarray:
    """Least-squares overlap-add: complex [T, 257] -> float32 [160 T]."""
    frames = np.fft.irfft(spectrum, FFT, axis=1)[:, :WINDOW].astype(np.float32) * _window()
    total, norm = _overlap(frames), _overlap(np.broadcast_to(_window() ** 2, frames.shape))
    return (total / np.maximum(norm, 1e-3))[_PAD : _PAD + HOP * len(frames)]


def _overlap(frames: np.ndarray) -> np.ndarray:
    """Adds frames [T, 400] at offsets of 160 samples. Each frame is cut into three hops, and hop k is added k rows
    later.
    """
    count = len(frames)
    pieces = np.pad(frames, ((0, 0), (0, 3 * HOP - WINDOW))).reshape(count, 3, HOP)
    total = np.zeros((count + 2, HOP), frames.dtype)
    for k in range(3):
        total[k : k + count] += pieces[:, k]
    return total.ravel()
