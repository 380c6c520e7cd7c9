"""Attention kernels compared: time on this CPU, context parallelism over eight virtual devices, and TPU compilation.

    python benchmarks/training/attention.py [cpu | context | tpu]

cpu: forward and backward pass of multi-query attention (4 heads of 32, float32), blockwise and full, at lengths where
    full attention still fits. Rows hold one document, then eight. Median of five calls, in milliseconds.
context: 32,768 tokens (2 heads of 16, three documents and padding). The length is sharded over eight virtual devices
    and compared with blockwise attention on one device: the largest differences of output and gradients, relative to
    the largest value, and the time of one call of each. Eight devices share the cores of this machine, so the times
    show the cost of sharding, not its benefit.
tpu: forward and backward pass at 32,768 tokens (8 heads of 256, bfloat16) compiled for v5p, with whole rows and with
    rows sharded over eight chips, with default tiles: temporary memory in MB, the bytes of a square of bfloat16 scores
    for comparison, and seconds to compile.

Prints one JSON line per part.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")

import jax
import jax.numpy as jnp
import numpy as np

from castor.train.model.attention import attention
from castor.train.partitioning import Partitioner

LONG = 32_768


def arrays(rows: int, length: int, heads: int, head_dim: int, documents: int, dtype=np.float32):
    """(q, k, v, segment ids) of multi-query attention, with `documents` equal segments per row.

    If there is more than one segment, a sixteenth of the row is padding.
    """
    random = np.random.default_rng(0)
    q, k, v = (random.normal(size=(rows, length, n, head_dim)).astype(dtype) for n in (heads, 1, 1))
    used = length if documents == 1 else length * 15 // 16
    segments = np.where(np.arange(length) < used, np.arange(length) * documents // used + 1, 0).astype(np.int32)
    return q, k, v, np.broadcast_to(segments, (rows, length))


def gradients(kernel: str, partitioner: Partitioner | None = None):
    """(output, gradients of its sum of squares) of attention, compiled on first call."""

    def loss(q, k, v, segments):
        o = attention.packed(q, k, v, segments, kernel, partitioner)
        return jnp.sum(o.astype(jnp.float32) ** 2), o

    def both(*inputs):
        (_, o), found = jax.value_and_grad(loss, (0, 1, 2), has_aux=True)(*inputs)
        return o, *found

    return jax.jit(both)


def seconds(function, inputs, calls: int) -> list[float]:
    jax.block_until_ready(function(*inputs))
    times = []
    for _ in range(calls):
        start = time.perf_counter()
        jax.block_until_ready(function(*inputs))
        times.append(time.perf_counter() - start)
    return times


def cpu() -> dict:
    table = {}
    for rows, length, documents in ((16, 128, 1), (16, 256, 1), (8, 512, 1), (4, 1024, 1), (2, 2048, 1), (2, 2048, 8)):
        inputs = arrays(rows, length, 4, 32, documents)
        took = {kernel: statistics.median(seconds(gradients(kernel), inputs, 5)) for kernel in ("full", "blockwise")}
        name = f"{rows} x {length}" + (f", {documents} documents" if documents > 1 else "")
        table[name] = {kernel: round(1e3 * s, 1) for kernel, s in took.items()} | {
            "ratio": round(took["full"] / took["blockwise"], 1)
        }
    return {"milliseconds": table}


def context() -> dict:
    inputs = arrays(1, LONG, 2, 16, 3)
    one, eight = gradients("blockwise"), gradients("blockwise", Partitioner.create({"context": 8}, jax.devices()[:8]))
    expected, found = jax.device_get(one(*inputs)), jax.device_get(eight(*inputs))
    differences = {
        name: float(np.abs(a - b).max() / np.abs(a).max())
        for name, a, b in zip(("output", "dq", "dk", "dv"), expected, found)
    }
    return {
        "tokens": LONG,
        "difference": differences,
        "seconds": {"one": min(seconds(one, inputs, 1)), "eight": min(seconds(eight, inputs, 1))},
    }


def tpu() -> dict:
    from jax.experimental import topologies

    devices = topologies.get_topology_desc(platform="tpu", topology_name="v5p:2x2x2").devices
    result = {"scores_mb": round(8 * LONG * LONG * 2 / 1e6)}
    for name, mesh, count in (("one chip", {}, 1), ("eight chips", {"context": 8}, 8)):
        place = Partitioner.create(mesh, devices[:count])
        sharding = place.sharding(("batch", "length", "act_heads", "head"))
        q, k = (jax.ShapeDtypeStruct((1, LONG, heads, 256), jnp.bfloat16, sharding=sharding) for heads in (8, 1))
        segments = jax.ShapeDtypeStruct((1, LONG), jnp.int32, sharding=place.sharding(("batch", "length")))
        start = time.perf_counter()
        compiled = gradients("auto", place).lower(q, k, k, segments).compile()
        result[name] = {
            "temporary_mb": round(compiled.memory_analysis().temp_size_in_bytes / 1e6),
            "compile_s": round(time.perf_counter() - start, 1),
        }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help="cpu, context or tpu; all where none is named")
    parts = parser.parse_args().parts or ["cpu", "context", "tpu"]
    jax.config.update("jax_num_cpu_devices", 8)
    machine = {
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "jax": jax.__version__,
    }
    for part in parts:
        if part not in ("cpu", "context", "tpu"):
            parser.error(f"there is no part {part!r}")
        print(json.dumps({"part": part, **globals()[part](), **machine}), flush=True)


if __name__ == "__main__":
    sys.exit(main())
