"""Pictures that are known and unwanted: lists of hashes of files, and of perceptual hashes for what was scaled or compressed again.

Where such lists come from (a hotline, a platform, one's own reviewers) they are hashes, so that nobody passes the pictures on. Castor ships
none. A list of cryptographic hashes may mix MD5, SHA-1 and SHA-256 in hexadecimal, told apart by their length; a list of perceptual hashes holds
those of pipelines/media/fingerprints.py, 16 hex digits. Other services' perceptual hashes are other functions and cannot be compared with these.

A perceptual match is a likeness, no proof: keep rejects and look. Costs a millisecond a picture and million perceptual hashes.
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
    """files: lists of hashes of whole files. perceptual: lists of perceptual hashes.

    max_distance: bits of 64 that may differ; pictures that have nothing in common differ in 32, and one in 1e9 of such pairs in fewer than 9.
    min_detail: pictures with less have no perceptual hash to speak of. Reads metadata `perceptual_hash` and `detail` of the image job.
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
    """{hex digits: hashes of that length}."""
    known: dict[int, set[str]] = {}
    for name in names:
        for entry in lists.lines(name):
            if len(entry) not in _KINDS or not _HEX.fullmatch(entry):
                raise ConfigurationError(
                    f"{entry[:80]!r} in the list {name} is no MD5, SHA-1 or SHA-256.",
                    "Write 32, 40 or 64 hex digits a line.",
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
                    f"{entry[:80]!r} in the list {name} is no perceptual hash.", "Write 16 hex digits a line."
                )
            known.add(int(entry, 16))
    return np.array(sorted(known), np.uint64)
