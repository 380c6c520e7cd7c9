"""Where every array lives: the mesh, the one table of logical-axis rules, and the rows of the batch that each process feeds.

The model names the axes of its parameters and activations by what they mean ("embed", "heads", "batch"); `RULES` says onto which mesh axes
each meaning is laid. Nothing else in the room names a mesh axis. Mesh axes, outermost first:

    data      copies of the model, one part of the batch each; the only axis that may run over the slices of a multislice
    fsdp      one part of the batch each, and parameters and optimizer state cut along their `embed` axis (ZeRO-3, arXiv 1910.02054)
    context   rows cut along their length everywhere, attention included; parameters and optimizer state cut as by fsdp
    sequence  as tensor, and between the blocks activations cut along the length (Megatron's sequence parallelism, arXiv 2205.05198)
    tensor    heads, the MLP's hidden axis and the vocabulary cut (Megatron, arXiv 1909.08053); between the blocks activations are whole

A rule table can send two axes of one array to the same mesh axis, which XLA would refuse far from the cause: `Partitioner.spec` refuses it
by name. docs/partitioning.md tells what each axis costs and how to choose.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import jax
import numpy as np

import gin
from castor.tasks.checks import is_integer
from castor.tasks.errors import ConfigurationError

MESH_AXES = ("data", "fsdp", "context", "sequence", "tensor")

RULES: dict[str, tuple[str, ...]] = {
    # Parameters.
    "vocab": ("sequence", "tensor"),
    "embed": ("fsdp", "context"),
    "heads": ("sequence", "tensor"),
    "kv_heads": (),  # one key-value head cannot be cut: every tensor shard keeps its own copy (Shazeer, arXiv 1911.02150)
    "head": (),
    "mlp": ("sequence", "tensor"),
    "norm": (),
    "layers": (),
    # Activations.
    "batch": ("data", "fsdp"),
    "length": ("context",),
    "residual_length": ("context", "sequence"),  # of the stream between the blocks
    "kv_length": (),  # keys and values of the whole row are needed by every query
    "act_embed": (),
    "act_heads": ("sequence", "tensor"),
    "act_mlp": ("sequence", "tensor"),
    "act_vocab": ("sequence", "tensor"),
}


@gin.configurable("Mesh", module="train.partitioning")
@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """The number of devices along each mesh axis. -1, for one axis at most, takes the devices that the others leave; data = None: a copy a slice."""

    data: int | None = -1
    fsdp: int = 1
    context: int = 1
    sequence: int = 1
    tensor: int = 1

    @classmethod
    def of(cls, sizes: "MeshConfig | Mapping[str, int]") -> "MeshConfig":
        """A MeshConfig from itself or from a gin dict such as {"data": 2, "fsdp": 4}.

        Axes not named have size 1, data the number of slices; where none is named, data has all devices.
        """
        if isinstance(sizes, MeshConfig):
            return sizes
        unknown = sorted(set(sizes) - set(MESH_AXES))
        if unknown:
            raise ConfigurationError(
                f"MESH names the axis {unknown[0]!r}.", f"The mesh axes are {', '.join(MESH_AXES)}."
            )
        return cls(**{"data": None} | dict(sizes)) if sizes else cls()

    def sizes(self, num_devices: int, num_slices: int = 1) -> tuple[int, ...]:
        """The sizes along MESH_AXES, -1 resolved, whose product is `num_devices`; ConfigurationError where there is none.

        num_slices: groups of devices that only the data-centre network joins; data must be a multiple of it.
        """
        sizes = tuple(num_slices if size is None else size for size in dataclasses.astuple(self))
        axes = ", ".join(f"{axis}={size}" for axis, size in zip(MESH_AXES, sizes))
        if (
            any(not is_integer(size, at_least=1) and not is_integer(size, -1, -1) for size in sizes)
            or sizes.count(-1) > 1
        ):
            raise ConfigurationError(
                f"MESH {axes} is not a mesh.",
                "Sizes are positive integers; one of them may be -1 (the devices that remain).",
            )
        known = math.prod(size for size in sizes if size != -1)
        resolved = tuple(num_devices // known if size == -1 else size for size in sizes)
        if math.prod(resolved) != num_devices:
            raise ConfigurationError(
                f"MESH {axes} does not fit the {num_devices} device(s) of this run.",
                "Make the product of the sizes equal to the devices (on a CPU, --cpu_devices=N makes N virtual ones), or give one axis -1.",
            )
        if resolved[0] % num_slices:
            crossing = ", ".join(axis for axis, size in zip(MESH_AXES[1:], resolved[1:]) if size > 1)
            raise ConfigurationError(
                f"MESH {axes}: with data={resolved[0]} the axes {crossing} would cross the {num_slices} slices, over a network too slow for them.",
                f"Make data a multiple of {num_slices}, or leave it out: then every slice holds one copy of the model.",
            )
        return resolved


@dataclasses.dataclass(frozen=True)
class Partitioner:
    """A mesh of devices and the rules that lay logical axes onto it. Hashable, so a model may hold it as a static attribute."""

    mesh: jax.sharding.Mesh
    rules: tuple[tuple[str, tuple[str, ...]], ...] = tuple(RULES.items())

    @classmethod
    def create(cls, mesh: MeshConfig | Mapping[str, int], devices: Sequence | None = None) -> "Partitioner":
        """Lays out `devices` (default: all of them, of all processes; or those of a described topology) as `mesh` says.

        Slice by slice along data, which is outermost; inside a slice neighbours on the mesh are neighbours on the chip-to-chip network.
        """
        slices = _slices(jax.devices() if devices is None else devices)
        sizes = MeshConfig.of(mesh).sizes(sum(map(len, slices)), len(slices))
        inside = (sizes[0] // len(slices), *sizes[1:])
        grid = np.concatenate([_lay_out(inside, of_slice) for of_slice in slices])
        return cls(jax.sharding.Mesh(grid, MESH_AXES, axis_types=(jax.sharding.AxisType.Auto,) * len(MESH_AXES)))

    @classmethod
    def abstract(cls, mesh: MeshConfig | Mapping[str, int], num_devices: int, num_slices: int = 1) -> "Partitioner":
        """The same of devices that are only counted: for shapes and specs, not for arrays."""
        sizes = MeshConfig.of(mesh).sizes(num_devices, num_slices)
        return cls(
            jax.sharding.AbstractMesh(sizes, MESH_AXES, axis_types=(jax.sharding.AxisType.Auto,) * len(MESH_AXES))
        )

    def size(self, logical_axis: str) -> int:
        """Into how many parts arrays are cut along `logical_axis`."""
        return math.prod(self.mesh.shape[axis] for axis in dict(self.rules)[logical_axis])

    def spec(self, logical_axes: Sequence[str | None], name: str = "an array") -> jax.sharding.PartitionSpec:
        """The PartitionSpec of an array whose axes mean `logical_axes` (None: not cut).

        Raises ConfigurationError for an axis without a rule and where two axes of the array fall on one mesh axis; the message calls it `name`.
        """
        rules, taken, entries = dict(self.rules), {}, []
        for logical in logical_axes:
            if logical is not None and logical not in rules:
                raise ConfigurationError(
                    f"{name} has the logical axis {logical!r}, which has no rule.", f"Known: {', '.join(rules)}."
                )
            mesh_axes = rules[logical] if logical is not None else ()
            for axis in mesh_axes:
                if axis in taken:
                    raise ConfigurationError(
                        f"{name} with axes {tuple(logical_axes)}: {taken[axis]!r} and {logical!r} both fall on the mesh axis {axis!r}.",
                        "Send one of them elsewhere in train.partitioning.RULES, or rename an axis of the array.",
                    )
                taken[axis] = logical
            entries.append(mesh_axes if len(mesh_axes) > 1 else mesh_axes[0] if mesh_axes else None)
        return jax.sharding.PartitionSpec(*entries)

    def sharding(self, logical_axes: Sequence[str | None], name: str = "an array") -> jax.sharding.NamedSharding:
        return jax.sharding.NamedSharding(self.mesh, self.spec(logical_axes, name))

    def replicated(self) -> jax.sharding.NamedSharding:
        return jax.sharding.NamedSharding(self.mesh, jax.sharding.PartitionSpec())

    def constrain(self, x: jax.Array, *logical_axes: str | None) -> jax.Array:
        """Tells the compiler how the activation `x` is cut; on one device, nothing. An axis of size 1 (a single token, in decoding) is left whole."""
        if self.mesh.size == 1:
            return x
        axes = [None if size == 1 else axis for axis, size in zip(logical_axes, x.shape, strict=True)]
        return jax.lax.with_sharding_constraint(x, self.sharding(axes, f"an activation of shape {x.shape}"))

    def check_divides(self, sizes: Mapping[str, tuple[str, int]]) -> None:
        """Raises ConfigurationError unless every size is a multiple of its parts. `sizes`: name for the user -> (logical axis, size)."""
        for name, (logical, size) in sizes.items():
            parts = self.size(logical)
            if size % parts:
                axes = " x ".join(
                    f"{axis}={self.mesh.shape[axis]}" for axis in dict(self.rules)[logical] if self.mesh.shape[axis] > 1
                )
                raise ConfigurationError(
                    f"{name} = {size} is not a multiple of {parts}, the mesh axes ({axes}) that cut it.",
                    f"Change {name} or MESH.",
                )

    def rows_of(self, batch_size: int) -> dict[int, tuple[int, ...]]:
        """Process -> the rows of the global batch that its devices hold, in the order of the mesh."""
        sharding = self.sharding(("batch",), "the batch")
        rows: dict[int, set[int]] = {}
        for device, (part,) in sharding.devices_indices_map((batch_size,)).items():
            rows.setdefault(device.process_index, set()).update(range(*part.indices(batch_size)))
        return {process: tuple(sorted(held)) for process, held in rows.items()}

    def data_layout(self, batch_size: int) -> tuple[int, int]:
        """(shard, number of shards) of the global batch that this process must produce for `tasks.Batches`.

        Processes that hold the same rows (because a context, sequence or tensor axis runs across them) get the same shard. The rows of a process
        need not lie side by side on the mesh, where the order of devices follows the chips' wiring: the s-th distinct set of rows takes the s-th
        shard of `batch(step)`, so the mesh holds a permutation of its rows. Raises ConfigurationError where sets of rows overlap in part.
        """
        rows = self.rows_of(batch_size)
        distinct = sorted(set(rows.values()))
        if sum(map(len, distinct)) != batch_size or len(set(map(len, distinct))) > 1:
            process, held = next(
                (p, held)
                for p, held in rows.items()
                if any(set(held) & set(other) for other in distinct if other != held)
            )
            raise ConfigurationError(
                f"process {process} holds rows {held[0]} ... {held[-1]} of the batch, some of them shared with other processes and some not.",
                "Choose MESH so that the axes data and fsdp, or all the others, divide the devices of a process evenly.",
            )
        return distinct.index(rows[jax.process_index()]), len(distinct)

    def place_batch(self, batch: Mapping[str, np.ndarray], batch_size: int) -> dict[str, jax.Array]:
        """Puts this process's rows {feature: [b, L]} on its devices as its part of the global batch [batch_size, L]."""
        sharding = self.sharding(("batch", "length"), "the batch")
        if jax.process_count() == 1:
            return {name: jax.device_put(rows, sharding) for name, rows in batch.items()}
        mine = {row: i for i, row in enumerate(self.rows_of(batch_size)[jax.process_index()])}
        return {name: _place(rows, (batch_size, *rows.shape[1:]), mine, sharding) for name, rows in batch.items()}


