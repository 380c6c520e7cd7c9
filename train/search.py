"""Which meshes, remat policies, parts and loss chunks are worth a compilation: every way that the model divides, ordered by a rough model.

Compilation takes a minute, so of thousands of ways only the most promising are tried. The rough model here is for that order alone: bytes of
state and activations, FLOPs, and bytes through each mesh axis at the links that the axis has on the torus. The compiler has the last word.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence

from tasks.errors import ConfigurationError
from train.chips import Topology
from train.collectives import Fabric

MAX_TENSOR = 64  # more than this never pays: every block sums its activations over the axis twice
EFFICIENCY = 0.65  # of the peak rate that matrix products in a step reach
SLACK = 1.25  # memory that the rough model may be wrong by before a way is left out
ALL_KEPT = 1.6  # bytes of "none", which keeps norms and activations too, over those of all that a policy can name


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One way to train: sizes of mesh axes, and bindings of what else was chosen. seconds, bytes: by the rough model."""

    mesh: tuple[tuple[str, int], ...]
    remat: str
    accumulate: int
    loss_chunk: int | None
    seconds: float
    bytes: float

    @property
    def name(self) -> str:
        """A file name."""
        mesh = "-".join(f"{axis}{size}" for axis, size in self.mesh if size > 1) or "one"
        chunk = "" if self.loss_chunk is None else f"_chunk{self.loss_chunk}"
        return f"{mesh}_{self.remat}_in{self.accumulate}{chunk}"

    @property
    def bindings(self) -> tuple[str, ...]:
        """As gin lines, after the files of the run."""
        mesh = {axis: size for axis, size in self.mesh if size > 1}
        lines = [f"MESH = {mesh}", f"ACCUMULATE = {self.accumulate}", f"train.model.Transformer.remat = {self.remat!r}"]
        if self.loss_chunk is not None:
            lines.append(f"train.model.Transformer.loss_chunk = {self.loss_chunk}")
        return tuple(lines)


