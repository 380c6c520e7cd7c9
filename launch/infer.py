"""`castor infer`: writes, draws or describes with a trained model. Needs nothing but its MODEL_DIR.

With `--samples=DIR` it takes any number of --text and --draw and leaves their results in DIR, listed in samples.json (for a recipe's report).
"""

import argparse
import pathlib
import re

from launch.train import add_device_arguments, start_jax
from tasks import storage
from tasks.configuration import Flags
from tasks.errors import CastorError, ConfigurationError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model_dir", metavar="DIR", help="MODEL_DIR of a castor train run")
    parser.add_argument("--text", action="append", default=[], metavar="PROMPT", help="continue a text")
    parser.add_argument("--draw", action="append", default=[], metavar="CAPTION", help="draw an image from its caption, into --output")
    parser.add_argument("--describe", action="append", default=[], metavar="IMAGE", help="write a caption for an image file")
    parser.add_argument("--output", metavar="FILE", help="where --draw writes (.png, .jpg or .webp)")
    parser.add_argument("--samples", metavar="DIR", help="write all results, and samples.json, into this folder instead")
    parser.add_argument("--size", metavar="ROWSxCOLUMNS", help="grid of a drawing in patches of 8 x 8 pixels (default: the model decides)")
    parser.add_argument("--temperature", type=float, default=0.8, help="0 takes the likeliest token; default %(default)s")
    parser.add_argument("--top_k", type=int, default=40, help="sample from the K likeliest tokens, 0: from all; default %(default)s")
    parser.add_argument("--max_tokens", type=int, default=None, help="at most so many tokens of text (default: as many as fit; 64 for a caption)")
    parser.add_argument("--seed", type=int, default=0, help="equal seeds give equal results; default %(default)s")
    parser.add_argument("--step", type=int, metavar="N", help="checkpoint (default: the latest)")
    parser.add_argument("--vocabulary", metavar="DIR", help="where the vocabulary is, if not where the model says")
    add_device_arguments(parser)


def run(arguments: argparse.Namespace, flags: Flags) -> int:
    _check(arguments, flags)
    start_jax(arguments)
    from train import inference

    sampling = inference.Sampling(arguments.temperature, arguments.top_k, arguments.seed)
    size = _size(arguments.size)
    pictures = [(path, _read_image(path)) for path in arguments.describe]
    model = inference.Model.load(arguments.model_dir, arguments.step, arguments.vocabulary)
    rows: list[dict] = []
    for prompt in arguments.text:
        rows.append({"prompt": prompt, "text": model.write(prompt, sampling, arguments.max_tokens)})
        print(prompt + rows[-1]["text"])
    for number, caption in enumerate(arguments.draw):
        path = storage.join(arguments.samples, f"drawn-{number:02d}.png") if arguments.samples else arguments.output
        _write_image(path, model.draw(caption, sampling, size))
        rows.append({"prompt": caption, "image": pathlib.Path(path).name})
        print(path)
    for path, pixels in pictures:
        rows.append({"prompt": path, "text": model.describe(pixels, sampling, arguments.max_tokens or 64)})
        print(rows[-1]["text"])
    if arguments.samples:
        storage.write_json_atomic(storage.join(arguments.samples, "samples.json"), rows)
    return 0


def _check(arguments: argparse.Namespace, flags: Flags) -> None:
    if not arguments.model_dir:
        raise ConfigurationError("castor infer needs --model_dir.", "Give the MODEL_DIR of a castor train run.")
    if flags != Flags():
        raise ConfigurationError("castor infer takes no gin flags.", "The model's shape is read from MODEL_DIR; see castor infer --help for its options.")
    if not (arguments.text or arguments.draw or arguments.describe):
        raise ConfigurationError("castor infer has nothing to do.", "Give --text=PROMPT, --draw=CAPTION --output=X.png, or --describe=IMAGE.")
    if arguments.draw and not arguments.samples:
        if not arguments.output or len(arguments.draw) > 1:
            raise ConfigurationError("--draw needs one --output=X.png a drawing.", "For several drawings give --samples=DIR.")
        if pathlib.Path(arguments.output).suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
            raise ConfigurationError(f"--output={arguments.output} names no image format.", "End it in .png, .jpg or .webp.")
    if arguments.samples:
        storage.makedirs(arguments.samples)


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if not match:
        raise ConfigurationError(f"--size={text} is no size.", "Write ROWSxCOLUMNS, e.g. --size=8x8.")
    return int(match[1]), int(match[2])


def _read_image(path: str):
    """uint8 [H, W, 3], upright, on white where it is transparent."""
    import numpy as np
    import PIL.Image
    import PIL.ImageOps

    try:
        with PIL.Image.open(path) as picture:
            upright = PIL.ImageOps.exif_transpose(picture).convert("RGBA")
    except (OSError, ValueError, SyntaxError, PIL.Image.DecompressionBombError) as error:
        raise CastorError(f"the image {path} cannot be read: {error}.", "Give a JPEG, PNG or WebP file.") from error
    ground = PIL.Image.new("RGBA", upright.size, "white")
    return np.asarray(PIL.Image.alpha_composite(ground, upright).convert("RGB"))


def _write_image(path: str, pixels) -> None:
    """Writes an image file by its suffix, whole or not at all."""
    import io

    import PIL.Image

    data = io.BytesIO()
    kind = {".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}.get(pathlib.Path(path).suffix.lower(), "PNG")
    PIL.Image.fromarray(pixels).save(data, kind)
    storage.write_bytes_atomic(path, data.getvalue())
