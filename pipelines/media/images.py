"""Decodes images: encoded JPEG, PNG or WebP -> RGB pixels, or BadInput; never a damaged or partial image.

The size in the header is checked before any pixel is decoded, so a false header costs nothing. Errors that the decoder
would ignore are checked separately. Pillow skips the checksums of PNG pixel data and ignores libjpeg's warnings. So
every PNG chunk is checked here, and every JPEG is decoded a second time by FFmpeg, which fails where libjpeg only
warns. Damage that leaves a valid Huffman stream is undetectable.
"""

import dataclasses
import io
import warnings
import zlib

import numpy as np

from castor.pipelines.document import BadInput
from castor.pipelines.media.containers import one_line

FORMATS = ("JPEG", "PNG", "WEBP")
MAX_PIXELS = 50_000_000  # 150 MB of RGB; phone cameras reach 50 megapixels
MAX_SCANS = 200  # of a progressive JPEG; libjpeg takes as long per scan as for a whole image
ORIENTATION = 0x0112  # the Exif tag
BACKDROP = 255  # transparent pixels are composited on white


@dataclasses.dataclass(frozen=True)
class ImageFacts:
    """Facts from an image's header.

    width, height: size in pixels as displayed, after the Exif orientation.

    format: one of FORMATS.

    mode: Pillow's mode.

    frames: number of frames.
    """

    width: int
    height: int
    format: str
    mode: str
    frames: int = 1


def sniff(data: bytes) -> str | None:
    """The format of FORMATS whose magic number the bytes start with, or None."""
    if data[:3] == b"\xff\xd8\xff":
        return "JPEG"
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return "PNG"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    return None


def probe_image(data: bytes, max_pixels: int = MAX_PIXELS) -> ImageFacts:
    """Facts from the header alone. Raises BadInput: empty, unsupported_format, damaged_image, too_large."""
    with _open(data, max_pixels) as image:
        return _facts(image, _orientation(image))


