"""Where every array lives: the mesh, the one table of logical-axis rules, and the rows of the batch that each process feeds.

The model names the axes of its parameters and activations by what they mean ("embed", "heads", "batch"); `RULES` says onto which mesh axes
each meaning is laid. Nothing else in the room names a mesh axis. Mesh axes, outermost first:

    data      copies of the model, one part of the batch each
    fsdp      one part of the batch each, and the parameters and optimizer state cut along their `embed` axis (ZeRO-3)
    sequence  activations cut along the length
    tensor    heads, the MLP's hidden axis and the vocabulary cut (Megatron)

A rule table can send two axes of one array to the same mesh axis, which XLA would refuse far from the cause: `Partitioner.spec` refuses it
by name.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import gin
import jax
import numpy as np

from tasks.errors import ConfigurationError

MESH_AXES = ("data", "fsdp", "sequence", "tensor")

RULES: dict[str, tuple[str, ...]] = {
    # Parameters.
    "vocab": ("tensor",),
    "embed": ("fsdp",),
    "heads": ("tensor",),
    "kv_heads": (),  # one key-value head cannot be cut: every tensor shard keeps its own copy (Shazeer, arXiv 1911.02150)
    "head": (),
    "mlp": ("tensor",),
    "norm": (),
    "layers": (),
    # Activations.
    "batch": ("data", "fsdp"),
    "length": ("sequence",),
    "kv_length": (),  # keys and values of the whole row are needed by every query
    "act_embed": (),
    "act_heads": ("tensor",),
    "act_mlp": ("tensor",),
    "act_vocab": ("tensor",),
}


@gin.configurable(module="train.partitioning")
@dataclasses.dataclass(frozen=True)
class Mesh:
    """The number of devices along each mesh axis. -1, for one axis at most, takes the devices that the others leave."""

    data: int = -1
    fsdp: int = 1
    sequence: int = 1
    tensor: int = 1

    @classmethod
    def of(cls, sizes: "Mesh | Mapping[str, int]") -> "Mesh":
        """A Mesh from itself or from a gin dict such as {"data": 2, "fsdp": 4}; axes not named have size 1, or all devices where none is named."""
        if isinstance(sizes, Mesh):
            return sizes
        unknown = sorted(set(sizes) - set(MESH_AXES))
        if unknown:
            raise ConfigurationError(f"MESH names the axis {unknown[0]!r}.", f"The mesh axes are {', '.join(MESH_AXES)}.")
        return cls(**{axis: sizes.get(axis, 1) for axis in MESH_AXES}) if sizes else cls()

    def sizes(self, num_devices: int) -> tuple[int, ...]:
        """The four sizes, -1 resolved, whose product is `num_devices`; ConfigurationError where there is none."""
        sizes = dataclasses.astuple(self)
        said = ", ".join(f"{axis}={size}" for axis, size in zip(MESH_AXES, sizes))
        if any(not isinstance(size, int) or (size < 1 and size != -1) for size in sizes) or sizes.count(-1) > 1:
            raise ConfigurationError(f"MESH {said} is not a mesh.", "Sizes are positive integers; one of them may be -1 (the devices that remain).")
        known = math.prod(size for size in sizes if size != -1)
        resolved = tuple(num_devices // known if size == -1 else size for size in sizes)
        if math.prod(resolved) != num_devices:
            raise ConfigurationError(
                f"MESH {said} does not fit the {num_devices} device(s) of this run.",
                "Make the product of the sizes equal to the devices (on a CPU, --cpu_devices=N makes N virtual ones), or give one axis -1.",
            )
        return resolved


@dataclasses.dataclass(frozen=True)
class Partitioner:
    """A mesh of devices and the rules that lay logical axes onto it. Hashable, so a model may hold it as a static attribute."""

    mesh: jax.sharding.Mesh
    rules: tuple[tuple[str, tuple[str, ...]], ...] = tuple(RULES.items())

    @classmethod
    def create(cls, mesh: Mesh | Mapping[str, int], devices: Sequence | None = None) -> "Partitioner":
        """Lays out `devices` (default: all of them, of all processes) as `mesh` says."""
        if devices is None:
            devices = jax.devices()
        sizes = Mesh.of(mesh).sizes(len(devices))
        if len(devices) == jax.device_count() and devices[0].platform != "cpu":
            from jax.experimental import mesh_utils

            grid = mesh_utils.create_device_mesh(sizes, devices=devices)  # neighbours on the mesh are neighbours on the chip-to-chip network
        else:
            grid = np.asarray(devices).reshape(sizes)
        return cls(jax.sharding.Mesh(grid, MESH_AXES, axis_types=(jax.sharding.AxisType.Auto,) * len(MESH_AXES)))

    def size(self, logical_axis: str) -> int:
        """Into how many parts arrays are cut along `logical_axis`."""
        return math.prod(self.mesh.shape[axis] for axis in dict(self.rules)[logical_axis])

    def spec(self, logical_axes: Sequence[str | None], name: str = "an array") -> jax.sharding.PartitionSpec:
        """The PartitionSpec of an array whose axes mean `logical_axes` (None: not cut).

        Raises ConfigurationError for an axis without a rule and where two axes of the array fall on one mesh axis; `name` is the array's, for the message.
        """
        rules, taken, entries = dict(self.rules), {}, []
        for logical in logical_axes:
            if logical is not None and logical not in rules:
                raise ConfigurationError(f"{name} has the logical axis {logical!r}, which has no rule.", f"Known: {', '.join(rules)}.")
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
        """Tells the compiler how the activation `x` is cut; on one device, nothing."""
        if self.mesh.size == 1:
            return x
        return jax.lax.with_sharding_constraint(x, self.sharding(logical_axes, f"an activation of shape {x.shape}"))

    def check_divides(self, sizes: Mapping[str, tuple[str, int]]) -> None:
        """Raises ConfigurationError unless every size is a multiple of its parts. `sizes`: name for the user -> (logical axis, size)."""
        for name, (logical, size) in sizes.items():
            parts = self.size(logical)
            if size % parts:
                axes = " x ".join(f"{axis}={self.mesh.shape[axis]}" for axis in dict(self.rules)[logical])
                raise ConfigurationError(
                    f"{name} = {size} is not a multiple of {parts}, the mesh axes ({axes}) that cut it.",
                    f"Change {name} or MESH.",
                )

    def data_layout(self, batch_size: int) -> tuple[int, int]:
        """(shard, number of shards) of the global batch that this process must produce for `tasks.Batches`.

        Processes that hold the same rows (because a tensor or sequence axis runs across them) get the same shard. Raises ConfigurationError if
        the rows of a process are not one aligned block of the batch.
        """
        rows_sharding = jax.sharding.NamedSharding(self.mesh, self.spec(("batch",), "the batch"))
        slices = rows_sharding.addressable_devices_indices_map((batch_size,)).values()
        rows = sorted({row for (part,) in slices for row in range(*part.indices(batch_size))})
        first, count = rows[0], len(rows)
        if rows[-1] - first + 1 != count or batch_size % count or first % count:
            raise ConfigurationError(
                f"process {jax.process_index()} would hold scattered rows of the batch (first {first}, last {rows[-1]}, {count} in all).",
                "Order the mesh so that the data and fsdp axes run over whole processes.",
            )
        return first // count, batch_size // count

    def place_batch(self, batch: Mapping[str, np.ndarray], batch_size: int) -> dict[str, jax.Array]:
        """Puts this process's rows {feature: [b, L]} on its devices as its part of the global batch [batch_size, L]."""
        sharding = self.sharding(("batch", "length"), "the batch")
        if jax.process_count() == 1:
            return {name: jax.device_put(rows, sharding) for name, rows in batch.items()}
        shape = (batch_size,)
        with jax.transfer_guard("allow"):  # asked for by name, yet JAX counts it among the implicit transfers
            return {name: jax.make_array_from_process_local_data(sharding, rows, shape + rows.shape[1:]) for name, rows in batch.items()}
