"""Ahead-of-time compilation: compiles the training step with the real TPU compiler on a machine without a TPU.

libtpu describes any slice of any chip and compiles for the slice on a CPU. The compiled function is
`train.step.TrainStep.compile_step`, the same one that `castor train` runs, so memory and time reported here are those
of the real program.

Call `quiet` before JAX is imported. This module imports JAX only inside its functions.
"""

import dataclasses
import importlib.util
import io
import os
import re
import time

from castor.tasks.errors import CastorError, ConfigurationError
from castor.train.compiler import predict
from castor.train.compiler.chips import GIB, Topology
from castor.train.compiler.collectives import Fabric
from castor.train.compiler.hlo import parse

SCHEMA = 1
QUIET = {
    "TPU_ACCELERATOR_TYPE": "v5litepod-1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}
_UNITS = {"K": 2**10, "M": 2**20, "G": GIB, "T": 2**40}
_REFUSED = re.compile(
    r"Used ([\d.]+)([KMGT]) of ([\d.]+)([KMGT]) hbm|\(([\d.]+)([KMGT])\) exceeds available HBM \(([\d.]+)([KMGT])\)"
)


class DoesNotFit(CastorError):
    """The compiler ran out of HBM. needed, granted: bytes per chip, or None if the compiler does not say."""

    def __init__(self, what: str, needed: float | None, granted: float | None):
        super().__init__(
            what,
            "Shard the model over more chips (fsdp, tensor), recompute more (remat) or use more microbatches "
            "(ACCUMULATE).",
        )
        self.needed, self.granted = needed, granted


def quiet() -> None:
    """Sets the environment of JAX and libtpu: run on the CPU, look for no TPU and query no metadata server."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["TPU_SKIP_MDS_QUERY"] = "1"
    os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = (
        "1"  # libtpu's lock is for processes that share a TPU; compilers may run concurrently
    )
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)


def devices(topology: Topology) -> list:
    """The described devices of all slices, slice by slice.

    Raises ConfigurationError if libtpu is missing or does not know the slice.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise ConfigurationError(
            "castor compile needs the TPU compiler, libtpu, which is not installed.",
            "Install castor[tpu] (Linux, x86-64); no TPU is needed.",
        )
    import jax
    from jax.experimental import topologies

    options = {"num_slices": topology.num_slices} if topology.num_slices > 1 else {}
    options |= {"chip_config_name": topology.chip.config} if topology.chip.config else {}
    try:
        found = list(topologies.get_topology_desc(platform="tpu", topology_name=topology.name, **options).devices)
    except jax.errors.JaxRuntimeError as error:
        if "INVALID_ARGUMENT" not in str(error):
            raise CastorError(
                f"libtpu did not start: {_line(error)}", "Is another process using the TPU compiler or a TPU?"
            ) from error
        what = f"--topology={topology.name}: libtpu does not know this slice ({_line(error)})."
        raise ConfigurationError(what, "Give the shape of an existing slice.") from error
    if len(found) != topology.size:
        raise ConfigurationError(
            f"--topology={topology.name}: libtpu describes {len(found)} devices, not {topology.size}.",
            "Choose another slice.",
        )
    return found


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A compiled step.

    text: optimized HLO.
    memory: bytes per chip by use.
    seconds: time of tracing and compilation.
    """

    text: str
    memory: dict[str, int]
    seconds: float


def compile_step(train_step, rows: int, length: int) -> Compiled:
    """Compiles a training step for its mesh and a batch [rows, length]. Raises DoesNotFit if HBM does not suffice."""
    import jax

    from castor.train.step import abstract_batch

    began = time.monotonic()
    try:
        compiled = train_step.compile_step(abstract_batch(train_step.partitioner, rows, length))
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        if "memory space vmem" in str(error):
            what = f"A kernel needs more vector memory than the chip has: {_line(error)}"
            raise CastorError(
                what, "Use smaller tiles: bind train.splash.Blocks in gin (docs/attention.md)."
            ) from error
        raise out_of_memory(str(error)) from error
    seconds = time.monotonic() - began
    stats = compiled.memory_analysis()
    memory = {
        "arguments": stats.argument_size_in_bytes,
        "temporaries": stats.temp_size_in_bytes,
        "outputs": stats.output_size_in_bytes,
        "aliased": stats.alias_size_in_bytes,
        "code": stats.generated_code_size_in_bytes,
    }
    total = memory["arguments"] + memory["temporaries"] + memory["outputs"] - memory["aliased"]
    return Compiled(compiled.as_text(), memory | {"total": total, "peak": stats.peak_memory_in_bytes or total}, seconds)


def out_of_memory(message: str) -> DoesNotFit:
    """Parses the compiler's out-of-memory error.

    Its forms are "Used 20.10G of 15.75G hbm" and "temporaries (480.00G) exceeds available HBM (15.75G)".
    """
    sizes = _REFUSED.search(message)
    if not sizes:
        return DoesNotFit(f"The step does not fit ({_line(message)}).", None, None)
    number, unit, limit, limit_unit = (part for part in sizes.groups() if part is not None)
    needed, granted = float(number) * _UNITS[unit], float(limit) * _UNITS[limit_unit]
    return DoesNotFit(
        f"The step needs {needed / GIB:.1f} GiB of HBM; a program may use {granted / GIB:.2f} GiB.",
        needed,
        granted,
    )


def report(train_step, topology: Topology, rows: int, length: int, compiled: Compiled) -> dict:
    """The report of a compiled step as JSON (fields: docs/compile.md).

    Bytes, FLOPs and seconds are per chip and step.
    """
    import jax

    from castor.train.model.decoder import count_parameters

    model, mesh = train_step.model, train_step.partitioner.mesh
    parameters = count_parameters(model)
    prediction = predict.predict(parse(io.StringIO(compiled.text)), Fabric.of(mesh, topology))
    needed = predict.model_flops(parameters, model.layers, model.heads, model.head_dim, rows, length) / topology.size
    hardware = prediction.flops + prediction.kernel_flops
    chip = topology.chip
    return {
        **_header(train_step, topology, rows, length),
        "fits": compiled.memory["peak"] <= chip.usable,
        "memory": compiled.memory
        | {"capacity": int(chip.hbm), "usable": int(chip.usable), "share": compiled.memory["peak"] / chip.usable},
        "flops": {
            "model": needed,
            "hardware": hardware,
            "kernels": prediction.kernel_flops,
            "hardware_over_model": hardware / needed,
        },
        "step": {
            "seconds": prediction.scheduled,
            "mfu": needed / chip.peak / prediction.scheduled,
            "hfu": hardware / chip.peak / prediction.scheduled,
            "tokens_per_second": rows * length / prediction.scheduled,
            "tokens_per_second_per_chip": rows * length / prediction.scheduled / topology.size,
            "compute_seconds": prediction.compute,
            "communication_seconds": prediction.communication,
            "overlapped_seconds": prediction.overlapped,
            "exposed_seconds": prediction.exposed,
            "hbm_seconds": prediction.hbm_seconds,
            "roofline_seconds": prediction.roofline,
            "roofline_mfu": needed / chip.peak / prediction.roofline,
        },
        "assumptions": {
            "kernel_efficiency": predict.KERNEL_EFFICIENCY,
            "link_bytes_per_second": chip.link,
            "dcn_bytes_per_second": chip.dcn,
        },
        "compute": [{"kind": kind, "seconds": seconds} for kind, seconds in prediction.by_kind.items() if seconds],
        "collectives": list(prediction.collectives),
        "loops": list(prediction.loops),
        "slowest": list(prediction.slowest),
        "warnings": list(prediction.warnings),
        "compiler": {
            "seconds": compiled.seconds,
            "jax": jax.__version__,
            "libtpu": _version("libtpu"),
            "text_bytes": len(compiled.text),
        },
    }


def refusal(train_step, topology: Topology, rows: int, length: int, error: DoesNotFit) -> dict:
    """The report of a step that does not fit: the same header, and the memory that the compiler requested."""
    memory = {
        "peak": error.needed,
        "capacity": int(topology.chip.hbm),
        "usable": int(error.granted or topology.chip.usable),
    }
    return {**_header(train_step, topology, rows, length), "fits": False, "memory": memory, "refusal": error.what}


def _header(train_step, topology: Topology, rows: int, length: int) -> dict:
    """The fields that `report` and `refusal` share: what was compiled."""
    from castor.train.model.decoder import count_parameters

    model, mesh = train_step.model, train_step.partitioner.mesh
    return {
        "castor_compile": SCHEMA,
        "model": {**dataclasses.asdict(model), "parameters": count_parameters(model)},
        "batch": {"rows": rows, "length": length, "tokens": rows * length, "accumulate": train_step.accumulate},
        "optimizer": type(train_step.optimizer).__name__,
        "topology": {
            "name": topology.name,
            "slices": topology.num_slices,
            "chips": topology.size,
            "peak_flops": topology.chip.peak,
        },
        "mesh": {axis: int(size) for axis, size in mesh.shape.items()},
        "compiler_options": dict(getattr(train_step, "compiler_options", None) or {}),
    }


def _version(package: str) -> str:
    import importlib.metadata

    return importlib.metadata.version(package)


def _line(error) -> str:
    return str(error).strip().splitlines()[0][:200]
