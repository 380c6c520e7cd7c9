"""Communication between chips: the devices, mesh axes and network of each collective, and its minimal time.

A compiled program identifies devices by their index in the mesh. `Fabric` maps each index to its position on the torus.
A group of devices is thereby mapped back to the mesh axes along which it runs, and to the number of links on which a
member can receive. Times are those of the classical ring and torus algorithms on otherwise idle links, without start-up
latency: a lower bound, and a good one for large arrays.
"""

import dataclasses
import functools
import itertools
import math
import re

import numpy as np

from castor.train.compiler.chips import Topology
from castor.train.compiler.hlo import Computation, Instruction, Program

KINDS = (
    "all-gather",
    "reduce-scatter",
    "all-reduce",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)

_GROUPS = re.compile(
    r"replica_groups=("
    r"mesh\[[^\]]*\](?:,? *device_ids=\(.*?\)\))?(?: *\{[^}]*\})?"  # mesh['a'=8,'b'=2], device_ids=([8,2]T(1,0)) {'a'}
    r"|\[[\d,]+\]<=\[[\d,]+\](?:T\([\d,]+\))?"  # [2,8]<=[8,2]T(1,0)
    r"|\{.*?\}\}|\{\})"  # {{0,1},{2,3}} and {}
)


def kind_of(instruction: Instruction) -> str | None:
    """The kind of a collective or of its start; None for other instructions."""
    kind = instruction.op.removesuffix("-start")
    return kind if kind in KINDS else None


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective of a program, run once.

    kind: such as "all-gather".
    axes: mesh axes along which its group runs.
    network: "ICI" inside a slice, "DCN" between slices, "ICI+DCN".
    group: number of devices in the group.
    payload: bytes of the larger of input and output on one device.
    wire: bytes that a device receives.
    seconds: minimal time.
    channel: identifies the start and end of one asynchronous collective.
    lane: collectives of different lanes do not wait for each other.
    source: where in the traced program the collective comes from.
    """

    kind: str
    axes: tuple[str, ...]
    network: str
    group: int
    dtype: str
    payload: float
    wire: float
    seconds: float
    channel: str
    lane: str
    source: str


@dataclasses.dataclass(frozen=True, eq=False)
class Fabric:
    """Where the devices of a mesh are on slices of chips.

    axes, sizes: of the mesh.
    coordinates: [devices, sides] on the torus, in mesh order.
    slices: [devices], in mesh order.
    """

    topology: Topology
    axes: tuple[str, ...]
    sizes: tuple[int, ...]
    coordinates: np.ndarray
    slices: np.ndarray

    @classmethod
    def of(cls, mesh, topology: Topology) -> "Fabric":
        """The fabric of a jax.sharding.Mesh of described devices."""
        devices = list(mesh.devices.flat)
        coordinates = np.array([device.coords[: len(topology.shape)] for device in devices])
        slices = np.array([getattr(device, "slice_index", None) or 0 for device in devices])
        return cls(topology, tuple(mesh.axis_names), tuple(mesh.devices.shape), coordinates, slices)

    def places(self, devices: np.ndarray) -> np.ndarray:
        """Device indices [...] -> mesh coordinates [..., axes]."""
        return np.stack(np.unravel_index(devices, self.sizes), axis=-1)

    def mesh_axes(self, groups: np.ndarray) -> tuple[str, ...]:
        """The axes along which the members of a group differ. groups: [number, members]."""
        places = self.places(groups)
        varied = (places != places[:, :1]).any(axis=(0, 1))
        return tuple(axis for axis, moves in zip(self.axes, varied) if moves)

    def links(self, members: np.ndarray) -> float:
        """ICI links on which a member of a group [members] of one slice can receive.

        A closed side of the torus counts two links, an open one counts one. Members `stride` apart share their links
        with the groups between them.
        """
        total = 0.0
        for axis, side in enumerate(self.topology.shape):
            values = np.unique(self.coordinates[members, axis])
            if len(values) < 2:
                continue
            stride = int(np.diff(values).min())
            ring = self.topology.closed(axis) and len(values) * stride == side
            total += (2.0 if ring else 1.0) / stride
        return max(total, 1.0)

    def hops(self, members: np.ndarray) -> float:
        """Mean number of links between two members, in rings."""
        lengths = [len(np.unique(side)) for side in self.coordinates[members].T]
        return sum(length for length in lengths if length > 1) / 4

    def seconds(self, kind: str, members: np.ndarray, sent: float) -> float:
        """Minimal time of `kind` in a group [members], over ICI and DCN. sent: bytes of input per member."""
        slices, counts = np.unique(self.slices[members], return_counts=True)
        local, remote = int(counts.max()), len(slices)
        near = members[self.slices[members] == slices[0]]
        chip, links = self.topology.chip, self.links(near)
        if kind == "all-gather":
            near_bytes, far_bytes = sent * remote * (local - 1), sent * (remote - 1)
        elif kind == "reduce-scatter":
            near_bytes, far_bytes = sent * (local - 1) / local, sent / local * (remote - 1) / remote
        elif kind == "all-reduce":
            near_bytes, far_bytes = 2 * sent * (local - 1) / local, 2 * sent / local * (remote - 1) / remote
        elif kind.endswith("all-to-all"):
            near_bytes, far_bytes = sent * self.hops(near) if local > 1 else 0.0, sent * (remote - 1) / remote
        else:
            near_bytes, far_bytes, links = (sent, 0.0, 1.0) if remote == 1 else (0.0, sent, 1.0)
        return near_bytes / (links * chip.link) + far_bytes / chip.dcn


def describe(program: Program, computation: Computation, instruction: Instruction, fabric: Fabric) -> Collective:
    """The Collective of an instruction; `instruction` is the collective or its start."""
    kind = kind_of(instruction)
    if kind == "all-reduce" and any(user.op == "dynamic-slice" for user in computation.users.get(instruction.name, ())):
        kind = "reduce-scatter"  # the TPU compiler's form of a reduce-scatter inside a fusion
    inputs = [
        array
        for name in instruction.operands
        if name in computation.instructions
        for array in computation.instructions[name].arrays
    ]
    sent = sum(array.nbytes for array in inputs)
    pairs = re.search(r"source_target_pairs=\{(\{.*?\})\}", instruction.attributes)
    lane = "ring"
    if pairs:
        groups = _pairs(pairs.group(1))
        moving = groups[groups[:, 0] != groups[:, 1]]
        groups = moving if len(moving) else groups
        across = groups[fabric.slices[groups[:, 0]] != fabric.slices[groups[:, 1]]]
        members, size, wire = (across if len(across) else groups)[0], len(groups), sent
        lane = f"permute {groups[0, 0]}-{groups[0, 1]}"  # the two directions of a ring are two lanes
    else:
        groups = replica_groups(instruction.attributes, program.num_partitions)
        members, size = groups[0], groups.shape[1]
        share = (size - 1) / size
        wire = {"all-gather": sent * (size - 1), "all-reduce": 2 * sent * share}.get(kind, sent * share)
    slices = np.unique(fabric.slices[members], return_counts=True)[1]
    network = "ICI" if len(slices) == 1 else "DCN" if slices.max() == 1 else "ICI+DCN"
    channel = re.search(r"channel_id=(\d+)", instruction.attributes)
    return Collective(
        kind=kind,
        axes=fabric.mesh_axes(groups),
        network=network,
        group=size,
        dtype=max(inputs, key=lambda array: array.nbytes).dtype if inputs else "",
        payload=sent * size if kind == "all-gather" else sent,
        wire=wire,
        seconds=fabric.seconds(kind, members, sent) if size > 1 else 0.0,
        channel=channel.group(1) if channel else instruction.name,
        lane=lane,
        source=instruction.op_name,
    )


# --------------------------------------------------------------------------------------------------------------- groups


def replica_groups(attributes: str, num_partitions: int) -> np.ndarray:
    """The device groups [number, members] of an instruction's attributes, in any HLO notation.

    Default: one group of all devices.
    """
    found = _GROUPS.search(attributes)
    text = found.group(1) if found else "{}"
    return _groups(text, num_partitions)


@functools.lru_cache(maxsize=4096)
def _groups(text: str, num_partitions: int) -> np.ndarray:
    if text.startswith("mesh"):
        return _mesh_groups(text)
    if text.startswith("["):
        return _iota(text)
    groups = [[int(number) for number in group.split(",")] for group in re.findall(r"\{([\d,]+)\}", text)]
    return np.array(groups) if groups else np.arange(num_partitions)[None]


def _iota(text: str) -> np.ndarray:
    """[4,2]<=[2,4]T(1,0): the integers 0 ... 7 reshaped to 2 x 4, transposed, and split into 4 groups of 2."""
    shape, source, order = re.fullmatch(r"\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", text).groups()
    sizes = _numbers(source)
    numbers = np.arange(math.prod(sizes)).reshape(sizes)
    return (numbers.transpose(_numbers(order)) if order else numbers).reshape(_numbers(shape))


def _mesh_groups(text: str) -> np.ndarray:
    """mesh['a'=8,'b'=2], device_ids=([8,2]T(1,0)) {'a'}: groups along the axes named last, of a mesh that the compiler
    defines.

    An axis may be split: 'a':(2)4 is the sub-axis of size 4 that follows a sub-axis of size 2.
    """
    axes = [(name, int(size)) for name, size in re.findall(r"'([^']+)'=(\d+)", text[: text.index("]")])]
    sizes = [size for _, size in axes]
    numbers = np.arange(math.prod(sizes))
    placed = re.search(r"device_ids=\(\[([\d,]+)\](?:<=\[([\d,]+)\])?(?:T\(([\d,]+)\))?\)", text)
    if placed:
        source = _numbers(placed.group(2) or placed.group(1))
        laid = numbers.reshape(source)
        numbers = laid.transpose(_numbers(placed.group(3))) if placed.group(3) else laid
    chosen = re.search(r"\{([^}]*)\}$", text)
    split, picked = [], []
    wanted = re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", chosen.group(1)) if chosen else []
    for name, size in axes:
        bounds = [(int(before), int(before) * int(part)) for axis, before, part in wanted if axis == name and before]
        parts = sorted({1, size, *itertools.chain.from_iterable(bounds)})
        for low, high in zip(parts, parts[1:]) if size > 1 else ((1, 1),):
            inside = any(
                axis == name and (not before or int(before) <= low < int(before) * int(part))
                for axis, before, part in wanted
            )
            if inside:
                picked.append(len(split))
            split.append(high // low)
    kept = [axis for axis in range(len(split)) if axis not in picked]
    members = math.prod(split[axis] for axis in picked)
    return numbers.reshape(split).transpose(kept + picked).reshape(-1, members)


def _pairs(text: str) -> np.ndarray:
    return np.array([[int(source), int(target)] for source, target in re.findall(r"\{(\d+),(\d+)\}", text)])


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(","))
