"""Published specifications of TPU chips, and the topologies built from them.

Peak rates, memories and links are from the system-architecture pages of the Cloud TPU documentation
(docs.cloud.google.com/tpu/docs/v4, v5e, v5p and v6e). A matrix unit does side^2 multiply-adds per cycle. The same pages
give four 128 x 128 units per core on v4, v5e and v5p, and two 256 x 256 units on v6e. The clock is the peak rate
divided by the operations per cycle. By the compiler's own estimate, matrix products of size 2048 to 16384 alone reach
81 to 98 % of the peak rate on v4, v5e and v5p, and 61 to 78 % on v6e, never more.

A torus is closed only if a slice is as long as the wiring allows: multiples of 4 on v4 and v5p, a full row of 16 on v5e
and v6e.
"""

import dataclasses
import math
import re

from castor.tasks.errors import ConfigurationError

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """One device as JAX counts them.

    peak: bfloat16 FLOP/s.
    hbm: bytes of HBM.
    hbm_bandwidth: bytes/s.
    link: bytes/s of one ICI link in one direction.
    dcn: bytes/s of one chip's share of the data-centre network.
    usable: bytes of HBM that the compiler grants a program, read from its error messages; the runtime uses the rest.
    wrap: a side that is a multiple of this closes to a ring.
    config: name that libtpu needs to describe the device, if not its default.
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
        """Cycles per second."""
        return self.peak / self.flops_per_cycle


CHIPS = {
    chip.name: chip
    for chip in (
        # Both cores of a v4 chip as one device ("megacore"), as Cloud TPU VMs expose them. The v4's DCN bandwidth is
        # not published; the value is the v5p's.
        Chip("v4", 275e12, 2 * 4 * 128**2 * 2, 32 * GIB, 30.75 * GIB, 1228e9, 50e9, 6.25e9, 4, "megacore"),
        Chip("v5e", 197e12, 4 * 128**2 * 2, 16 * GIB, 15.75 * GIB, 819e9, 50e9, 3.125e9, 16),
        Chip("v5p", 459e12, 2 * 4 * 128**2 * 2, 95 * GIB, 95.74 * GIB, 2765e9, 100e9, 6.25e9, 4),
        Chip("v6e", 918e12, 4 * 256**2 * 2, 32 * GIB, 31.25 * GIB, 1640e9, 112e9, 12.5e9, 16),
    )
}


@dataclasses.dataclass(frozen=True)
class Topology:
    """Slices of one shape.

    "v5p:8x8x8" is 512 chips in one torus. With num_slices = 2 it is 1024 chips in two tori, joined by the data-centre
    network.
    """

    chip: Chip
    shape: tuple[int, ...]
    num_slices: int = 1

    @classmethod
    def of(cls, name: str, num_slices: int = 1) -> "Topology":
        """Parses CHIP:XxYxZ. Raises ConfigurationError if the text is not a slice."""
        found = re.fullmatch(r"([a-z0-9]+):(\d+(?:x\d+)*)", name)
        if not found or num_slices < 1 or "0" in found.group(2).split("x"):
            raise ConfigurationError(
                f"--topology={name} --num_slices={num_slices} is not a topology.",
                "Write CHIP:SHAPE, such as v5e:16x16 or v5p:8x8x8, and a positive number of slices.",
            )
        if found.group(1) not in CHIPS:
            raise ConfigurationError(
                f"--topology={name}: unknown chip {found.group(1)!r}.", f"Known: {', '.join(CHIPS)}."
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
        """Number of chips of all slices."""
        return self.slice_size * self.num_slices

    def closed(self, axis: int) -> bool:
        """Whether the torus closes to a ring along this side."""
        return self.shape[axis] > 1 and self.shape[axis] % self.chip.wrap == 0
