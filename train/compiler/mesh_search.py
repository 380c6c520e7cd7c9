"""Mesh search: all meshes, remat policies and microbatch counts that divide the model, ranked by a rough cost model.

Compilation takes a minute, so of thousands of candidates only the most promising are compiled. The rough model only
ranks them: bytes of state and activations, FLOPs, and bytes through each mesh axis at the bandwidth of its links on the
torus. The compiler decides.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence

from castor.tasks.errors import ConfigurationError
from castor.train.compiler.chips import Topology

MAX_TENSOR = 64  # a larger axis never pays off: every block sums its activations over the axis twice
EFFICIENCY = 0.65  # share of the peak rate that matrix products in a step reach
SLACK = 1.25  # a candidate is dropped if its estimated memory exceeds the limit by this factor
MICROBATCHES = (1, 2, 4, 8, 16, 32)  # per batch
ALL_KEPT = 1.6  # bytes kept by "none" (norms and activations too) relative to all named activations


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One way to train: the mesh and the other bindings.

    mesh: (axis, size) pairs.
    remat: one of REMAT_POLICIES.
    accumulate: number of microbatches.
    seconds, bytes: per step, and of HBM per chip, by the rough model.
    """

    mesh: tuple[tuple[str, int], ...]
    remat: str
    accumulate: int
    seconds: float
    bytes: float

    @property
    def name(self) -> str:
        """A name usable as a file name."""
        mesh = "-".join(f"{axis}{size}" for axis, size in self.mesh if size > 1) or "one"
        return f"{mesh}_{self.remat}_in{self.accumulate}"

    @property
    def bindings(self) -> tuple[str, ...]:
        """Gin lines to add after the files of the run."""
        mesh = {axis: size for axis, size in self.mesh if size > 1 or axis == "data"}
        return f"MESH = {mesh}", f"ACCUMULATE = {self.accumulate}", f"train.model.Transformer.remat = {self.remat!r}"


