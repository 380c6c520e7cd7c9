"""Sharding: the mesh, the table of logical-axis rules, and the batch rows that each process supplies.

The model names the axes of its parameters and activations by meaning ("embed", "heads", "batch"). `RULES` maps each
meaning to mesh axes. Nothing else in this room names a mesh axis. Mesh axes, outermost first:

    data      replicas of the model, each with a share of the batch; the only axis that may span the slices of a
              multislice
    fsdp      shares of the batch; parameters and optimizer state are sharded along `embed` (ZeRO-3, arXiv 1910.02054)
    context   rows are split along their length, attention included; parameters and optimizer state are sharded as by
              fsdp
    sequence  like tensor; between blocks activations are also split along the length (Megatron's sequence parallelism,
              arXiv 2205.05198)
    tensor    heads, the MLP's hidden axis and the vocabulary are split (Megatron, arXiv 1909.08053); between blocks
              activations are not split

A rule table can map two axes of one array to the same mesh axis. XLA would report that far from its cause, so
`Partitioner.spec` rejects the array by name. docs/partitioning.md describes what each axis costs and how to choose.
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
    "kv_heads": (),  # one key-value head cannot be split: every tensor shard keeps a copy (Shazeer, arXiv 1911.02150)
    "head": (),
    "mlp": ("sequence", "tensor"),
    "norm": (),
    "layers": (),
    # Activations.
    "batch": ("data", "fsdp"),
    "length": ("context",),
    "residual_length": ("context", "sequence"),  # of the residual stream between blocks
    "kv_length": (),  # every query needs the keys and values of the whole row
    "act_embed": (),
    "act_heads": ("sequence", "tensor"),
    "act_mlp": ("sequence", "tensor"),
    "act_vocab": ("sequence", "tensor"),
}


@gin.configurable("Mesh", module="train.partitioning")
@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """The number of devices along each mesh axis.

    data: number of replicas of the model; None: one per slice.
    fsdp, context, sequence, tensor: number of shards along each axis. One axis, data included, may be -1: it takes the
        remaining devices.
    """

    data: int | None = -1
    fsdp: int = 1
    context: int = 1
    sequence: int = 1
    tensor: int = 1

    @classmethod
    def of(cls, sizes: "MeshConfig | Mapping[str, int]") -> "MeshConfig":
        """A MeshConfig from itself or from a gin dict such as {"data": 2, "fsdp": 4}.

        In a dict, axes not named have size 1 and data the number of slices. An empty dict puts all devices on data.
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
        """The sizes along MESH_AXES with -1 resolved; their product is `num_devices`.

        num_devices: devices of all slices.
        num_slices: groups of devices connected only by the data-centre network; data must be a multiple of it.

        Raises ConfigurationError if no such sizes exist.
        """
        sizes = tuple(num_slices if size is None else size for size in dataclasses.astuple(self))
        axes = ", ".join(f"{axis}={size}" for axis, size in zip(MESH_AXES, sizes))
        if (
            any(not is_integer(size, at_least=1) and not is_integer(size, -1, -1) for size in sizes)
            or sizes.count(-1) > 1
        ):
            raise ConfigurationError(
                f"MESH {axes} is not a mesh.",
                "Sizes are positive integers; one of them may be -1 (the remaining devices).",
            )
        known = math.prod(size for size in sizes if size != -1)
        resolved = tuple(num_devices // known if size == -1 else size for size in sizes)
        if math.prod(resolved) != num_devices:
            raise ConfigurationError(
                f"MESH {axes} does not fit the {num_devices} device(s) of this run.",
                "Make the product of the sizes equal to the number of devices, or set one axis to -1. On a CPU, "
                "--cpu_devices=N makes N virtual devices.",
            )
        if resolved[0] % num_slices:
            crossing = ", ".join(axis for axis, size in zip(MESH_AXES[1:], resolved[1:]) if size > 1)
            raise ConfigurationError(
                f"MESH {axes}: with data={resolved[0]} the axes {crossing} would cross the {num_slices} slices, over "
                "a network too slow for them.",
                f"Make data a multiple of {num_slices}, or omit data: every slice then holds one replica of the model.",
            )
        return resolved


@dataclasses.dataclass(frozen=True)
class Partitioner:
    """A mesh of devices and the rules that map logical axes to it.

    Hashable, so a model may hold it as a static attribute.
    """

    mesh: jax.sharding.Mesh
    rules: tuple[tuple[str, tuple[str, ...]], ...] = tuple(RULES.items())

    @classmethod
    def create(cls, mesh: MeshConfig | Mapping[str, int], devices: Sequence | None = None) -> "Partitioner":
        """A partitioner whose mesh arranges `devices` as `mesh` says.

        mesh: sizes of the mesh axes.
        devices: default: all devices of all processes. May be the devices of a described topology.

        Slices are laid out one after the other along data, the outermost axis. Inside a slice, neighbours on the mesh
        are neighbours on the chip-to-chip network.
        """
        slices = _slices(jax.devices() if devices is None else devices)
        sizes = MeshConfig.of(mesh).sizes(sum(map(len, slices)), len(slices))
        inside = (sizes[0] // len(slices), *sizes[1:])
        grid = np.concatenate([_lay_out(inside, of_slice) for of_slice in slices])
        return cls(jax.sharding.Mesh(grid, MESH_AXES, axis_types=(jax.sharding.AxisType.Auto,) * len(MESH_AXES)))

    @classmethod
    def abstract(cls, mesh: MeshConfig | Mapping[str, int], num_devices: int, num_slices: int = 1) -> "Partitioner":
        """A partitioner without real devices, given only their number: for shapes and specs, not for arrays."""
        sizes = MeshConfig.of(mesh).sizes(num_devices, num_slices)
        return cls(
            jax.sharding.AbstractMesh(sizes, MESH_AXES, axis_types=(jax.sharding.AxisType.Auto,) * len(MESH_AXES))
        )

    def size(self, logical_axis: str) -> int:
        """The number of shards of arrays along `logical_axis`."""
        return math.prod(self.mesh.shape[axis] for axis in dict(self.rules)[logical_axis])

    def spec(self, logical_axes: Sequence[str | None], name: str = "an array") -> jax.sharding.PartitionSpec:
        """The PartitionSpec of an array whose axes mean `logical_axes` (None: not split).

        name: name of the array for error messages.

        Raises ConfigurationError for an axis without a rule, and if two axes of the array map to one mesh axis.
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
                        f"{name} with axes {tuple(logical_axes)}: {taken[axis]!r} and {logical!r} both map to the "
                        f"mesh axis {axis!r}.",
                        "Map one of them to another mesh axis in train.partitioning.RULES, or rename an axis of the "
                        "array.",
                    )
                taken[axis] = logical
            entries.append(mesh_axes if len(mesh_axes) > 1 else mesh_axes[0] if mesh_axes else None)
        return jax.sharding.PartitionSpec(*entries)

    def sharding(self, logical_axes: Sequence[str | None], name: str = "an array") -> jax.sharding.NamedSharding:
        return jax.sharding.NamedSharding(self.mesh, self.spec(logical_axes, name))

    def replicated(self) -> jax.sharding.NamedSharding:
        return jax.sharding.NamedSharding(self.mesh, jax.sharding.PartitionSpec())

    def constrain(self, x: jax.Array, *logical_axes: str | None) -> jax.Array:
        """Constrains the sharding of the activation `x`; does nothing on a single device.

        An axis of size 1 (a single token, in decoding) is not split.
        """
        if self.mesh.size == 1:
            return x
        axes = [None if size == 1 else axis for axis, size in zip(logical_axes, x.shape, strict=True)]
        return jax.lax.with_sharding_constraint(x, self.sharding(axes, f"an activation of shape {x.shape}"))

    def check_divides(self, sizes: Mapping[str, tuple[str, int]]) -> None:
        """Raises ConfigurationError unless every size is a multiple of its number of shards.

        sizes: name for the user -> (logical axis, size).
        """
        for name, (logical, size) in sizes.items():
            shards = self.size(logical)
            if size % shards:
                axes = " x ".join(
                    f"{axis}={self.mesh.shape[axis]}" for axis in dict(self.rules)[logical] if self.mesh.shape[axis] > 1
                )
                raise ConfigurationError(
                    f"{name} = {size} is not a multiple of {shards}, the size of the mesh axes ({axes}) that split it.",
                    f"Change {name} or MESH.",
                )

    def rows_of(self, batch_size: int) -> dict[int, tuple[int, ...]]:
        """Process -> rows of the global batch that its devices hold, in mesh order."""
        sharding = self.sharding(("batch",), "the batch")
        rows: dict[int, set[int]] = {}
        for device, (part,) in sharding.devices_indices_map((batch_size,)).items():
            rows.setdefault(device.process_index, set()).update(range(*part.indices(batch_size)))
        return {process: tuple(sorted(held)) for process, held in rows.items()}

    def data_layout(self, batch_size: int) -> tuple[int, int]:
        """(shard, number of shards) of the global batch that this process must produce with `tasks.Batches`.

        Processes that hold the same rows (because a context, sequence or tensor axis spans them) get the same shard.
        The rows of a process need not be adjacent on the mesh, where devices follow the wiring of the chips. The s-th
        distinct set of rows takes the s-th shard of `batch(step)`, so the mesh holds a permutation of the rows. Raises
        ConfigurationError if sets of rows overlap partially.
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
                f"process {process} holds rows {held[0]} ... {held[-1]} of the batch, but shares only some of them "
                "with other processes.",
                "Choose MESH so that the axes data and fsdp, or all the others, divide the devices of a process "
                "evenly.",
            )
        return distinct.index(rows[jax.process_index()]), len(distinct)

    def place_batch(self, batch: Mapping[str, np.ndarray], batch_size: int) -> dict[str, jax.Array]:
        """This process's rows on its devices, as part of the global batch [batch_size, L].

        batch: {feature: [b, L]}, the rows of this process.
        batch_size: rows of the global batch.
        """
        sharding = self.sharding(("batch", "length"), "the batch")
        if jax.process_count() == 1:
            return {name: jax.device_put(rows, sharding) for name, rows in batch.items()}
        mine = {row: i for i, row in enumerate(self.rows_of(batch_size)[jax.process_index()])}
        return {name: _place(rows, (batch_size, *rows.shape[1:]), mine, sharding) for name, rows in batch.items()}


def _place(
    local: np.ndarray, shape: tuple[int, ...], position: Mapping[int, int], sharding: jax.sharding.NamedSharding
) -> jax.Array:
    """The global array of `shape`, of which this process supplies the rows `local`.

    position: row of the global array -> row of `local`.
    """
    parts = []
    for device, (rows, *rest) in sharding.addressable_devices_indices_map(shape).items():
        start, stop, _ = rows.indices(shape[0])
        first = position[start]  # the rows of a device are adjacent, in `local` too
        parts.append(jax.device_put(local[(slice(first, first + stop - start), *rest)], device))
    return jax.make_array_from_single_device_arrays(shape, sharding, parts)


def _slices(devices: Sequence) -> list[list]:
    """The devices of each slice. Only TPUs have slices; other devices, and TPUs of one slice, form a single group."""
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
    """The devices of a slice as an array of shape `sizes`."""
    if devices[0].platform != "tpu":
        return np.asarray(devices).reshape(sizes)
    if len({tuple(device.coords) for device in devices}) < len(devices) and devices[0].device_kind == "TPU v4":
        raise ConfigurationError(
            "the two cores of a TPU v4 are separate devices.",
            "Describe the topology with chip_config_name='megacore'.",
        )
    from jax.experimental import mesh_utils

    try:
        return mesh_utils.create_device_mesh(sizes, devices)
    except NotImplementedError:  # a mesh axis shorter than a side of the torus
        return mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
