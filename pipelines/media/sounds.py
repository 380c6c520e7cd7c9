"""Decodes sound: any encoded recording -> one channel at 16 kHz, or BadInput. Also encodes FLAC.

Decoding, downmixing and resampling run block by block, so the allowed number of resampled seconds bounds the memory,
not the header.
"""

import dataclasses
import io
from collections.abc import Iterator

import numpy as np

from castor.pipelines.document import BadInput
from castor.pipelines.media import containers

SAMPLE_RATE = 16_000
MAX_SECONDS = 3_600.0
MAX_AMPLITUDE = 16.0  # 24 dB over full scale: float files exceed 1.0 a little; far beyond it the data is not sound
RESAMPLER = "HQ"  # soxr's quality; 20 bits


@dataclasses.dataclass(frozen=True)
class Sound:
    """A decoded recording.

    waveform: float32 [samples] at SAMPLE_RATE, mono.

    container, codec: FFmpeg's names.

    sample_rate: of the file, before resampling, in Hz.

    channels: of the file.
    """

    waveform: np.ndarray
    container: str
    codec: str
    sample_rate: int
    channels: int

    @property
    def seconds(self) -> float:
        return len(self.waveform) / SAMPLE_RATE


def decode_audio(data: bytes, max_seconds: float = MAX_SECONDS) -> np.ndarray:
    """Encoded recording -> float32 [samples], mono (mean of the channels), 16 kHz, full scale 1.0.

    Raises BadInput, see `decode_sound`.
    """
    return decode_sound(data, max_seconds).waveform


def decode_sound(data: bytes, max_seconds: float = MAX_SECONDS) -> Sound:
    """Decodes the first audio stream of WAV, FLAC, MP3, Ogg, WebM/Matroska, MP4/3GP or CAF.

    max_seconds: longer recordings are bad input.

    Raises BadInput: empty, unsupported_format, unsupported_codec, no_audio_stream, damaged_container, damaged_stream,
    not_finite (NaN or infinite samples), out_of_range (beyond MAX_AMPLITUDE), too_long.
    """
    if not data:
        raise BadInput("empty", "zero bytes")
    kind = containers.sniff(data)
    if kind is None:
        raise BadInput("unsupported_format", f"no sound container begins with {data[:12]!r}")
    containers.check_whole(data, kind)
    with containers.open_strict(data, kind, max_pixels=1 << 26) as container:
        if not container.streams.audio:
            raise BadInput("no_audio_stream", f"{kind} without a sound track")
        stream = container.streams.audio[0]
        containers.prepare(stream, containers.AUDIO_CODECS, max_pixels=1 << 26)
        rate, channels = stream.rate or 0, stream.channels or 0
        frames = (frame for _, frame in containers.decode(container, [stream]))
        if kind == "flac":
            frames = _all_of(frames, containers.flac_samples(data))
        waveform = resample(frames, max_seconds)
        codec = stream.codec_context.codec.canonical_name
    if not len(waveform):
        raise BadInput("empty", "no samples")
    return Sound(waveform, kind, codec, rate, channels)


def _all_of(frames: Iterator, promised: int) -> Iterator:
    samples = 0
    for frame in frames:
        samples += frame.samples
        yield frame
    if promised and samples != promised:
        raise BadInput("damaged_container", f"FLAC of {samples} samples, but its header declares {promised}")


def resample(frames: Iterator, max_seconds: float) -> np.ndarray:
    """PyAV audio frames -> float32 [samples], mono, at SAMPLE_RATE.

    frames: of any sample format, with one constant rate and layout.

    max_seconds: longer recordings raise BadInput("too_long").
    """
    blocks, rate, channels, stream, samples = [], None, None, None, 0
    for frame in frames:
        if rate is None:
            rate, channels = frame.sample_rate, frame.layout.nb_channels
            if not containers.MIN_RATE <= rate <= containers.MAX_RATE or not 1 <= channels <= containers.MAX_CHANNELS:
                raise BadInput("damaged_stream", f"{channels} channels at {rate} Hz")
            stream = _resampler(rate)
        elif (rate, channels) != (frame.sample_rate, frame.layout.nb_channels):
            changed = f"{frame.sample_rate} Hz, {frame.layout.nb_channels} channels"
            raise BadInput("damaged_stream", f"{rate} Hz, {channels} channels change to {changed}")
        samples += frame.samples
        if samples > max_seconds * rate:
            raise BadInput("too_long", f"more than {max_seconds:g} s")
        block = _mono(frame, channels)
        blocks.append(block if stream is None else stream.resample_chunk(block))
    if stream is not None:
        blocks.append(stream.resample_chunk(np.zeros(0, np.float32), last=True))
    return np.concatenate(blocks) if blocks else np.zeros(0, np.float32)


def encode_flac(waveform: np.ndarray) -> bytes:
    """float32 [samples], mono, 16 kHz -> 16-bit FLAC, the same bytes for the same samples.

    Samples beyond full scale are clipped.
    """
    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, to_pcm(waveform), SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def to_pcm(waveform: np.ndarray) -> np.ndarray:
    """float32 [samples] -> int16 [samples], rounded to nearest and clipped.

    Example: 0.5 -> 16384, 1.0 -> 32767. `decode_audio(encode_flac(w))` is exactly `to_pcm(w) / 32768`.
    """
    return np.clip(np.rint(waveform * np.float32(32768)), -32768, 32767).astype(np.int16)


def _resampler(rate: int):
    if rate == SAMPLE_RATE:
        return None
    import soxr

    return soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32", quality=RESAMPLER)


def _mono(frame, channels: int) -> np.ndarray:
    try:
        samples = frame.to_ndarray()
    except ValueError as error:
        raise BadInput("unsupported_codec", containers.one_line(error)) from error
    if not frame.format.is_planar:
        samples = samples.reshape(-1, channels).T
    if samples.dtype.kind == "f":
        block = samples.mean(axis=0, dtype=np.float64)
    else:
        offset, scale = (128, 128) if samples.dtype == np.uint8 else (0, -float(np.iinfo(samples.dtype).min))
        block = (samples.mean(axis=0, dtype=np.float64) - offset) / scale
    if not np.isfinite(block).all():
        raise BadInput("not_finite", "NaN or infinite samples")
    if np.abs(block).max(initial=0) > MAX_AMPLITUDE:
        raise BadInput("out_of_range", f"samples beyond {MAX_AMPLITUDE:g} times full scale")
    return block.astype(np.float32)
