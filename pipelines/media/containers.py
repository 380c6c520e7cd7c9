"""Audio and video containers: detects the format, checks that the file is complete, and decodes up to the first error.

FFmpeg is built for playback: it skips damage, conceals missing data and treats the end of the data as the end of the
film. Training data must not be invented. So this module walks the structure of each container (every box, page and
chunk must fit in the file, checksums must match) and runs the codecs with all their error detection on.

The demuxer is always named, never probed: probing would let a text file select a playlist demuxer, which opens other
files.
"""

import contextlib
import io
import re
import zlib
from collections.abc import Callable, Iterator
from typing import Any

from castor.pipelines.document import BadInput

STRICT = {"err_detect": "crccheck+bitstream+buffer+explode"}
MAX_STREAMS = 16
MAX_PARTS = 100_000  # top-level boxes or elements of a file; an hour of film has a few thousand
# Sample rates in Hz: below 1 kHz nothing is audible, and 384 kHz is the fastest recorder.
MIN_RATE, MAX_RATE, MAX_CHANNELS = 1_000, 384_000, 16
AUDIO_CODECS = frozenset(
    "aac mp3 mp3float vorbis libvorbis opus libopus flac alac amrnb amr_nb amrwb amr_wb libopencore_amrnb "
    "libopencore_amrwb "
    "adpcm_ms adpcm_ima_wav adpcm_ima_qt pcm_u8 pcm_s8 pcm_s16le pcm_s16be pcm_s24le pcm_s24be pcm_s32le pcm_s32be "
    "pcm_f32le pcm_f32be "
    "pcm_f64le pcm_f64be pcm_alaw pcm_mulaw gsm gsm_ms".split()
)
VIDEO_CODECS = frozenset(
    "h264 hevc vp8 libvpx vp9 libvpx-vp9 av1 libdav1d mpeg4 mpeg2video mpeg1video theora mjpeg h263".split()
)


def sniff(data: bytes) -> str | None:
    """FFmpeg's name of the demuxer for these bytes: wav, flac, ogg, caf, mov, matroska or mp3; None for other data."""
    if data[:4] == b"RIFF" and data[8:12] == b"WAVE":
        return "wav"
    if data[:4] == b"fLaC":
        return "flac"
    if data[:4] == b"OggS":
        return "ogg"
    if data[:4] == b"caff":
        return "caf"
    if data[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"skip", b"free"):
        return "mov"
    if data[:4] == b"\x1aE\xdf\xa3":
        return "matroska"
    if data[:3] == b"ID3" or (len(data) > 1 and data[0] == 0xFF and data[1] & 0xE0 == 0xE0 and data[1] & 0x06):
        return "mp3"
    return None


def check_whole(data: bytes, kind: str) -> None:
    """Walks the structure of the container to the end of the file.

    Raises BadInput("damaged_container") if a part does not fit.
    """
    _CHECKS[kind](data)


@contextlib.contextmanager
def open_strict(data: bytes, kind: str, max_pixels: int):
    """The file as an open PyAV container that cannot open any other file.

    Raises BadInput("damaged_container") if FFmpeg cannot open it.
    """
    import av

    try:
        container = av.open(
            io.BytesIO(data),
            format=kind,
            metadata_errors="replace",
            options={"max_pixels": str(max_pixels), "threads": "1"},
            io_open=_refuse_to_open,
        )
    except MemoryError:
        raise
    except Exception as error:
        raise BadInput("damaged_container", one_line(error)) from error
    try:
        if len(container.streams) > MAX_STREAMS:
            raise BadInput("damaged_container", f"{len(container.streams)} streams")
        if kind == "mov" and any(
            entry.pos + entry.size > len(data) for s in container.streams for entry in s.index_entries
        ):
            raise BadInput("damaged_container", "the sample table points beyond the end of the file")
        yield container
    finally:
        container.close()


def prepare(stream: Any, codecs: frozenset[str], max_pixels: int) -> None:
    """Configures a stream's decoder: one thread (the same result everywhere), every error detected.

    Raises BadInput("unsupported_codec").
    """
    context = stream.codec_context
    if context is None or context.name not in codecs:
        raise BadInput("unsupported_codec", f"{stream.type} codec {context.name if context else 'unknown'}")
    context.thread_count = 1
    context.options = {**STRICT, "max_pixels": str(max_pixels)}


def decode(container: Any, streams: list) -> Iterator[tuple[Any, Any]]:
    """Yields (stream, frame) in file order.

    Raises BadInput("damaged_stream") at the first damaged packet or frame.
    """
    try:
        for packet in container.demux(streams):
            if packet.is_corrupt:
                raise BadInput("damaged_stream", f"a truncated {packet.stream.type} packet at byte {packet.pos}")
            for frame in packet.decode():
                if frame.is_corrupt:
                    raise BadInput(
                        "damaged_stream", f"{packet.stream.type} frame at {frame.time} s decoded with errors"
                    )
                yield packet.stream, frame
    except (BadInput, MemoryError):
        raise
    except Exception as error:  # FFmpegError of many kinds; ValueError and OverflowError from absurd headers
        raise BadInput("damaged_stream", one_line(error)) from error


