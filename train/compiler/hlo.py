"""Parses optimized HLO text: computations, instructions, trip counts of loops, and FLOPs of matrix products.

`parse` reads the output of `compiled.as_text()` line by line and keeps what a cost model needs of each instruction.
Everything here is a pure function of that text and independent of seconds, chips and meshes (train/compiler/predict.py,
train/compiler/collectives.py).

XLA's own cost analysis visits the body of a loop once, so a scan over layers counts as one layer. The text gives the
trip count of each loop, and the TPU compiler's estimate for each fusion (`estimated_cycles`).
"""

import dataclasses
import functools
import math
import re
from collections.abc import Iterable, Iterator

import numpy as np

BITS = {
    **{
        "pred": 8,
        "s2": 2,
        "u2": 2,
        "s4": 4,
        "u4": 4,
        "s8": 8,
        "u8": 8,
        "s16": 16,
        "u16": 16,
        "s32": 32,
        "u32": 32,
        "s64": 64,
        "u64": 64,
    },
    **{
        "bf16": 16,
        "f16": 16,
        "f32": 32,
        "f64": 64,
        "c64": 64,
        "c128": 128,
        "f4e2m1fn": 4,
        "f8e5m2": 8,
        "f8e4m3": 8,
        "f8e4m3fn": 8,
    },
    **{"f8e4m3b11fnuz": 8, "f8e4m3fnuz": 8, "f8e5m2fnuz": 8, "f8e3m4": 8, "f8e8m0fnu": 8, "token": 0, "opaque": 0},
}
HBM = 0  # the default memory space of a layout; S(1) is vector memory, others hold scalars and semaphores

_ARRAY = re.compile(r"([a-z]\w*)\[([^\]]*)\](?:\{([^{}]*)\})?")
_HEADER = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_START = re.compile(r"\s+(ROOT )?%?([\w.\-]+) = ")
_CALLS = ("calls", "to_apply", "body", "condition", "true_computation", "false_computation")
_KERNEL_BODY = re.compile(r'"(?:body|serialized_module)":"[^"]*"')  # a Pallas kernel's code in base 64


@dataclasses.dataclass(frozen=True, slots=True)
class Array:
    """One array of an instruction's result.

    shape, dtype: as in the text.
    space: HBM, 1 for vector memory, or another memory space.
    """

    dtype: str
    shape: tuple[int, ...]
    space: int = HBM

    @property
    def nbytes(self) -> float:
        """Without tile padding."""
        return math.prod(self.shape) * BITS.get(self.dtype, 32) / 8


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Instruction:
    """One instruction of a computation.

    name: without %.
    op: opcode.
    arrays: the result, with tuples flattened.
    operands: names of the instructions read.
    attributes: the rest of the text.
    literal: the text in the brackets of a constant or parameter.
    """

    name: str
    op: str
    arrays: tuple[Array, ...]
    operands: tuple[str, ...]
    attributes: str
    literal: str = ""
    is_tuple: bool = False

    @property
    def nbytes(self) -> float:
        return sum(array.nbytes for array in self.arrays)

    @property
    def hbm_bytes(self) -> float:
        return sum(array.nbytes for array in self.arrays if array.space == HBM)

    @property
    def cycles(self) -> int:
        """The compiler's estimate in cycles, 0 if absent."""
        found = re.search(r'"estimated_cycles":"(\d+)"', self.attributes)
        return int(found.group(1)) if found else 0

    @property
    def op_name(self) -> str:
        """Where in the traced program the instruction comes from."""
        found = re.search(r'op_name="([^"]*)"', self.attributes)
        return found.group(1) if found else ""

    @property
    def target(self) -> str:
        """Target of a custom call."""
        found = re.search(r'custom_call_target="([^"]*)"', self.attributes)
        return found.group(1) if found else ""

    def attribute(self, name: str) -> str | None:
        """The computation (or word) that `name=` refers to."""
        found = re.search(rf"\b{name}=%?([\w.\-]+)", self.attributes)
        return found.group(1) if found else None

    @property
    def called(self) -> str | None:
        """The computation that a fusion, call or wrapper runs."""
        return self.attribute("calls") or self.attribute("to_apply")

    @property
    def index(self) -> int:
        """Index of a get-tuple-element."""
        return int(re.search(r"\bindex=(\d+)", self.attributes).group(1))


