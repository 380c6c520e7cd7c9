"""PSNR of the patch codec on pictures unlike those it was fitted on, by number of codes, and of JPEG at equal bitrate.

    python benchmarks/media/codec_psnr.py --fit FIT.tar [FIT.tar ...] --test TEST.tar [TEST.tar ...] [--budget 256]

Pictures are first scaled to the token budget (8x8 pixels per token), so PSNR describes what the model receives. The
result is the mean over pictures of each picture's PSNR in dB. For every picture, JPEG (Pillow, 4:2:0, optimized) uses
the best quality whose bytes, without headers, fit into the codec's bits. Prints one JSON line.
"""

import argparse
import io
import json
import math
import tarfile

import numpy as np
from PIL import Image

from castor.pipelines.document import BadInput
from castor.pipelines.media.images import decode_image
from castor.tasks.vocabulary import codec_fit, image, psnr, streams


def pictures(paths: list[str], budget: int) -> list[np.ndarray]:
    """uint8 [H, W, 3] each, from WebDataset tars; undecodable pictures are skipped."""
    found = []
    for path in paths:
        with tarfile.open(path) as archive:
            for member in archive:
                if member.name.lower().endswith((".jpg", ".jpeg", ".png", ".webp")):
                    try:
                        found.append(image.fit_to_budget(decode_image(archive.extractfile(member).read()), budget))
                    except BadInput:
                        continue
    return found


def jpeg_psnr(picture: np.ndarray, bits: float) -> float:
    """PSNR of the best JPEG of at most `bits` bits of content; of the worst one if none is small enough."""
    blank = io.BytesIO()
    Image.fromarray(np.zeros_like(picture)).save(blank, "JPEG", quality=1, optimize=True)
    best = None
    for quality in range(1, 60):
        data = io.BytesIO()
        Image.fromarray(picture).save(data, "JPEG", quality=quality, optimize=True)
        if best is not None and (len(data.getvalue()) - len(blank.getvalue())) * 8 > bits:
            break
        best = psnr.psnr(picture, np.asarray(Image.open(data).convert("RGB")), 255.0)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fit", nargs="+", required=True)
    parser.add_argument("--test", nargs="+", required=True)
    parser.add_argument("--budget", type=int, default=256, help="patches of 8x8 pixels a picture")
    arguments = parser.parse_args()
    fitted_on, held_out = pictures(arguments.fit, arguments.budget), pictures(arguments.test, arguments.budget)
    rows = {}
    for codes in (1024, 4096, 16384, 65536):
        codec = codec_fit.fit(fitted_on, streams.IMAGE_PATCH, codes)
        bits = math.log2(math.prod(codec.levels)) / 64
        rows[codes] = {
            "castor": round(float(np.mean([psnr.psnr(p, codec.decode(codec.encode(p)), 255.0) for p in held_out])), 2),
            "jpeg": round(float(np.mean([jpeg_psnr(p, bits * p.shape[0] * p.shape[1]) for p in held_out])), 2),
            "bits_a_pixel": round(bits, 3),
        }
    facts = {"fitted_on": len(fitted_on), "held_out": len(held_out), "budget": arguments.budget}
    print(json.dumps({"benchmark": "codec_psnr", **facts, "decibels": rows}))


if __name__ == "__main__":
    main()
