"""What Google publishes of its TPU chips, and what of it a prediction rests on.

Peak rates, memories and links are from the system-architecture pages of the Cloud TPU documentation (docs.cloud.google.com/tpu/docs/v4, v5e,
v5p and v6e). A matrix unit does side^2 multiply-adds a cycle: chips with four 128 x 128 units (v4 and v5e a core; v5p two cores) or two
256 x 256 units (v6e) follow from the same pages, and the clock is the peak rate over the operations of a cycle. Compiled alone, matrix products
of 2048 to 16384 a side come to 81 to 98 % of the peak rate by the compiler's own estimate on v4, v5e and v5p, to 61 to 78 % on v6e, and never
above it.

A torus is closed only where a slice is as long as the wiring allows: whole cubes of 4 on v4 and v5p, a whole row of 16 on v5e and v6e.
"""

import dataclasses
import math
import re

from castor.tasks.errors import ConfigurationError

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """One device as JAX counts them. peak: bfloat16 FLOP/s. hbm: bytes. hbm_bandwidth, link (one ICI link, one way), dcn (a chip's share): bytes/s.

    usable: bytes of HBM that the compiler grants a program (read from its own refusals; the rest is the runtime's).
    wrap: a side that is a multiple of this is closed to a ring. config: name that libtpu needs to describe the device, where it is not its default.
    """

    name: str
    peak: float
    flops_per_cycle: int
    hbm: float
    usable: float
    hbm_bandwidth: float
    link: float
    dcn: float
    wrap: int
    config: str | None = None

    @property
    def clock(self) -> float:
        """Hz."""
        return self.peak / self.flops_per_cycle


CHIPS = {
    chip.name: chip
    for chip in (
        # Both cores of a v4 chip as one device ("megacore"), as Cloud TPU VMs show it. Its network share is not published: taken as v5p's.
        Chip("v4", 275e12, 2 * 4 * 128**2 * 2, 32 * GIB, 30.75 * GIB, 1228e9, 50e9, 6.25e9, 4, "megacore"),
        Chip("v5e", 197e12, 4 * 128**2 * 2, 16 * GIB, 15.75 * GIB, 819e9, 50e9, 3.125e9, 16),
        Chip("v5p", 459e12, 2 * 4 * 128**2 * 2, 95 * GIB, 95.74 * GIB, 2765e9, 100e9, 6.25e9, 4),
        Chip("v6e", 918e12, 4 * 256**2 * 2, 32 * GIB, 31.25 * GIB, 1640e9, 112e9, 12.5e9, 16),
    )
}


@dataclasses.dataclass(frozen=True)
class Topology:
    """Slices of one shape: "v5p:8x8x8" is 512 chips in one torus; with num_slices = 2, 1024 in two that meet over the data-centre network."""

    chip: Chip
    shape: tuple[int, ...]
    num_slices: int = 1

    @classmethod
    def of(cls, name: str, num_slices: int = 1) -> "Topology":
        """From CHIP:XxYxZ. Raises ConfigurationError for what is not a slice."""
        found = re.fullmatch(r"([a-z0-9]+):(\d+(?:x\d+)*)", name)
        if not found or num_slices < 1 or "0" in found.group(2).split("x"):
            raise ConfigurationError(
                f"--topology={name} --num_slices={num_slices} is not a topology.",
                "Write CHIP:SHAPE, such as v5e:16x16 or v5p:8x8x8; slices from 1.",
            )
        if found.group(1) not in CHIPS:
            raise ConfigurationError(
                f"--topology={name}: nothing is known of the chip {found.group(1)!r}.", f"Known: {', '.join(CHIPS)}."
            )
        shape = tuple(map(int, found.group(2).split("x")))
        sides = 2 if CHIPS[found.group(1)].wrap == 16 else 3
        if len(shape) != sides:
            raise ConfigurationError(
                f"--topology={name} has {len(shape)} sides.", f"A slice of {found.group(1)} has {sides}."
            )
        return cls(CHIPS[found.group(1)], shape, num_slices)

    @property
    def name(self) -> str:
        return f"{self.chip.name}:{'x'.join(map(str, self.shape))}"

    @property
    def slice_size(self) -> int:
        return math.prod(self.shape)

    @property
    def size(self) -> int:
        """Chips of all slices."""
        return self.slice_size * self.num_slices

    def closed(self, axis: int) -> bool:
        """Whether the torus is a ring along this side."""
        return self.shape[axis] > 1 and self.shape[axis] % self.chip.wrap == 0