@dataclasses.dataclass(eq=False)
class Computation:
    """Instructions by name, in scheduled order."""

    name: str
    instructions: dict[str, Instruction] = dataclasses.field(default_factory=dict)
    parameters: dict[int, Instruction] = dataclasses.field(default_factory=dict)
    root: Instruction | None = None

    def __iter__(self) -> Iterator[Instruction]:
        return iter(self.instructions.values())

    @functools.cached_property
    def users(self) -> dict[str, list[Instruction]]:
        """Name -> the instructions that read it."""
        found: dict[str, list[Instruction]] = {}
        for instruction in self:
            for name in dict.fromkeys(instruction.operands):
                found.setdefault(name, []).append(instruction)
        return found


@dataclasses.dataclass(eq=False)
class Program:
    """A compiled module. num_partitions: devices that run the module in parallel."""

    computations: dict[str, Computation]
    entry: str
    num_partitions: int

    @functools.cached_property
    def callers(self) -> dict[str, tuple[Computation, Instruction]]:
        """Computation -> one instruction that calls the computation."""
        found: dict[str, tuple[Computation, Instruction]] = {}
        for computation in self.computations.values():
            for instruction in computation:
                for name in filter(None, map(instruction.attribute, _CALLS)):
                    if name in self.computations:
                        found.setdefault(name, (computation, instruction))
        return found

    def body(self, instruction: Instruction) -> Computation | None:
        """The computation of a fusion or call."""
        return self.computations.get(instruction.called or "")

    def trips(self, computation: Computation, loop: Instruction) -> int | None:
        """Trip count of a `while` in `computation`; None if the text does not determine it."""
        known = re.search(r'known_trip_count"?[=:]\{"n":"(\d+)"', loop.attributes)
        if known:
            return int(known.group(1))
        bound = self._bound(loop)
        if bound is None:
            return None
        index, limit, direction = bound
        stride, start = self._stride(loop, index), self._initial(computation, loop, index)
        if not stride or start is None:
            return None
        begins = {
            "LT": start < limit,
            "LE": start <= limit,
            "GT": start > limit,
            "GE": start >= limit,
            "NE": start != limit,
        }.get(direction)
        turns = math.ceil((limit - start + {"LE": 1, "GE": -1}.get(direction, 0)) / stride)
        return 0 if begins is False else turns if begins and turns > 0 else None

    def _bound(self, loop: Instruction) -> tuple[int, int, str] | None:
        """(tuple element that is the loop counter, the constant it is compared to, direction)."""
        computation = self.computations[loop.attribute("condition")]
        outer: tuple[Computation, Instruction] | None = None
        test = computation.root
        while test.op in ("fusion", "call"):
            outer, computation = (computation, test), self.body(test)
            test = computation.root
        if test.op != "compare":
            return None
        index = limit = None
        mirrored = False
        for position, name in enumerate(test.operands):
            where, side = computation, computation.instructions[name]
            if side.op == "parameter" and outer:
                where = outer[0]
                side = where.instructions[outer[1].operands[int(side.literal)]]
            value = self.constant(where, side.name)
            if value is not None:
                limit, mirrored = value, position == 0
            elif side.op == "get-tuple-element":
                index = side.index
        if index is None or limit is None:
            return None
        direction = re.search(r"direction=(\w\w)", test.attributes).group(1)
        return (
            index,
            limit,
            {"LT": "GT", "GT": "LT", "LE": "GE", "GE": "LE"}.get(direction, direction) if mirrored else direction,
        )

    def _stride(self, loop: Instruction, index: int) -> int | None:
        """The increment of tuple element `index` per iteration."""
        computation = self.computations[loop.attribute("body")]
        if computation.root.op != "tuple":
            return None
        update = computation.instructions[computation.root.operands[index]]
        while update.op in ("copy", "bitcast", "fusion"):
            if update.op == "fusion":
                computation = self.body(update)
                update = computation.root
            else:
                update = computation.instructions[update.operands[0]]
        if update.op not in ("add", "subtract"):
            return None
        values = [value for name in update.operands if (value := self.constant(computation, name)) is not None]
        return None if len(values) != 1 else values[0] if update.op == "add" else -values[0]

    def _initial(self, computation: Computation, loop: Instruction, index: int) -> int | None:
        """Element `index` of the loop's initial tuple."""
        start = computation.instructions[loop.operands[0]]
        return self.constant(computation, start.operands[index]) if start.op == "tuple" else None

    def constant(self, computation: Computation, name: str, depth: int = 32) -> int | None:
        """The integer value of an instruction, if known.

        Copies, calls and tuple elements that loops do not change are followed, at most `depth` of them.
        """
        instruction = computation.instructions.get(name)
        if instruction is None or depth == 0:
            return None
        if instruction.op == "constant":
            found = re.match(r"\s*(-?\d+)\s*$", instruction.literal)
            return int(found.group(1)) if found else None
        if instruction.op in ("bitcast", "copy", "convert", "reshape"):
            return self.constant(computation, instruction.operands[0], depth - 1)
        caller = self.callers.get(computation.name)
        if instruction.op == "parameter":
            if caller is None or caller[1].op == "while":
                return None
            return self.constant(caller[0], caller[1].operands[int(instruction.literal)], depth - 1)
        if instruction.op != "get-tuple-element":
            return None
        source = computation.instructions[instruction.operands[0]]
        if source.op == "tuple":
            return self.constant(computation, source.operands[instruction.index], depth - 1)
        where, loop = (computation, source) if source.op == "while" else caller or (None, None)
        if loop is None or loop.op != "while" or source.op not in ("while", "parameter"):
            return None
        return self._invariant(where, loop, instruction.index, depth - 1)

    def _invariant(self, computation: Computation, loop: Instruction, index: int, depth: int) -> int | None:
        """The constant in element `index` of a loop's tuple, if the body passes that element on unchanged."""
        body = self.computations[loop.attribute("body")]
        if body.root.op != "tuple":
            return None
        handed = body.instructions[body.root.operands[index]]
        if handed.op != "get-tuple-element" or handed.index != index:
            return None
        start = computation.instructions[loop.operands[0]]
        return self.constant(computation, start.operands[index], depth) if start.op == "tuple" else None

    @functools.cached_property
    def _flops(self) -> dict[str, float]:
        return {}

    def flops(self, computation: Computation, instruction: Instruction) -> float:
        """FLOPs of the matrix products in an instruction and in what it calls; bodies of loops count once."""
        if instruction.op in ("dot", "convolution"):
            return product_flops(computation, instruction)
        inner = self.body(instruction) if instruction.op in ("fusion", "call") else None
        if inner is None:
            return 0.0
        if inner.name not in self._flops:
            self._flops[inner.name] = sum(self.flops(inner, each) for each in inner)
        return self._flops[inner.name]