def one_line(error: Exception) -> str:
    """An exception as one short line without object addresses, so that two runs write the same text."""
    return re.sub(r" at 0x[0-9a-f]+", "", " ".join(f"{type(error).__name__}: {error}".split()))[:200]


def is_cover(stream: Any) -> bool:
    """Whether a video stream is a cover picture."""
    from av.stream import Disposition

    return bool(stream.disposition & Disposition.attached_pic)


def _refuse_to_open(url: str, flags: int, options: dict):
    raise OSError("a media file may not open another file")


def _damaged(message: str) -> BadInput:
    return BadInput("damaged_container", message)


def _counted(parts: int) -> int:
    if parts == MAX_PARTS:
        raise _damaged(f"more than {MAX_PARTS} parts")
    return parts + 1


def _check_wav(data: bytes) -> None:
    position, chunks = 12, {}
    while position + 8 <= len(data) and b"data" not in chunks:
        name, size = data[position : position + 4], int.from_bytes(data[position + 4 : position + 8], "little")
        if position + 8 + size > len(data):
            raise _damaged(f"WAV chunk {name!r} claims {size} bytes, {len(data) - position - 8} are left")
        chunks[name] = (position + 8, size)
        position += 8 + size + (size & 1)
    if b"fmt " not in chunks or b"data" not in chunks or chunks[b"fmt "][1] < 16:
        raise _damaged("WAV without a format and a data chunk")
    start = chunks[b"fmt "][0]
    channels, rate = (
        int.from_bytes(data[start + 2 : start + 4], "little"),
        int.from_bytes(data[start + 4 : start + 8], "little"),
    )
    align = int.from_bytes(data[start + 12 : start + 14], "little")
    if not 1 <= channels <= MAX_CHANNELS or not MIN_RATE <= rate <= MAX_RATE or align < 1:
        raise _damaged(f"WAV of {channels} channels at {rate} Hz, {align} bytes per sample")
    if chunks[b"data"][1] == 0:
        raise BadInput("empty", "WAV without samples")
    if chunks[b"data"][1] % align:
        raise _damaged("WAV data ends inside a sample")


def _check_flac(data: bytes) -> None:
    position, last = 4, False
    while not last:
        if position + 4 > len(data):
            raise _damaged("FLAC ends inside its metadata")
        last = bool(data[position] & 0x80)
        position += 4 + int.from_bytes(data[position + 1 : position + 4], "big")
    if position >= len(data):
        raise BadInput("empty", "FLAC without frames")


def flac_samples(data: bytes) -> int:
    """The number of samples declared in the STREAMINFO block; 0 if not declared. `check_whole` must have passed."""
    return int.from_bytes(data[18:26], "big") & ((1 << 36) - 1)


_BIT_REVERSED = bytes(int(f"{i:08b}"[::-1], 2) for i in range(256))