def meshes(topology: Topology, axes: Sequence[str]) -> Iterator[dict[str, int]]:
    """Every factoring of the chips into `axes` (data first, a multiple of the slices), the axes that talk most no longer than pays."""
    sizes = [size for size in range(1, topology.size + 1) if topology.size % size == 0]
    inner = [axis for axis in axes if axis not in ("data", "fsdp")]
    for data in (size for size in sizes if size % topology.num_slices == 0):
        for chosen in itertools.product(*[[size for size in sizes if size <= MAX_TENSOR] for _ in inner]):
            if math.prod(chosen) <= 2 * MAX_TENSOR and topology.size % (data * math.prod(chosen)) == 0:
                mesh = {"data": data, "fsdp": topology.size // data // math.prod(chosen), **dict(zip(inner, chosen))}
                yield {axis: mesh[axis] for axis in axes}


def candidates(run, model, topology: Topology, devices: Sequence, remats: Sequence[str], chunks: Sequence[int | None]) -> list[Candidate]:
    """All ways to train a `train.loop.Run` with `model` on described devices that divide and may fit, the quickest first by the rough model."""
    from tasks.schedule import BatchSizes
    from train.partitioning import MESH_AXES, Partitioner

    rows, length = max(BatchSizes.of(run.batch_size).sizes), run.lengths["targets"]
    found = []
    for mesh in meshes(topology, MESH_AXES):
        for accumulate in (1, 2, 4, 8, 16, 32):
            trial = dataclasses.replace(run, accumulate=accumulate)
            try:
                if accumulate == 1:
                    partitioner = Partitioner.create(mesh, devices)
                    partitioner.check_divides({"length": ("length", length)})
                    model.check_mesh(partitioner)
                    fabric = Fabric.of(partitioner.mesh, topology)
                trial.check_rows(partitioner)
            except ConfigurationError:
                break
            for remat, chunk in itertools.product(remats, chunks):
                seconds, size = estimate(trial, model, partitioner, fabric, rows, length, remat, chunk)
                found.append(Candidate(tuple(mesh.items()), remat, accumulate, chunk, seconds, size))
    return ordered([each for each in found if each.bytes <= SLACK * topology.chip.usable])


def ordered(found: list[Candidate]) -> list[Candidate]:
    """Quickest first, but so that the many ways of one mesh do not crowd out the other meshes."""
    seen: dict[tuple, int] = {}
    ranked = []
    for each in sorted(found, key=lambda each: (each.seconds, each.bytes)):
        place = seen[each.mesh] = seen.get(each.mesh, -1) + 1
        ranked.append((each.seconds * (1 + 0.05 * place), each.name, each))
    return [each for *_, each in sorted(ranked, key=lambda row: row[:2])]


def estimate(run, model, partitioner, fabric: Fabric, rows: int, length: int, remat: str, chunk: int | None) -> tuple[float, float]:
    """(seconds of a step, bytes of HBM a chip) by the rough model."""
    from train import model as model_lib
    from train.predict import model_flops

    chip, sizes = fabric.topology.chip, partitioner.mesh.shape
    local = _local_parameters(model, partitioner)
    everything = model_lib.count_parameters(model)
    batch_parts = sizes["data"] * sizes["fsdp"]
    tensor = partitioner.size("act_mlp")
    cut = partitioner.size("length")
    tokens = rows * length / batch_parts / cut / run.accumulate  # of a chip, of a part

    # Memory: float32 parameters, moments and gradients; bfloat16 copies of a layer; activations; logits.
    stream = _residual_parts(partitioner) * tokens * model.embed * 2
    again, kept = _remat(model, remat, length, tensor)
    layer = tokens * _remat(model, "none", length, tensor)[1]
    logits = tokens * model.vocab_size / tensor * 8
    if chunk:
        logits = min(logits, chunk * model.vocab_size / tensor * 8)
    size = local * (4 + _state_bytes(run.optimizer) + 4) + model.layers * (stream + tokens * kept) + 2 * layer + logits
    size += 4 * everything / model.layers / tensor

    # Time: products at a share of the peak; gathering parameters hides behind them, gathering activations is waited for.
    flops = model_flops(everything, model.layers, model.heads, model.head_dim, rows, length) / fabric.topology.size
    compute = flops * (1 + again / 3) / chip.peak / EFFICIENCY
    gathered = 2 * everything / tensor  # bfloat16
    passes = run.accumulate * (3 + (1 if again else 0))
    hidden = passes * _ring(fabric, ("fsdp", "context"), gathered) + 2 * _ring(fabric, ("data",), 4 * local)
    waited = (8 + 2 * (again > 0.4)) * model.layers * run.accumulate * _ring(fabric, ("sequence", "tensor"), tokens * model.embed * 2)
    waited += 6 * model.layers * run.accumulate * _ring(fabric, ("context",), tokens * cut * 2 * model.kv_heads * model.head_dim * 2)
    return max(compute, hidden) + 0.25 * min(compute, hidden) + waited, size


def _remat(model, policy: str, length: int, tensor: int) -> tuple[float, float]:
    """(what the backward pass does over again, in parts of the forward pass; bytes a token that a layer keeps beside its input, on a chip)."""
    from train import blockwise
    from train.model import REMAT_POLICIES

    D, Q, K, F = model.embed, model.heads * model.head_dim, model.kv_heads * model.head_dim, model.mlp
    made = {  # name: (FLOPs a token that make it, width on a chip)
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
    return again / forward, 0.0 if policy == "offload" else 2 * sum(width for name, (_, width) in made.items() if name in names)


def _ring(fabric: Fabric, axes: tuple[str, ...], whole: float) -> float:
    """Seconds in which `whole` bytes are gathered along mesh axes."""
    import numpy as np

    chosen = [axis for axis in axes if dict(zip(fabric.axes, fabric.sizes)).get(axis, 1) > 1]
    if not chosen:
        return 0.0
    places = np.arange(math.prod(fabric.sizes)).reshape(fabric.sizes)
    corner = tuple(slice(None) if axis in chosen else 0 for axis in fabric.axes)
    members = places[corner].ravel()
    return fabric.seconds("all-gather", members, whole / len(members))


def _local_parameters(model, partitioner) -> float:
    """Parameters that one chip holds."""
    from train import model as model_lib

    total = 0.0
    shapes = {model_lib.parameter_name(path): leaf.shape for path, leaf in _leaves(model)}
    for name, axes in model_lib.logical_axes(model).items():
        total += math.prod(shapes[name]) / math.prod(partitioner.size(axis) for axis in axes if axis is not None)
    return total


def _leaves(model):
    import flax.linen as nn
    import jax

    from train import model as model_lib

    return jax.tree_util.tree_leaves_with_path(nn.unbox(model_lib.abstract_parameters(model)))


def _residual_parts(partitioner) -> float:
    """The share of the residual stream that a chip keeps, beside what cuts the rows and the length."""
    rules: Mapping = dict(partitioner.rules)
    return partitioner.size("length") / partitioner.size("residual_length") if "residual_length" in rules else 1.0


def _state_bytes(optimizer) -> float:
    """Of the optimizer, a parameter: two float32 moments, or next to nothing where they are factored."""
    return 1.0 if "factor" in type(optimizer).__name__.lower() else 8.0
