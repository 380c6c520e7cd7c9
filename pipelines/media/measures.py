"""Decodes raw media documents once, completely, and records the measurements that the filters need.

Each class is a function Document -> Document for the sandbox. It raises BadInput for an incomplete or damaged file, and
otherwise adds measurements to the metadata (ratios 0..1, seconds, pixels, hertz). The filters read only these and need
no decoder.
"""

import dataclasses

import numpy as np

import gin
from castor.pipelines.document import Document
from castor.pipelines.media import clips, fingerprints, images, sounds

_SILENCE_WINDOW = 400  # samples, 25 ms
_CLIPPED = 0.999  # share of full scale: the two highest 16-bit values, as decoders return them


@gin.configurable(module="pipelines.media.measures")
@dataclasses.dataclass(frozen=True)
class MeasureImage:
    """Adds width, height (pixels as displayed), format, mode, frames, perceptual_hash (16 hex digits) and detail.

    The last two are those of media/fingerprints.py. The encoded bytes stay as they are.

    max_pixels: larger images are bad input.
    """

    max_pixels: int = images.MAX_PIXELS

    def prepare(self) -> None:
        import av  # noqa: F401
        import PIL.Image  # noqa: F401

    def __call__(self, document: Document) -> Document:
        pixels, facts = images.read_image(document.bytes, self.max_pixels)
        found = fingerprints.fingerprint(pixels)
        return document.with_metadata(
            width=facts.width,
            height=facts.height,
            format=facts.format,
            mode=facts.mode,
            frames=facts.frames,
            perceptual_hash=fingerprints.to_hex(found.hash),
            detail=round(found.detail, 2),
        )


@gin.configurable(module="pipelines.media.measures")
@dataclasses.dataclass(frozen=True)
class MeasureSound:
    """Replaces the bytes by 16-bit FLAC, mono at 16 kHz, and adds measurements of the recording.

    Adds seconds; container, codec, sample_rate (Hz) and channels of the original file; silence (share of silent 25 ms
    windows) and clipping (share of samples at full scale).

    max_seconds: longer recordings are bad input.

    silence_dbfs: RMS below which a window is silent, in decibels relative to full scale.
    """

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
    """Adds seconds, width, height (pixels as displayed), container, codec, source_frames, sound (has a sound track) and
    motion.

    All of the video and its sound is decoded.

    frames_per_second, max_side: rate and longer side, in pixels, of the small frames between which motion is measured.

    max_seconds, max_pixels: longer clips and larger frames are bad input.
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
    """Share of 25 ms windows whose RMS is below `dbfs`; 1.0 for no samples.

    waveform: float32 [samples] at 16 kHz.

    dbfs: decibels relative to full scale.
    """
    if not len(waveform):
        return 1.0
    padded = np.pad(waveform, (0, -len(waveform) % _SILENCE_WINDOW)).reshape(-1, _SILENCE_WINDOW)
    power = np.square(padded, dtype=np.float64).mean(axis=1)
    return float((power < 10 ** (dbfs / 10)).mean())


def clipping_ratio(waveform: np.ndarray) -> float:
    """Share of float32 [samples] at or beyond full scale; 0.0 for no samples."""
    return float((np.abs(waveform) >= _CLIPPED).mean()) if len(waveform) else 0.0


def motion(frames: np.ndarray) -> float:
    """Mean absolute change of brightness between consecutive frames, as a share of full scale; 0.0 for fewer than two
    frames.

    frames: uint8 [F, h, w, 3] RGB.
    """
    if len(frames) < 2:
        return 0.0
    luma = frames.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601
    return float(np.abs(np.diff(luma, axis=0)).mean(dtype=np.float64) / 255)