def _ogg_checksum(page: bytes) -> int:
    """CRC-32 with polynomial 0x04c11db7, not reflected, starting at 0 (RFC 3533), by zlib's reflected CRC."""
    reflected = zlib.crc32(page.translate(_BIT_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{reflected:032b}"[::-1], 2)


def _check_ogg(data: bytes) -> None:
    position, open_streams = 0, {}
    while position < len(data):
        header = data[position : position + 27]
        if len(header) < 27 or header[:4] != b"OggS":
            raise _damaged(f"no Ogg page at byte {position}")
        table = data[position + 27 : position + 27 + header[26]]
        end = position + 27 + header[26] + sum(table)
        if end > len(data) or len(table) < header[26]:
            raise _damaged("Ogg ends inside a page")
        page = data[position : position + 22] + bytes(4) + data[position + 26 : end]
        if _ogg_checksum(page) != int.from_bytes(header[22:26], "little"):
            raise _damaged(f"Ogg page at byte {position} has a wrong checksum")
        serial, number = header[14:18], int.from_bytes(header[18:22], "little")
        if number != open_streams.get(serial, (number, False))[0]:
            raise _damaged(f"Ogg page {number} at byte {position} is out of order")
        open_streams[serial] = (number + 1, bool(header[5] & 4))
        position = end
    if not all(ended for _, ended in open_streams.values()):
        raise _damaged("Ogg ends before the last page of a stream")


def _check_caf(data: bytes) -> None:
    position = 8
    while position < len(data):
        name, size = (
            data[position : position + 4],
            int.from_bytes(data[position + 4 : position + 12], "big", signed=True),
        )
        if name == b"data" and size == -1:
            return
        if size < 0 or position + 12 + size > len(data):
            raise _damaged(f"CAF chunk {name!r} claims {size} bytes, {len(data) - position - 12} are left")
        position += 12 + size


def _check_mov(data: bytes) -> None:
    position, names, parts = 0, set(), 0
    while position < len(data):
        parts = _counted(parts)
        size, name, header = int.from_bytes(data[position : position + 4], "big"), data[position + 4 : position + 8], 8
        if size == 1:
            size, header = int.from_bytes(data[position + 8 : position + 16], "big"), 16
        elif size == 0:
            size = len(data) - position
        if size < header or position + size > len(data):
            raise _damaged(f"box {name!r} at byte {position} claims {size} bytes, {len(data) - position} are left")
        names.add(name)
        position += size
    if b"moov" not in names:
        raise _damaged("no moov box")


def _vint(data: bytes, position: int, keep_marker: bool) -> tuple[int, int, bool]:
    """An EBML number: (value, length in bytes, whether all bits are ones, which means unknown)."""
    first = data[position] if position < len(data) else 0
    length = 9 - first.bit_length()
    if length > 8 or position + length > len(data):
        raise _damaged(f"no EBML number at byte {position}")
    value = int.from_bytes(data[position : position + length], "big")
    mask = (1 << (7 * length)) - 1
    return (value if keep_marker else value & mask), length, (value & mask) == mask


def _check_matroska(data: bytes) -> None:
    position, parts = 0, 0
    while position < len(data):
        parts = _counted(parts)
        name, used, _ = _vint(data, position, True)
        size, more, unknown = _vint(data, position + used, False)
        position += used + more
        # A Segment, or a Cluster of unknown size: walk its children.
        if name == 0x18538067 or (unknown and name == 0x1F43B675):
            if not unknown and position + size > len(data):
                raise _damaged(f"segment claims {size} bytes, {len(data) - position} are left")
            continue
        if unknown or position + size > len(data):
            raise _damaged(f"element {name:#x} claims more bytes than the {len(data) - position} that are left")
        position += size


_MP3_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}
_MP3_KBITS = {
    (3, 3): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (3, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (3, 1): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, 3): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}


def _mp3_frame_bytes(header: int) -> int:
    """Length of the frame that a 32-bit MPEG audio header announces; 0 for an invalid header (ISO 11172-3, 13818-3).

    Example: 0xFFFB9000 is MPEG-1 layer III, 128 kbit/s, 44.1 kHz: 144,000 * 128 // 44,100 = 417 bytes.
    """
    version, layer, bits, rate = header >> 19 & 3, header >> 17 & 3, header >> 12 & 15, header >> 10 & 3
    if header >> 21 != 0x7FF or version == 1 or layer == 0 or bits in (0, 15) or rate == 3:
        return 0
    kbits = _MP3_KBITS[(3, layer) if version == 3 else (2, 3 if layer == 3 else 2)][bits - 1]
    hertz, padding = _MP3_RATES[version][rate], header >> 9 & 1
    if layer == 3:
        return (12_000 * kbits // hertz + padding) * 4
    return (72_000 if layer == 1 and version != 3 else 144_000) * kbits // hertz + padding


def _check_mp3(data: bytes) -> None:
    position, end, frames, promised = 0, len(data), 0, 0
    while data[position : position + 3] == b"ID3" and position + 10 <= end:
        size = sum((data[position + 6 + i] & 0x7F) << (21 - 7 * i) for i in range(4))
        position += 10 + size + (10 if data[position + 5] & 0x10 else 0)
    while position + 4 <= end:
        length = _mp3_frame_bytes(int.from_bytes(data[position : position + 4], "big"))
        if not length:
            break
        if position + length > end:
            raise _damaged("MP3 ends inside a frame")
        if frames == 0:
            promised = _mp3_promised_frames(data[position : position + length])
        position += length
        frames += 1
    if not frames:
        raise _damaged("no MP3 frame after the tags")
    if frames < promised:
        raise _damaged(f"MP3 of {frames} frames, but its header declares {promised}")
    tail = data[position:]
    if tail.strip(b"\0") and not tail.startswith((b"TAG", b"APETAGEX", b"LYRICSBEGIN", b"ID3")):
        raise _damaged(f"no MP3 frame at byte {position}")


def _mp3_promised_frames(first: bytes) -> int:
    """The frame count in the Xing or Info header, which encoders put into a first, silent frame; 0 if there is none."""
    for offset in (36, 21, 13):  # after 32, 17 or 9 bytes of side information
        if first[offset : offset + 4] in (b"Xing", b"Info") and first[offset + 7] & 1:
            return int.from_bytes(first[offset + 8 : offset + 12], "big")
    return 0


_CHECKS: dict[str, Callable[[bytes], None]] = {
    "wav": _check_wav,
    "flac": _check_flac,
    "ogg": _check_ogg,
    "caf": _check_caf,
    "mov": _check_mov,
    "matroska": _check_matroska,
    "mp3": _check_mp3,
}
