"""Data and baselines of benchmarks/deduplication/deduplication.py: real texts and pictures, and seeded edits of them.

`edited` makes a near copy of a text, `bent` of a picture. `one_permutation` is an alternative signature of a text: one
hash, bins, and optimal densification of empty bins (Shrivastava 2017, "Optimal Densification for Fast and Accurate
Minwise Hashing"). The benchmark compares this signature with the classic minima of pipelines/deduplication/minhash.py.
"""

import glob
import io
import os
import random
import tarfile

import numpy as np

from castor.pipelines.document import BadInput, Document
from castor.pipelines.readers.web_source import WebSource
from castor.pipelines.text.html import Extract
from castor.tasks.hashing import mix64

KINDS = ("substitute", "delete", "insert", "swap")


def main_texts(root: str) -> dict[str, str]:
    """{source: main text} of the pages of web/crawl that have one."""
    source, extract, texts = WebSource("b", root, ("web/crawl/*.warc.gz",)), Extract(), {}
    for uri in source.files():
        for element in source.read(uri):
            if isinstance(element, Document):
                try:
                    page = extract(element)
                except BadInput:
                    continue
                if isinstance(page, Document) and page.text:
                    texts[os.path.relpath(element.source, root)] = page.text
    return texts


def edited(text: str, rate: float, seed: int) -> str:
    """A copy with random edits of about `rate` of the words.

    An edit substitutes or deletes a word, swaps the word with the next, or inserts a new word before it.
    """
    chance = random.Random(f"{seed}/{rate}")
    words = text.split(" ")
    result = []
    for word in words:
        kind = chance.choice(KINDS) if chance.random() < rate else ""
        if kind in ("substitute", "insert"):
            result.append(f"new{chance.randrange(10**6)}word")
        if kind in ("", "insert"):
            result.append(word)
        if kind == "swap" and result:
            result.insert(len(result) - 1, word)
    return " ".join(result)


def jaccard(one: np.ndarray, other: np.ndarray) -> float:
    """Exact Jaccard similarity of two sets, given as sorted arrays without repeats."""
    common = len(np.intersect1d(one, other, assume_unique=True))
    return common / (len(one) + len(other) - common) if common else 0.0


def one_permutation(hashes: np.ndarray, count: int) -> np.ndarray:
    """uint64 [n], n > 0 -> uint64 [count]: the smallest hash in each of `count` bins.

    An empty bin copies the value of another bin, selected by hashes of the empty bin's number.
    """
    mixed = mix64(hashes)
    bins = ((mixed >> np.uint64(32)) * np.uint64(count)) >> np.uint64(32)
    order = np.argsort((bins << np.uint64(32)) | (mixed & np.uint64(0xFFFFFFFF)))
    filled, first = np.unique(bins[order], return_index=True)
    values = np.full(count, 0xFFFFFFFFFFFFFFFF, np.uint64)
    values[filled] = mixed[order][first]
    empty = np.flatnonzero(values == 0xFFFFFFFFFFFFFFFF)
    full = set(filled.tolist())
    for i in empty.tolist():
        attempt = 0
        while (other := int(mix64(np.uint64(i * 1_000_003 + attempt))) % count) not in full:
            attempt += 1
        values[i] = values[other]
    return values


def pictures(root: str) -> list[np.ndarray]:
    """The pictures of image/*.tar, uint8 [height, width, 3]."""
    from castor.pipelines.media.images import decode_image

    found = []
    for name in sorted(glob.glob(f"{glob.escape(root)}/image/*.tar")):
        with tarfile.open(name) as archive:
            found += [decode_image(archive.extractfile(m).read()) for m in archive if m.name.endswith((".jpg", ".png"))]
    return found


def bent(pixels: np.ndarray, kind: str) -> np.ndarray:
    """A copy: `jpeg Q`, `scale F`, `crop F` (of each side), `bright F`, `mirror`."""
    from PIL import Image

    name, _, value = kind.partition(" ")
    height, width, _ = pixels.shape
    if name == "jpeg":
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=int(value))
        return np.asarray(Image.open(buffer).convert("RGB"))
    if name == "scale":
        size = (max(1, round(width * float(value))), max(1, round(height * float(value))))
        return np.asarray(Image.fromarray(pixels).resize(size, Image.BICUBIC))
    if name == "crop":
        y, x = round(height * float(value)), round(width * float(value))
        return np.ascontiguousarray(pixels[y : height - y, x : width - x])
    if name == "bright":
        return np.clip(pixels * float(value), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(pixels[:, ::-1])
