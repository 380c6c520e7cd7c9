"""Sharding report: shape, logical axes, sharding and bytes per device of every array of a training run.

Everything is computed from shapes and rules, for any mesh, without devices or allocations. For the compiler's own
scratch memory, run `castor compile`.
"""

import dataclasses
import math

import jax
import numpy as np

from castor.train.model.decoder import DTYPES, parameter_name
from castor.train.partitioning import Partitioner
from castor.train.step import TrainStep


@dataclasses.dataclass(frozen=True)
class ShardedArray:
    """One array and how the mesh shards it.

    kind: "parameters", "optimizer" or "activations".
    name, shape: of the whole array.
    axes: logical axes.
    cut: the mesh axes that shard the array, with their sizes.
    total: bytes of the whole array.
    local: bytes per device.
    copies: number of devices that hold the same shard.
    """

    kind: str
    name: str
    shape: tuple[int, ...]
    dtype: str
    axes: tuple[str | None, ...]
    cut: tuple[str, ...]
    total: int
    local: int
    copies: int

    @classmethod
    def of(
        cls, kind: str, name: str, shape: tuple[int, ...], dtype, axes: tuple[str | None, ...], partitioner: Partitioner
    ) -> "ShardedArray":
        """Shards an array by the partitioner's rules.

        Raises ConfigurationError if two axes map to one mesh axis, or the mesh does not divide an axis.
        """
        partitioner.spec(axes, name)
        partitioner.check_divides(
            {f"{name} axis {i} ({axis})": (axis, size) for i, (axis, size) in enumerate(zip(axes, shape)) if axis}
        )
        rules, sizes = dict(partitioner.rules), partitioner.mesh.shape
        mesh_axes = [
            [(axis, sizes[axis]) for axis in (rules[logical] if logical else ()) if sizes[axis] > 1] for logical in axes
        ]
        shards = math.prod(size for along in mesh_axes for _, size in along)
        total = math.prod(shape) * np.dtype(dtype).itemsize
        cut = tuple(" ".join(f"{axis}={size}" for axis, size in along) for along in mesh_axes)
        return cls(
            kind,
            name,
            tuple(shape),
            np.dtype(dtype).name,
            tuple(axes),
            cut,
            total,
            total // shards,
            partitioner.mesh.size // shards,
        )

    @property
    def whole(self) -> bool:
        """Whether every device holds the whole array."""
        return self.local == self.total


def state(train_step: TrainStep) -> list[ShardedArray]:
    """Every parameter and every array of the optimizer's state."""
    shapes, axes = train_step.abstract_state(), train_step.logical_axes()
    result = []
    for kind in ("parameters", "optimizer"):
        of_axes = jax.tree_util.tree_structure(getattr(shapes, kind)).flatten_up_to(getattr(axes, kind))
        for (path, leaf), names in zip(jax.tree_util.tree_leaves_with_path(getattr(shapes, kind)), of_axes):
            result.append(
                ShardedArray.of(kind, parameter_name(path), leaf.shape, leaf.dtype, names, train_step.partitioner)
            )
    return result


def activations(train_step: TrainStep, rows: int, length: int) -> list[ShardedArray]:
    """The largest activations whose size follows from the configuration alone, for the rows of one microbatch."""
    model, rows_per_microbatch = train_step.model, rows // train_step.accumulate
    partitioner = train_step.partitioner
    named = {
        # The scan over layers keeps the input of each layer for the backward pass, whatever is recomputed.
        f"input of each of the {model.layers} layers": (
            (model.layers, rows_per_microbatch, length, model.embed),
            ("layers", "batch", "residual_length", "act_embed"),
        ),
        "queries of a layer": (
            (rows_per_microbatch, length, model.heads, model.head_dim),
            ("batch", "length", "act_heads", "head"),
        ),
        "keys or values of a layer": (
            (rows_per_microbatch, length, model.kv_heads, model.head_dim),
            ("batch", "kv_length", "kv_heads", "head"),
        ),
        "gate or up of a layer": ((rows_per_microbatch, length, model.mlp), ("batch", "length", "act_mlp")),
    }
    return [
        ShardedArray.of("activations", name, shape, DTYPES[model.dtype], axes, partitioner)
        for name, (shape, axes) in named.items()
    ]


def totals(arrays: list[ShardedArray]) -> dict[str, tuple[int, int]]:
    """Kind -> (bytes of all its arrays, bytes per device)."""
    result: dict[str, tuple[int, int]] = {}
    for row in arrays:
        total, local = result.get(row.kind, (0, 0))
        result[row.kind] = total + row.total, local + row.local
    return result
