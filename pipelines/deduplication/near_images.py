"""Near duplicates of pictures: perceptual hashes (pipelines/media/fingerprints.py) that differ in few bits. No Beam.

The rule finds exactly the pairs within the distance d. The 64 bits are cut into `blocks`. If two hashes differ in at
most d bits, at least blocks - d blocks are equal (Manku, Jain, Das Sarma 2007, "Detecting Near-Duplicates for Web
Crawling", section 3). Each choice of blocks - d blocks is a key, so the two hashes share a key and are compared. More
blocks give more keys and smaller buckets: 9 blocks at a distance of 6 give 84 keys of 21 bits.

The hash depends on brightness alone: the same shape in red and in green has one hash. The rule is therefore off by
default.
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterable, Iterator
from typing import ClassVar

import numpy as np

import gin
from castor.pipelines.deduplication import rules
from castor.pipelines.document import Document
from castor.pipelines.media.fingerprints import BITS
from castor.tasks.errors import ConfigurationError

MAX_DISTINCT = 1 << 16  # different hashes per bucket; comparing that many takes some seconds


@gin.configurable(module="near_pictures")
@dataclasses.dataclass(frozen=True)
class MostPixels:
    """The picture with the most pixels stays, by the metadata that MeasureImage wrote."""

    def rank(self, document: Document) -> int:
        return int(document.metadata.get("width", 0)) * int(document.metadata.get("height", 0))


@gin.configurable(module="near_pictures")
@dataclasses.dataclass(frozen=True)
class NearPictures:
    """The rule `image_near`, on the metadata that MeasureImage wrote.

    max_distance: bits that may differ. An odd value equals the even value below it, because half of the bits of every
      hash are set.
    blocks: see the module docstring.
    min_detail: pictures with less detail are exempt, because their hash is noise.
    keep: which picture of a cluster stays.
    rounds: see pipelines/deduplication/connected_components.py.
    """

    max_distance: int = 6
    blocks: int = 9
    min_detail: float = 4.0
    keep: rules.Order = MostPixels()
    rounds: int = 8

    kind: ClassVar[str] = "image_near"
    binding: ClassVar[str] = "near_pictures.NearPictures"

    def __post_init__(self):
        if not 0 <= self.max_distance < self.blocks <= 16:
            raise ConfigurationError(
                f"{self.binding}.max_distance is {self.max_distance} and blocks {self.blocks}.",
                "Cut the hash into more blocks than bits may differ, at most 16.",
            )

    def keys(self, document: Document) -> list[bytes]:
        metadata = document.metadata
        if "perceptual_hash" not in metadata or metadata.get("detail", 0.0) < self.min_detail:
            return []
        value = int(metadata["perceptual_hash"], 16)
        return [
            number.to_bytes(2, "big") + (value & mask).to_bytes(8, "big")
            for number, mask in enumerate(_masks(self.blocks, self.max_distance))
        ]

    def payload(self, document: Document) -> bytes:
        """The perceptual hash, 8 bytes, to compare documents that share a key."""
        return bytes.fromhex(document.metadata.get("perceptual_hash", ""))

    def links(self, bucket: Iterable[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes]]:
        """(node, hash) pairs of one key -> (node, smaller node) pairs that link hashes within `max_distance`.

        Iterates over the bucket twice and keeps one node per hash in memory. Raises ConfigurationError for more than
        MAX_DISTINCT hashes.
        """
        smallest: dict[bytes, bytes] = {}
        for node, value in bucket:
            smallest[value] = min(node, smallest.get(value, node))
            if len(smallest) > MAX_DISTINCT:
                raise ConfigurationError(
                    f"over {MAX_DISTINCT} different pictures share one key of near duplicates.",
                    f"Raise {self.binding}.blocks (now {self.blocks}) or "
                    f"{self.binding}.min_detail (now {self.min_detail}).",
                )
        for node, value in bucket:
            if node != smallest[value]:
                yield node, smallest[value]
        for group in _groups(sorted(smallest), self.max_distance):
            yield from rules.star([smallest[value] for value in group])


def _groups(values: list[bytes], distance: int) -> Iterator[list[bytes]]:
    """Hashes -> groups connected by steps of at most `distance` bits."""
    hashes = np.frombuffer(b"".join(values), ">u8").astype(np.uint64)
    waiting = np.arange(len(values))
    while len(waiting):
        group, frontier, waiting = [waiting[0]], [waiting[0]], waiting[1:]
        while frontier and len(waiting):
            near = np.bitwise_count(hashes[waiting] ^ hashes[frontier.pop()]) <= distance
            found = waiting[near].tolist()
            group += found
            frontier += found
            waiting = waiting[~near]
        yield [values[i] for i in group]


@functools.cache
def _masks(blocks: int, distance: int) -> tuple[int, ...]:
    """One bit mask for every choice of `blocks - distance` blocks."""
    edges = [BITS * i // blocks for i in range(blocks + 1)]
    parts = [(1 << high) - (1 << low) for low, high in itertools.pairwise(edges)]
    return tuple(sum(chosen) for chosen in itertools.combinations(parts, blocks - distance))