def decode_image(data: bytes, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Encoded image -> uint8 [height, width, 3] RGB as displayed; see `read_image`."""
    return read_image(data, max_pixels)[0]


def read_image(data: bytes, max_pixels: int = MAX_PIXELS) -> tuple[np.ndarray, ImageFacts]:
    """Encoded image -> (uint8 [height, width, 3] RGB as displayed, facts from its header).

    The Exif orientation is applied, alpha is composited on white, 16 bits are reduced to 8, the first frame of an
    animation is taken, and embedded colour profiles are ignored.

    Raises BadInput: empty, unsupported_format, damaged_image, too_large (more than `max_pixels` pixels).
    """
    from PIL import Image

    transpositions = (None, None, Image.FLIP_LEFT_RIGHT, Image.ROTATE_180, Image.FLIP_TOP_BOTTOM)
    transpositions += (Image.TRANSPOSE, Image.ROTATE_270, Image.TRANSVERSE, Image.ROTATE_90)
    with _open(data, max_pixels) as image:
        orientation = _orientation(image)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                facts = _facts(image, orientation)
                image.load()
                rgb = _to_rgb(image)
        except (BadInput, MemoryError):
            raise
        except Exception as error:  # Pillow raises a dozen kinds for damaged data
            raise BadInput("damaged_image", one_line(error)) from error
    if facts.format == "JPEG":
        _check_jpeg_entropy(data)
    if transpositions[orientation] is not None:
        rgb = rgb.transpose(transpositions[orientation])
    return np.array(rgb, dtype=np.uint8), facts


def encode_png(pixels: np.ndarray) -> bytes:
    """uint8 [height, width, 3] -> PNG bytes, the same for the same pixels and library versions."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def _open(data: bytes, max_pixels: int):
    from PIL import Image

    if not data:
        raise BadInput("empty", "zero bytes")
    kind = sniff(data)
    if kind is None:
        raise BadInput("unsupported_format", f"not JPEG, PNG or WebP: begins with {data[:12]!r}")
    if kind == "PNG":
        _check_png_chunks(data)
    elif kind == "WEBP" and int.from_bytes(data[4:8], "little") + 8 > len(data):
        raise BadInput("damaged_image", "WebP ends before the size its header claims")
    elif kind == "JPEG" and data.count(b"\xff\xda") > MAX_SCANS:
        raise BadInput("damaged_image", f"JPEG of more than {MAX_SCANS} scans")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's limit is looser than the check below
            image = Image.open(io.BytesIO(data), formats=[kind])
            width, height = image.size
    except Image.DecompressionBombError as error:
        raise BadInput("too_large", one_line(error)) from error
    except MemoryError:
        raise
    except Exception as error:
        raise BadInput("damaged_image", one_line(error)) from error
    if width < 1 or height < 1:
        raise BadInput("damaged_image", f"{width}x{height} pixels")
    if width * height > max_pixels:
        raise BadInput("too_large", f"{width}x{height} is more than {max_pixels} pixels")
    return image


def _facts(image, orientation: int) -> ImageFacts:
    width, height = image.size if orientation < 5 else image.size[::-1]
    if image.format == "MPO":  # a JPEG followed by further views of the scene
        return ImageFacts(width, height, "JPEG", image.mode)
    return ImageFacts(width, height, image.format, image.mode, getattr(image, "n_frames", 1))


def _orientation(image) -> int:
    """The Exif orientation 1..8; 1 if there is none or the Exif block is malformed, which viewers ignore as well.

    Must be called before the pixels are loaded: then an Exif block after the pixels of a PNG is ignored both by reading
    and by probing.
    """
    if image.format == "PNG" and not {"exif", "Raw profile type exif"} & image.info.keys():
        return 1  # Pillow would decode the image to look after its pixels
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = image.getexif().get(ORIENTATION, 1)
    except Exception:  # Pillow's EXIF reader raises many types; a broken tag loses the orientation, not the image
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _to_rgb(image):
    from PIL import Image

    if image.mode.startswith("I") or image.mode == "F":  # 16-bit grey: Pillow's own conversion clips instead of scaling
        grey = np.asarray(image)
        if grey.dtype.kind == "f" or grey.max(initial=0) > 65535 or grey.min(initial=0) < 0:
            raise BadInput("unsupported_format", f"pixels of mode {image.mode}")
        return Image.fromarray((grey.astype(np.uint32) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        flat = Image.new("RGB", image.size, (BACKDROP,) * 3)
        flat.paste(image, mask=image.getchannel("A"))
        return flat
    return image.convert("RGB")


def _check_png_chunks(data: bytes) -> None:
    """Checks that every chunk from the header to IEND is complete and has the right checksum."""
    position, view = 8, memoryview(data)
    while position + 12 <= len(data):
        length = int.from_bytes(view[position : position + 4], "big")
        end = position + 12 + length
        if end > len(data):
            break
        kind = bytes(view[position + 4 : position + 8])
        if zlib.crc32(view[position + 4 : end - 4]) != int.from_bytes(view[end - 4 : end], "big"):
            raise BadInput("damaged_image", f"PNG chunk {kind!r} at byte {position} has a wrong checksum")
        if kind == b"IEND":
            return
        position = end
    raise BadInput("damaged_image", "PNG ends before its IEND chunk")


def _check_jpeg_entropy(data: bytes) -> None:
    import av

    context = av.CodecContext.create("mjpeg", "r")
    context.thread_count = 1
    context.options = {"err_detect": "crccheck+bitstream+buffer+explode"}
    try:
        frames = context.decode(av.Packet(data)) + context.decode(None)
    except av.error.PatchWelcomeError:  # a valid kind that FFmpeg cannot decode: trust libjpeg
        return
    except (av.error.FFmpegError, ValueError) as error:
        raise BadInput("damaged_image", f"JPEG scan: {one_line(error)}") from error
    if not frames or frames[0].is_corrupt:
        raise BadInput("damaged_image", "JPEG scan: decoded with errors")