# ---------------------------------------------------------------------------------------------------------------- text


def parse(lines: Iterable[str]) -> Program:
    """Reads a module from the lines of its text (a file or io.StringIO, so the text is never held twice).

    Raises ValueError if the text has no ENTRY.
    """
    computations: dict[str, Computation] = {}
    entry, current, pending, partitions = None, None, [], 1

    def close():
        if pending and current is not None:
            _add(current, "".join(pending))
        pending.clear()

    for line in lines:
        if line.startswith("HloModule"):
            found = re.search(r"num_partitions=(\d+)", line)
            partitions = int(found.group(1)) if found else 1
        elif not line[:1].isspace() and (header := _HEADER.match(line)):
            close()
            current = computations[header.group(2)] = Computation(header.group(2))
            entry = header.group(2) if header.group(1) else entry
        elif line.startswith("}") and not line.startswith("}}"):
            close()
            current = None
        elif current is not None and _START.match(line):
            close()
            pending.append(line)
        elif pending:
            pending.append(line)  # metadata of kernels spans several lines
    close()
    if entry is None:
        raise ValueError("no ENTRY computation: the text is not an optimized HLO module")
    return Program(computations, entry, partitions)


def arrays(text: str) -> tuple[Array, ...]:
    """The arrays of a type, such as "(f32[8,128]{1,0:T(8,128)}, bf16[4]{0:S(1)})"."""
    found = []
    for dtype, shape, layout in _ARRAY.findall(text):
        sizes = tuple(int(size.strip().removeprefix("<=")) for size in shape.split(",") if size.strip())
        space = re.search(r"S\((\d+)\)", layout)
        found.append(Array(dtype, sizes, int(space.group(1)) if space else HBM))
    return tuple(found)


