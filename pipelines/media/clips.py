"""Decodes video: an encoded clip -> frames at a constant rate and its sound, or BadInput.

Every frame is decoded, which finds damage and is necessary for inter-coded video. Only the sampled frames are
converted, and swscale scales them in the same step. One thread and bit-exact arithmetic make the pixels independent of
the machine.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np

from castor.pipelines.document import BadInput
from castor.pipelines.media import containers, sounds

MAX_PIXELS = 8_912_896  # 4096 x 2176, a 4K frame
MAX_SECONDS = 600.0


@dataclasses.dataclass(frozen=True)
class Clip:
    """A sampled video clip.

    frames: uint8 [F, h, w, 3] RGB, the frame displayed at each of `times`.

    times: float64 [F] seconds from the first frame, k / rate.

    waveform: float32 [samples], mono, 16 kHz, starting at the first frame; None for a silent clip.

    seconds: duration of the video stream.

    width, height: size as displayed, before scaling, in pixels.

    codec, container: FFmpeg's names.

    source_frames: number of frames decoded.
    """

    frames: np.ndarray
    times: np.ndarray
    waveform: np.ndarray | None
    seconds: float
    width: int = 0
    height: int = 0
    codec: str = ""
    container: str = ""
    source_frames: int = 0


def decode_video(
    data: bytes,
    frames_per_second: float = 1.0,
    max_side: int = 512,
    max_seconds: float = MAX_SECONDS,
    max_pixels: int = MAX_PIXELS,
    with_audio: bool = True,
) -> Clip:
    """Decodes MP4, WebM/Matroska or Ogg.

    data: the whole file.

    frames_per_second: rate of the sampled frames.

    max_side: maximum length of the longer side of a frame, in pixels; smaller frames keep their size.

    max_seconds, max_pixels: longer clips and larger frames are bad input.

    with_audio: decode the first audio stream too.

    Raises BadInput: empty, unsupported_format, unsupported_codec, no_video_stream, damaged_container, damaged_stream,
    too_large, too_long; for sound as in sounds.decode_sound.
    """
    if not data:
        raise BadInput("empty", "zero bytes")
    kind = containers.sniff(data)
    if kind not in ("mov", "matroska", "ogg"):
        raise BadInput("unsupported_format", f"not MP4, WebM, Matroska or Ogg: begins with {data[:12]!r}")
    containers.check_whole(data, kind)
    with containers.open_strict(data, kind, max_pixels) as container:
        videos = [stream for stream in container.streams.video if not containers.is_cover(stream)]
        if not videos:
            raise BadInput("no_video_stream", f"{kind} without a video stream")
        video, audio = videos[0], container.streams.audio[0] if with_audio and container.streams.audio else None
        _check_size(video.codec_context, max_pixels)
        if container.duration and container.duration > max_seconds * 1_000_000:
            raise BadInput("too_long", f"{container.duration / 1e6:.1f} s, more than {max_seconds:g}")
        containers.prepare(video, containers.VIDEO_CODECS, max_pixels)
        if audio is not None:
            containers.prepare(audio, containers.AUDIO_CODECS, max_pixels)
        sampler = _Sampler(frames_per_second, max_side, max_seconds, max_pixels, video)
        waveform, start = None, 0.0
        if audio is None:
            for _, frame in containers.decode(container, [video]):
                sampler.add(frame)
        else:
            track = _Track()
            waveform = sounds.resample(
                track.audio_frames(containers.decode(container, [video, audio]), sampler), max_seconds + 60
            )
            start = track.start
        sampler.finish()
        clip = sampler.clip
        if waveform is not None:
            waveform = _align(waveform, start - sampler.start, max_seconds) if len(waveform) else None
        return dataclasses.replace(
            clip, waveform=waveform, codec=video.codec_context.codec.canonical_name, container=kind
        )


class _Track:
    """Splits an interleaved stream of frames: video goes to the sampler, audio is yielded. Records when audio began."""

    def __init__(self):
        self.start = 0.0

    def audio_frames(self, pairs: Iterator, sampler: "_Sampler") -> Iterator:
        first = True
        for stream, frame in pairs:
            if stream.type == "video":
                sampler.add(frame)
                continue
            if first:
                self.start, first = frame.time or 0.0, False
            yield frame


class _Sampler:
    """Takes decoded frames in display order and keeps the frame displayed at each k / rate."""

    def __init__(self, rate: float, max_side: int, max_seconds: float, max_pixels: int, stream):
        from av.video.reformatter import Interpolation

        self.rate, self.max_side, self.max_seconds, self.max_pixels = rate, max_side, max_seconds, max_pixels
        self.step = float(1 / stream.average_rate) if stream.average_rate else 1 / 25
        self.aspect = float(stream.sample_aspect_ratio or 1) or 1.0
        self.interpolation = Interpolation.AREA | Interpolation.ACCURATE_RND | Interpolation.BITEXACT
        self.start, self.previous, self.time = None, None, 0.0
        self.shape, self.size, self.count = None, None, 0
        self.frames, self.converted = [], None

    def add(self, frame) -> None:
        if frame.width * frame.height > self.max_pixels:
            raise BadInput(
                "too_large", f"a frame of {frame.width}x{frame.height} is more than {self.max_pixels} pixels"
            )
        time = frame.time
        if time is None:
            time = (self.start or 0.0) + (self.time + self.step if self.count else 0.0)
        if self.start is None:
            self.start = time
        time = max(time - self.start, self.time)
        if time > self.max_seconds:
            raise BadInput("too_long", f"more than {self.max_seconds:g} s")
        self._emit_before(time)
        self.previous, self.time, self.converted = frame, time, None
        self.count += 1

    def finish(self) -> None:
        if self.previous is None:
            raise BadInput("empty", "no pictures")
        last = (
            float(self.previous.duration * self.previous.time_base)
            if self.previous.duration and self.previous.time_base
            else self.step
        )
        self.seconds = min(self.time + (last if 0 < last < 10 else self.step), self.max_seconds)
        self._emit_before(self.seconds)

    @property
    def clip(self) -> Clip:
        times = np.arange(len(self.frames), dtype=np.float64) / self.rate
        return Clip(np.stack(self.frames), times, None, self.seconds, *self.size, source_frames=self.count)

    def _emit_before(self, time: float) -> None:
        while self.previous is not None and len(self.frames) / self.rate < time - 1e-6:
            if self.converted is None:
                self.converted = self._convert(self.previous)
            self.frames.append(self.converted)

    def _convert(self, frame) -> np.ndarray:
        width, height = max(1, round(frame.width * self.aspect)), frame.height
        if not 0.01 < self.aspect < 100 or width * height > 4 * self.max_pixels:
            width = frame.width
        quarter_turns = round(frame.rotation / 90) % 4  # counterclockwise, as in np.rot90
        if self.shape is None:  # the first frame sets the size; later frames of another size are scaled to it
            scale = min(1.0, self.max_side / max(width, height))
            self.shape = (max(1, round(width * scale)), max(1, round(height * scale)))
            self.size = (height, width) if quarter_turns % 2 else (width, height)
        try:
            small = frame.reformat(*self.shape, format="rgb24", interpolation=self.interpolation, threads=1)
            pixels = small.to_ndarray()
        except MemoryError:
            raise
        except Exception as error:  # a pixel format that swscale does not know
            raise BadInput("damaged_stream", containers.one_line(error)) from error
        return np.ascontiguousarray(np.rot90(pixels, quarter_turns))


def _check_size(context, max_pixels: int) -> None:
    if context is not None and context.width * context.height > max_pixels:
        raise BadInput("too_large", f"{context.width}x{context.height} is more than {max_pixels} pixels")


def _align(waveform: np.ndarray, offset: float, max_seconds: float) -> np.ndarray | None:
    """Audio that starts `offset` seconds after the first frame -> audio that starts at the first frame."""
    samples = round(min(max(offset, -max_seconds), max_seconds) * sounds.SAMPLE_RATE)
    aligned = np.concatenate([np.zeros(samples, np.float32), waveform]) if samples >= 0 else waveform[-samples:]
    return aligned[: round(max_seconds * sounds.SAMPLE_RATE)] if len(aligned) else None
