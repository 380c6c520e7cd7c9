"""Image files as `castor infer` reads and writes them.

What is read may come from anywhere: its size is bounded before a byte is decoded, and it is decoded in the sandbox, as the data jobs do.
"""

import io
import os
import pathlib

from castor.pipelines.core.sandbox import Child, Sandbox
from castor.pipelines.document import BadInput, Document
from castor.pipelines.media.images import MAX_PIXELS, decode_image
from castor.tasks.errors import CastorError, ConfigurationError
from castor.tasks.storage import storage

MAX_BYTES = 64 << 20  # of an image file
FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
_REMEDY = f"Give a JPEG, PNG or WebP file of at most {MAX_BYTES >> 20} MiB and {MAX_PIXELS // 1_000_000} megapixels."


def to_pixels(document: Document) -> Document:
    """An encoded picture -> its pixels as displayed, uint8, and their shape as metadata. Runs in the sandbox; raises BadInput for what is none."""
    pixels = decode_image(document.bytes)
    return document.replace(bytes=pixels.tobytes(), metadata={"shape": list(pixels.shape)})


class Reader:
    """Reads image files, each in the sandbox. A context: the sandbox ends with it."""

    def __init__(self):
        self._child = Child(to_pixels, Sandbox(cpu_seconds=30.0, memory_bytes=2 << 30))

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, *_) -> None:
        self._child.close()

    def __call__(self, path: str):
        """uint8 [H, W, 3], upright, on white where it is transparent. Raises CastorError, naming the file, for what cannot be read."""
        import numpy as np

        try:
            if os.path.exists(path) and not os.path.isfile(path):  # a pipe or a device may never end
                raise CastorError(f"the image {path} cannot be read: it is no plain file.", _REMEDY)
            with storage.open_read(path) as file:
                data = file.read(MAX_BYTES + 1)
            if len(data) > MAX_BYTES:
                raise BadInput("too_large", f"more than {MAX_BYTES} bytes")
            read = self._child.call(Document(id="0" * 32, source=path, modality="image", bytes=data))
        except (OSError, BadInput) as error:
            raise CastorError(f"the image {path} cannot be read: {error}.", _REMEDY) from error
        return np.frombuffer(read.bytes, np.uint8).reshape(read.metadata["shape"])


def write(path: str, pixels) -> None:
    """uint8 [H, W, 3] -> an image file by its suffix, whole or not at all."""
    import PIL.Image

    data = io.BytesIO()
    PIL.Image.fromarray(pixels).save(data, FORMATS.get(pathlib.Path(path).suffix.lower(), "PNG"))
    storage.write_bytes_atomic(path, data.getvalue())


def check_name(path: str) -> None:
    """Raises ConfigurationError unless a file's name ends as that of a format that `write` knows."""
    if pathlib.Path(path).suffix.lower() not in FORMATS:
        raise ConfigurationError(f"--output={path} names no image format.", "End it in .png, .jpg or .webp.")


def parse_size(text: str | None) -> tuple[int, int] | None:
    """ "8x6" -> (8, 6): rows and columns of patches. None for None; raises ConfigurationError for anything else."""
    if text is None:
        return None
    rows, _, columns = str(text).partition("x")
    if not (rows.isascii() and rows.isdigit() and columns.isascii() and columns.isdigit() and len(text) < 12):
        raise ConfigurationError(f"the size {text!r} is none.", "Write ROWSxCOLUMNS, e.g. 8x8.")
    return int(rows), int(columns)