def _add(computation: Computation, text: str) -> None:
    start = _START.match(text)
    rest = text[start.end() :]
    is_tuple = rest.startswith("(")
    end = _closing(rest, 0) if is_tuple else rest.index(" ")
    kind, rest = rest[:end], rest[end:].lstrip()
    opening = rest.index("(")
    op, closing = rest[:opening], _closing(rest, opening)
    inside, attributes = rest[opening + 1 : closing - 1], rest[closing:]
    if len(attributes) > 10_000:
        attributes = _KERNEL_BODY.sub("", attributes)
    bare = op in ("constant", "parameter")
    instruction = Instruction(
        start.group(2),
        op,
        arrays(kind),
        () if bare else tuple(re.findall(r"%([\w.\-]+)", inside)),
        attributes,
        inside if bare else "",
        is_tuple,
    )
    computation.instructions[instruction.name] = instruction
    if start.group(1):
        computation.root = instruction
    if op == "parameter":
        computation.parameters[int(inside)] = instruction


def _closing(text: str, start: int) -> int:
    """The position after the bracket that closes the round bracket at `start`."""
    depth = 0
    for found in re.compile(r"[()]").finditer(text, start):
        depth += 1 if found.group() == "(" else -1
        if depth == 0:
            return found.end()
    return len(text)


# ------------------------------------------------------------------------------------------------------ matrix products


def product_flops(computation: Computation, instruction: Instruction) -> float:
    """FLOPs of a dot or convolution: 2 per product with real input, none for padding and dilation."""
    left, right = (computation.instructions[name].arrays[0].shape for name in instruction.operands[:2])
    result = instruction.arrays[0].shape
    if instruction.op == "dot":
        found = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", instruction.attributes)
        return 2.0 * math.prod(result) * math.prod(left[int(axis)] for axis in found.group(1).split(",") if axis)
    lhs, rhs, out = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", instruction.attributes).groups()
    window = re.search(r"window=\{([^}]*)\}", instruction.attributes)
    fields = dict(field.split("=") for field in window.group(1).split()) if window else {}
    pairs = 1
    for position, axis in enumerate(label for label in out if label.isdigit()):

        def of(field, default, position=position):
            return fields[field].split("x")[position] if field in fields else default

        low = int(of("pad", "0_0").split("_")[0])
        sizes = left[lhs.index(axis)], right[rhs.index(axis)], result[out.index(axis)]
        pairs *= meeting_pairs(*sizes, low, int(of("stride", 1)), int(of("lhs_dilate", 1)), int(of("rhs_dilate", 1)))
    groups = re.search(r"batch_group_count=(\d+)", instruction.attributes)
    features = result[out.index("b")] * result[out.index("f")] * right[rhs.index("i")]
    return 2.0 * pairs * features / (int(groups.group(1)) if groups else 1)


@functools.lru_cache(maxsize=4096)
def meeting_pairs(
    size: int, kernel: int, outputs: int, low: int, stride: int, dilation: int, kernel_dilation: int
) -> int:
    """Number of (output, kernel element) pairs of a window along one axis that read an element of the input.

    Input elements are `dilation` apart after `low` of padding, kernel elements `kernel_dilation` apart; outputs step by
    `stride`. The TPU compiler writes matrix products as such windows, most of which read only padding.
    """
    total, last = 0, (size - 1) * dilation
    for first in range(0, kernel, 4096):  # in chunks, to bound memory: windows may be as long as a row
        offsets = np.arange(first, min(first + 4096, kernel)) * kernel_dilation - low
        if dilation == 1:
            lowest = np.maximum(0, -(offsets // stride))
            highest = np.minimum(outputs - 1, (last - offsets) // stride)
            total += int(np.maximum(0, highest - lowest + 1).sum())
        else:
            for output in range(outputs):
                met = offsets + output * stride
                total += int(np.count_nonzero((met >= 0) & (met <= last) & (met % dilation == 0)))
    return total
