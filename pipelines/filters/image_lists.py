"""Rejects known unwanted images: lists of file hashes, and of perceptual hashes for rescaled or recompressed copies.

Hotlines, platforms and reviewers publish hashes, so that nobody passes the images on. Castor ships no such list. A list
of file hashes may mix MD5, SHA-1 and SHA-256 in hexadecimal; the length tells them apart. A list of perceptual hashes
holds those of pipelines/media/fingerprints.py, 16 hex digits each. Perceptual hashes of other services are different
functions and cannot be compared with these.

A perceptual match shows likeness, not identity: keep the rejects and review them. The cost is one millisecond per image
and million perceptual hashes.
"""

import dataclasses
import hashlib
import re
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

import gin
from castor.pipelines.core import lists
from castor.pipelines.document import Document
from castor.pipelines.filters.reason import Reason
from castor.tasks.errors import ConfigurationError

_KINDS = {32: hashlib.md5, 40: hashlib.sha1, 64: hashlib.sha256}
_HEX = re.compile(r"[0-9a-f]+")


@gin.configurable(module="image_lists")
@dataclasses.dataclass(frozen=True)
class Filter:
    """Rejects images whose hash is on a list. Reads the image bytes and metadata `perceptual_hash` and `detail`.

    files: lists of hashes of whole files.

    perceptual: lists of perceptual hashes.

    max_distance: maximum number of the 64 bits that may differ. Unrelated images differ in 32 bits on average; one in
        1e9 of such pairs differs in fewer than 9.

    min_detail: images with less detail are not compared, since their perceptual hash means nothing. Standard deviation
        of brightness, 0..128 (media/fingerprints.py).
    """

    files: Sequence[str] = ()
    perceptual: Sequence[str] = ()
    max_distance: int = 4
    min_detail: float = 4.0

    name: ClassVar[str] = "image_lists"

    def reads(self) -> dict[str, str]:
        return lists.reads((*self.files, *self.perceptual))

    def prepare(self) -> None:
        _files(tuple(self.files))
        _perceptual(tuple(self.perceptual))

    def check(self, document: Document) -> str | None:
        for length, known in _files(tuple(self.files)).items():
            found = _KINDS[length](document.bytes or b"", usedforsecurity=False).hexdigest()
            if found in known:
                return Reason("image_lists.file", found)
        known, written = _perceptual(tuple(self.perceptual)), document.metadata.get("perceptual_hash")
        if not len(known) or written is None or document.metadata.get("detail", 255.0) < self.min_detail:
            return None
        distance = int(np.bitwise_count(known ^ np.uint64(int(written, 16))).min())
        return (
            Reason("image_lists.perceptual", f"{written}, {distance} bits from a known one")
            if distance <= self.max_distance
            else None
        )


@lists.kept
def _files(names: tuple[str, ...]) -> dict[int, frozenset[str]]:
    """{number of hex digits: file hashes of that length}."""
    known: dict[int, set[str]] = {}
    for name in names:
        for entry in lists.lines(name):
            if len(entry) not in _KINDS or not _HEX.fullmatch(entry):
                raise ConfigurationError(
                    f"{entry[:80]!r} in the list {name} is not an MD5, SHA-1 or SHA-256 hash.",
                    "Write one hash of 32, 40 or 64 hex digits per line.",
                )
            known.setdefault(len(entry), set()).add(entry)
    return {length: frozenset(entries) for length, entries in sorted(known.items())}


@lists.kept
def _perceptual(names: tuple[str, ...]) -> np.ndarray:
    """Perceptual hashes, [entries] uint64."""
    known = set()
    for name in names:
        for entry in lists.lines(name):
            if len(entry) != 16 or not _HEX.fullmatch(entry):
                raise ConfigurationError(
                    f"{entry[:80]!r} in the list {name} is not a perceptual hash.", "Write 16 hex digits per line."
                )
            known.add(int(entry, 16))
    return np.array(sorted(known), np.uint64)