def meshes(topology: Topology, axes: Sequence[str]) -> Iterator[dict[str, int]]:
    """Every factorization of the chips into `axes`, with data a multiple of the slices.

    The axes inside a block are limited to useful sizes.
    """
    sizes = [size for size in range(1, topology.size + 1) if topology.size % size == 0]
    inner = [axis for axis in axes if axis not in ("data", "fsdp")]
    for data in (size for size in sizes if size % topology.num_slices == 0):
        for chosen in itertools.product(*[[size for size in sizes if size <= MAX_TENSOR] for _ in inner]):
            if math.prod(chosen) <= 2 * MAX_TENSOR and topology.size % (data * math.prod(chosen)) == 0:
                mesh = {"data": data, "fsdp": topology.size // data // math.prod(chosen), **dict(zip(inner, chosen))}
                yield {axis: mesh[axis] for axis in axes}


def candidates(run, model, topology: Topology, remats: Sequence[str]) -> list[Candidate]:
    """All ways to train that divide evenly and may fit, fastest first by the rough model.

    run: a RunConfig.
    model: its decoder with the vocabulary size filled in.
    topology: the chips.
    remats: names of the remat policies to try.
    """
    from castor.tasks.mixing.schedule import BatchSizes
    from castor.train.partitioning import MESH_AXES, Partitioner

    rows, length = max(BatchSizes.of(run.batch_size).sizes), run.lengths["targets"]
    found = []
    for mesh in meshes(topology, MESH_AXES):
        try:
            partitioner = Partitioner.abstract(mesh, topology.size, topology.num_slices)
            partitioner.check_divides({"length": ("length", length), "rows": ("batch", rows)})
            model.check_mesh(partitioner)
        except ConfigurationError:
            continue
        rough = CostModel(run, model, topology, partitioner, length)
        for remat, accumulate in itertools.product(remats, MICROBATCHES):
            size = rough.bytes(rows, accumulate, remat, model.loss_chunk)
            if rows % (partitioner.size("batch") * accumulate) == 0 and size <= SLACK * topology.chip.usable:
                found.append(
                    Candidate(tuple(mesh.items()), remat, accumulate, rough.seconds(rows, accumulate, remat), size)
                )
    return ranked_candidates(found)


def predictable(policies: Iterable[str]) -> tuple[str, ...]:
    """The remat policies whose time can be predicted. The time of copies to host memory ("offload") is unknown."""
    return tuple(name for name in policies if name != "offload")


def ranked_candidates(found: list[Candidate]) -> list[Candidate]:
    """Fastest first, but interleaved so that the many candidates of one mesh do not crowd out other meshes."""
    ranks: dict[tuple, int] = {}
    ranked = []
    for each in sorted(found, key=lambda each: (each.seconds, each.bytes)):
        rank = ranks[each.mesh] = ranks.get(each.mesh, -1) + 1
        ranked.append((each.seconds * (1 + 0.05 * rank), each.name, each))
    return [each for *_, each in sorted(ranked, key=lambda row: row[:2])]


class CostModel:
    """The rough cost model of one mesh. Everything that its candidates share is computed once."""

    def __init__(self, run, model, topology: Topology, partitioner, length: int):
        from castor.train.model import decoder as model_lib

        self.model, self.topology, self.length, self.mesh = model, topology, length, dict(partitioner.mesh.shape)
        self.everything = model_lib.count_parameters(model)
        self.local = _local_parameters(model, partitioner)
        self.batch, self.tensor, self.length_shards = (
            partitioner.size("batch"),
            partitioner.size("act_mlp"),
            partitioner.size("length"),
        )
        self.stream = self.length_shards / partitioner.size("residual_length")  # a chip's share of the residual stream
        self.state_bytes = 4 + _state_bytes(run.optimizer) + 4  # per parameter: value, moments, gradient

    def bytes(self, rows: int, accumulate: int, remat: str, chunk: int) -> float:
        """HBM bytes per chip: state, gradients, bfloat16 weights of two layers, activations, logits and their
        gradient.
        """
        model = self.model
        tokens = self._tokens(rows, accumulate)
        layer = tokens * _remat(model, "none", self.length, self.tensor)[1]
        kept = (
            model.layers * tokens * (2 * self.stream * model.embed + _remat(model, remat, self.length, self.tensor)[1])
        )
        logits = min(tokens, chunk or tokens) * model.vocab_size / self.tensor * 8
        return (
            self.local * self.state_bytes + kept + 2 * layer + logits + 4 * self.everything / model.layers / self.tensor
        )

    def seconds(self, rows: int, accumulate: int, remat: str) -> float:
        """Seconds per step.

        Products run at a share of the peak rate and hide the gathering of weights. Communication of activations and
        sums of gradients is not hidden.
        """
        from castor.train.compiler.predict import model_flops

        model, chip, length = self.model, self.topology.chip, self.length
        tokens, again = self._tokens(rows, accumulate), _remat(model, remat, length, self.tensor)[0]
        flops = (
            model_flops(self.everything, model.layers, model.heads, model.head_dim, rows, length) / self.topology.size
        )
        compute = flops * (1 + again / 3) / chip.peak / EFFICIENCY
        weights = (
            2 * self.everything / self.tensor * self._seconds_per_byte("fsdp", "context")
        )  # gathered once in bfloat16
        hidden = accumulate * (2 + (1 if again else 0)) * weights + 8 * self.local * self._seconds_per_byte("data")
        activations = (8 + 2 * (again > 0.4)) * tokens * model.embed * 2 * self._seconds_per_byte("sequence", "tensor")
        activations += (
            6 * tokens * self.length_shards * 4 * model.kv_heads * model.head_dim * self._seconds_per_byte("context")
        )
        waited = accumulate * (
            model.layers * activations + 2 * weights
        )  # the compiler sums whole gradients before sharding them
        return max(compute, hidden) + 0.25 * min(compute, hidden) + waited

    def _tokens(self, rows: int, accumulate: int) -> float:
        """Tokens per chip and microbatch."""
        return rows * self.length / self.batch / self.length_shards / accumulate

    def _seconds_per_byte(self, *axes: str) -> float:
        """Seconds per byte gathered along mesh axes, whose members are assumed to be neighbours on the torus."""
        size = math.prod(self.mesh[axis] for axis in axes)
        if size == 1:
            return 0.0
        slices = self.topology.num_slices if "data" in axes else 1
        near = size // slices
        far = (slices - 1) / slices / self.topology.chip.dcn
        return far + ((near - 1) / size / (_links(self.topology, near) * self.topology.chip.link) if near > 1 else 0.0)


def _links(topology: Topology, size: int) -> float:
    """ICI links on which one of `size` neighbours can receive.

    A closed side of the torus that the neighbours fill counts two links; any other side counts one.
    """
    links = 0.0
    for axis, side in sorted(enumerate(topology.shape), key=lambda item: -item[1]):
        if size > 1 and side > 1:
            links += 2.0 if topology.closed(axis) and size >= side else 1.0
            size = math.ceil(size / side)
    return max(links, 1.0)


@functools.cache
def _remat(model, policy: str, length: int, tensor: int) -> tuple[float, float]:
    """(recomputation as a share of the forward pass, bytes kept per token, layer and chip besides the layer's
    input).
    """
    from castor.train.model.attention import blockwise
    from castor.train.model.decoder import REMAT_POLICIES

    D, Q, K, F = model.embed, model.heads * model.head_dim, model.kv_heads * model.head_dim, model.mlp
    made = {  # name: (FLOPs per token to compute it, width on a chip)
        "query": (2 * D * Q, Q / tensor),
        "key": (2 * D * K, K),
        "value": (2 * D * K, K),
        blockwise.RESIDUALS: (2 * length * Q, Q / tensor),
        "attention_out": (2 * Q * D, D),
        "gate": (2 * D * F, F / tensor),
        "up": (2 * D * F, F / tensor),
    }
    names = REMAT_POLICIES[policy]
    if names is None:
        return 0.0, ALL_KEPT * 2 * sum(width for _, width in made.values())
    forward = sum(flops for flops, _ in made.values()) + 2 * D * F
    again = sum(flops for name, (flops, _) in made.items() if name not in names)
    return again / forward, 0.0 if policy == "offload" else 2 * sum(
        width for name, (_, width) in made.items() if name in names
    )


def _local_parameters(model, partitioner) -> float:
    """Number of parameters on one chip."""
    from castor.train.model import decoder as model_lib

    parts = {axis: partitioner.size(axis) for axis in dict(partitioner.rules)}
    total = 0.0
    for name, axes in model_lib.logical_axes(model).items():
        total += _shapes(model)[name] / math.prod(parts[axis] for axis in axes if axis is not None)
    return total


@functools.cache
def _shapes(model) -> dict[str, int]:
    """Number of elements of each parameter, by name."""
    import flax.linen as nn
    import jax

    from castor.train.model import decoder as model_lib

    leaves = jax.tree_util.tree_leaves_with_path(nn.unbox(model_lib.abstract_parameters(model)))
    return {model_lib.parameter_name(path): math.prod(leaf.shape) for path, leaf in leaves}


def _state_bytes(optimizer) -> float:
    """Bytes of optimizer state per parameter: two float32 moments, or nearly nothing if they are factored."""
    return 1.0 if "factor" in type(optimizer).__name__.lower() else 8.0
