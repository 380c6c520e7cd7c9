"""What the jobs do to a raw media document before it is judged: decode all of it, once, and write down what the rules ask for.

Each class here is a function Document -> Document for the sandbox: it raises BadInput for a file that is not whole and sound, and otherwise
adds facts to the metadata (ratios 0..1, seconds, pixels, hertz). Rules then judge the facts and need no decoder.
"""

import dataclasses

import numpy as np

import gin
from castor.pipelines.document import Document
from castor.pipelines.media import clips, fingerprints, images, sounds

_SILENCE_WINDOW = 400  # samples, 25 ms
_CLIPPED = 0.999  # of full scale: the two highest of 16-bit values and what a decoder makes of them


@gin.configurable(module="pipelines.media.measures")
@dataclasses.dataclass(frozen=True)
class MeasureImage:
    """Adds width, height (pixels as displayed), format, mode, frames, and of media/fingerprints.py perceptual_hash (16 hex digits) and detail.

    The encoded bytes stay as they are.
    """

    max_pixels: int = images.MAX_PIXELS

    def prepare(self) -> None:
        import av  # noqa: F401
        import PIL.Image  # noqa: F401

    def __call__(self, document: Document) -> Document:
        pixels, facts = images.read_image(document.bytes, self.max_pixels)
        seen = fingerprints.fingerprint(pixels)
        return document.with_metadata(
            width=facts.width,
            height=facts.height,
            format=facts.format,
            mode=facts.mode,
            frames=facts.frames,
            perceptual_hash=fingerprints.to_hex(seen.hash),
            detail=round(seen.detail, 2),
        )


@gin.configurable(module="pipelines.media.measures")
@dataclasses.dataclass(frozen=True)
class MeasureSound:
    """Replaces the bytes by 16-bit FLAC of the sound, mono at 16 kHz, and adds seconds, container, codec, sample_rate (Hz) and channels of
    the file as it came, silence (share of 25 ms windows under `silence_dbfs`) and clipping (share of samples at full scale)."""

    max_seconds: float = sounds.MAX_SECONDS
    silence_dbfs: float = -40.0

    def prepare(self) -> None:
        import av  # noqa: F401
        import soundfile  # noqa: F401
        import soxr  # noqa: F401

    def __call__(self, document: Document) -> Document:
        sound = sounds.decode_sound(document.bytes, self.max_seconds)
        return document.replace(bytes=sounds.encode_flac(sound.waveform)).with_metadata(
            seconds=round(sound.seconds, 4),
            container=sound.container,
            codec=sound.codec,
            sample_rate=sound.sample_rate,
            channels=sound.channels,
            silence=round(silence_ratio(sound.waveform, self.silence_dbfs), 4),
            clipping=round(clipping_ratio(sound.waveform), 6),
        )


@gin.configurable(module="pipelines.media.measures")
@dataclasses.dataclass(frozen=True)
class MeasureClip:
    """Adds seconds, width, height (pixels as displayed), container, codec, source_frames, sound (has it a sound track) and motion.

    All of the film and of its sound is decoded. frames_per_second, max_side: of the small frames between which motion is measured.
    """

    frames_per_second: float = 2.0
    max_side: int = 64
    max_seconds: float = clips.MAX_SECONDS
    max_pixels: int = clips.MAX_PIXELS

    def prepare(self) -> None:
        import av  # noqa: F401
        import soxr  # noqa: F401

    def __call__(self, document: Document) -> Document:
        clip = clips.decode_video(
            document.bytes, self.frames_per_second, self.max_side, self.max_seconds, self.max_pixels
        )
        return document.with_metadata(
            seconds=round(clip.seconds, 4),
            width=clip.width,
            height=clip.height,
            container=clip.container,
            codec=clip.codec,
            source_frames=clip.source_frames,
            sound=clip.waveform is not None,
            motion=round(motion(clip.frames), 5),
        )


def silence_ratio(waveform: np.ndarray, dbfs: float) -> float:
    """Share of 25 ms windows of float32 [samples] at 16 kHz whose RMS lies under `dbfs` decibels of full scale; 1.0 for no samples."""
    if not len(waveform):
        return 1.0
    padded = np.pad(waveform, (0, -len(waveform) % _SILENCE_WINDOW)).reshape(-1, _SILENCE_WINDOW)
    power = np.square(padded, dtype=np.float64).mean(axis=1)
    return float((power < 10 ** (dbfs / 10)).mean())


def clipping_ratio(waveform: np.ndarray) -> float:
    """Share of float32 [samples] at or beyond full scale."""
    return float((np.abs(waveform) >= _CLIPPED).mean()) if len(waveform) else 0.0


def motion(frames: np.ndarray) -> float:
    """Mean absolute change of brightness between neighbours of uint8 [F, h, w, 3], a share of full scale; 0.0 for under two frames."""
    if len(frames) < 2:
        return 0.0
    luma = frames.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601
    return float(np.abs(np.diff(luma, axis=0)).mean(dtype=np.float64) / 255)
