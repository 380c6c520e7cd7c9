"""FLOPs of Pallas kernels.

Kernels reach the compiler as opaque calls without an estimate, so attention is counted from shapes and blocks.
"""

import math
import re

from castor.train.compiler.hlo import Computation, Instruction

CALL = "tpu_custom_call"
_PRODUCTS = {
    "fwd": 2,
    "dq": 3,
    "dkv": 4,
}  # forward: scores and values; backward: scores, their gradient, and one product per gradient


def flops(computation: Computation, instruction: Instruction) -> float | None:
    """FLOPs of a Pallas kernel; None if unknown.

    For splash attention, the products in all blocks on and below the diagonal count; for other kernels, the declared
    FLOPs. With fewer queries than keys (context parallelism), a device has its share of the triangle, as
    train/model/attention/context.py balances it. Blocks skipped because of segments are counted, since they are known
    only at run time.
    """
    kind = _kind(instruction)
    if kind is None:
        declared = re.search(r'"cost_estimate":\{[^}]*"flops":"?(\d+)', instruction.attributes)
        return float(declared.group(1)) if declared else None
    known = computation.instructions
    operands = [array for name in instruction.operands if name in known for array in known[name].arrays]
    floating = [array.shape for array in operands if len(array.shape) >= 2 and array.dtype in ("bf16", "f32", "f16")]
    if len(floating) < 3:
        return None
    query, keys = floating[:2]  # after tables of integers: queries [..., heads, rows, head], keys [..., columns, head]
    head, rows = query[-1], query[-2]
    columns = keys[-2] if keys[-1] == head else keys[-1]
    suffix = "" if kind == "fwd" else f"_{kind}"
    height, width = (
        min(_block(instruction, f"block_q{suffix}"), rows),
        min(_block(instruction, f"block_kv{suffix}"), columns),
    )
    whole = sum(
        min(math.ceil((row + 1) * height / width), math.ceil(columns / width))
        for row in range(math.ceil(columns / height))
    )
    blocks = whole * rows / columns
    products = _PRODUCTS[kind]
    if kind == "dkv" and any(
        array.shape[-2:] == (rows, head) and math.prod(array.shape) >= math.prod(query)
        for array in instruction.arrays[-3:]
    ):
        products += 1  # the fused backward kernel makes the gradient of the queries too
    return 2.0 * products * math.prod(query[:-2]) * blocks * height * width * head


def _kind(instruction: Instruction) -> str | None:
    """fwd, dq or dkv, from the kernel's block attributes (the forward kernel has all of them), else from its name.

    The compiler may rename calls.
    """
    for key, kind in (("block_q", "fwd"), ("block_q_dkv", "dkv"), ("block_q_dq", "dq")):
        if re.search(rf'\b{key}\\*":', instruction.attributes):
            return kind
    named = re.search(r"splash_\w*(fwd|dkv|dq)", f"{instruction.name} {instruction.op_name}")
    return named.group(1) if named else None


def _block(instruction: Instruction, name: str) -> int:
    found = re.search(rf'\b{name}\\*": ?(\d+)', instruction.attributes)
    return int(found.group(1)) if found else 512