def _place(
    local: np.ndarray, shape: tuple[int, ...], position: Mapping[int, int], sharding: jax.sharding.NamedSharding
) -> jax.Array:
    """The global array of `shape` of which this process has the rows `local`; position: row of the global array -> row of `local`."""
    parts = []
    for device, (rows, *rest) in sharding.addressable_devices_indices_map(shape).items():
        start, stop, _ = rows.indices(shape[0])
        first = position[start]  # the rows of a device lie side by side, so they do in `local`
        parts.append(jax.device_put(local[(slice(first, first + stop - start), *rest)], device))
    return jax.make_array_from_single_device_arrays(shape, sharding, parts)


def _slices(devices: Sequence) -> list[list]:
    """The devices of each slice. Only TPU slices count: elsewhere, and on one slice, all are one."""
    slices: dict[int, list] = {}
    for device in devices:
        slices.setdefault(getattr(device, "slice_index", 0) if device.platform == "tpu" else 0, []).append(device)
    if len(set(map(len, slices.values()))) > 1:
        counts = ", ".join(f"slice {index} has {len(members)}" for index, members in sorted(slices.items()))
        raise ConfigurationError(
            f"the slices have different numbers of devices: {counts}.", "Run on slices of one shape."
        )
    return [slices[index] for index in sorted(slices)]


def _lay_out(sizes: tuple[int, ...], devices: Sequence) -> np.ndarray:
    """The devices of a slice as an array of `sizes`."""
    if devices[0].platform != "tpu":
        return np.asarray(devices).reshape(sizes)
    if len({tuple(device.coords) for device in devices}) < len(devices) and devices[0].device_kind == "TPU v4":
        raise ConfigurationError(
            "the two cores of a TPU v4 are devices of their own.",
            "Describe the topology with chip_config_name='megacore'.",
        )
    from jax.experimental import mesh_utils

    try:
        return mesh_utils.create_device_mesh(sizes, devices)
    except NotImplementedError:  # a mesh axis that takes only a part of a side of the torus
        return mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
