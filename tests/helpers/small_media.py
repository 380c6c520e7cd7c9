"""Generates small pictures, sounds, films and tars.

Their contents are known, so that tests can check what a decoder makes of them.
"""

import fractions
import io
import tarfile

import av
import numpy as np
import PIL.Image
import soundfile


def picture(width: int = 64, height: int = 48, seed: int = 0) -> np.ndarray:
    """uint8 [height, width, 3]: smooth, without symmetry, different for each seed."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    shift = (seed * 37) % 101 / 101
    channels = [x, y, (x * 0.5 + y * 0.3 + shift) % 1.0]
    return (np.stack(channels, axis=-1) * 255).astype(np.uint8)


def encode_picture(pixels: np.ndarray, format: str = "JPEG", **options) -> bytes:
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).save(buffer, format=format, **options)
    return buffer.getvalue()


def tone(seconds: float = 0.5, rate: int = 16_000, hertz: float = 440.0, level: float = 0.5) -> np.ndarray:
    """float32 [samples]"""
    return (level * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def encode_sound(samples: np.ndarray, rate: int = 16_000, format: str = "WAV", subtype: str | None = None) -> bytes:
    """float32 [samples] or [samples, channels] through soundfile."""
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=format, subtype=subtype)
    return buffer.getvalue()


def film(
    seconds: float = 3.0,
    rate: int = 10,
    width: int = 96,
    height: int = 64,
    container: str = "mp4",
    codec: str = "libx264",
    audio_codec: str | None = "aac",
    rotation: int = 0,
    moving: bool = True,
) -> bytes:
    """A film whose frame at second s has red = 40 * floor(s) on its left half; its sound is a tone of 440 Hz."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as output:
        video = output.add_stream(codec, rate=rate)
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        if rotation:
            video.set_display_rotation(rotation)
        audio = (
            output.add_stream(audio_codec, rate=48_000 if audio_codec == "libopus" else 44_100, layout="mono")
            if audio_codec
            else None
        )
        for index in range(round(seconds * rate)):
            pixels = np.full((height, width, 3), 20, np.uint8)
            pixels[:, : width // 2, 0] = 40 * (index // rate) if moving else 40
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = index, fractions.Fraction(1, rate)
            output.mux(video.encode(frame))
        output.mux(video.encode(None))
        if audio is not None:
            samples = tone(seconds, audio.rate)
            for start in range(0, len(samples), 1024):
                block = av.AudioFrame.from_ndarray(samples[None, start : start + 1024], format="fltp", layout="mono")
                block.sample_rate, block.pts, block.time_base = audio.rate, start, fractions.Fraction(1, audio.rate)
                output.mux(audio.encode(block))
            output.mux(audio.encode(None))
    return buffer.getvalue()


def tar(members, format: int = tarfile.USTAR_FORMAT) -> bytes:
    """(name, content) pairs, or TarInfo objects, as an archive."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
                continue
            name, content = member
            information = tarfile.TarInfo(name)
            information.size = len(content)
            archive.addfile(information, io.BytesIO(content))
    return buffer.getvalue()
