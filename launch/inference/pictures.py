"""Reads and writes image files for `castor infer`.

Input images are untrusted: their size is checked before decoding, and they are decoded in the sandbox, as in the data
jobs.
"""

import io
import os
import pathlib

from castor.pipelines.core.sandbox import Child, Sandbox
from castor.pipelines.document import BadInput, Document
from castor.pipelines.media.images import MAX_PIXELS, decode_image
from castor.tasks.errors import CastorError, ConfigurationError
from castor.tasks.storage import storage

MAX_BYTES = 64 << 20  # largest image file
FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
_REMEDY = f"Give a JPEG, PNG or WebP file of at most {MAX_BYTES >> 20} MiB and {MAX_PIXELS // 1_000_000} megapixels."


def to_pixels(document: Document) -> Document:
    """Decodes an image document to uint8 pixels as displayed, with their shape as metadata. Runs in the sandbox.

    Raises BadInput if the bytes are not an image.
    """
    pixels = decode_image(document.bytes)
    return document.replace(bytes=pixels.tobytes(), metadata={"shape": list(pixels.shape)})


class Reader:
    """Reads image files in the sandbox. A context manager, which stops the sandbox on exit."""

    def __init__(self):
        self._child = Child(to_pixels, Sandbox(cpu_seconds=30.0, memory_bytes=2 << 30))

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, *_) -> None:
        self._child.close()

    def __call__(self, path: str):
        """Reads one image: uint8 [H, W, 3], upright, transparent areas on white.

        path: local path or URL of the file.

        Raises CastorError, naming the file, if the image cannot be read.
        """
        import numpy as np

        try:
            if os.path.exists(path) and not os.path.isfile(path):  # a pipe or a device may never end
                raise CastorError(f"the image {path} cannot be read: not a regular file.", _REMEDY)
            with storage.open_read(path) as file:
                data = file.read(MAX_BYTES + 1)
            if len(data) > MAX_BYTES:
                raise BadInput("too_large", f"more than {MAX_BYTES} bytes")
            read = self._child.call(Document(id="0" * 32, source=path, modality="image", bytes=data))
        except (OSError, BadInput) as error:
            raise CastorError(f"the image {path} cannot be read: {error}.", _REMEDY) from error
        return np.frombuffer(read.bytes, np.uint8).reshape(read.metadata["shape"])


def write(path: str, pixels) -> None:
    """Writes an image atomically, in the format of its suffix.

    path: local path or URL.
    pixels: uint8 [H, W, 3].
    """
    import PIL.Image

    data = io.BytesIO()
    PIL.Image.fromarray(pixels).save(data, FORMATS.get(pathlib.Path(path).suffix.lower(), "PNG"))
    storage.write_bytes_atomic(path, data.getvalue())


def check_name(path: str) -> None:
    """Raises ConfigurationError unless `path` has the suffix of a format that `write` supports."""
    if pathlib.Path(path).suffix.lower() not in FORMATS:
        raise ConfigurationError(f"--output={path}: unknown image format.", "Use the suffix .png, .jpg or .webp.")


def parse_size(text: str | None) -> tuple[int, int] | None:
    """Parses "8x6" to (8, 6): rows and columns of patches. None stays None. Raises ConfigurationError otherwise."""
    if text is None:
        return None
    rows, _, columns = str(text).partition("x")
    if not (rows.isascii() and rows.isdigit() and columns.isascii() and columns.isdigit() and len(text) < 12):
        raise ConfigurationError(f"{text!r} is not a size.", "Write ROWSxCOLUMNS, e.g. 8x8.")
    return int(rows), int(columns)
