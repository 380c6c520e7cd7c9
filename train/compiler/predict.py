"""Predicts the step time of a compiled TPU program from the compiler's schedule.

The walk goes through the schedule once, as a chip would. Instructions run sequentially, collectives run concurrently
from their start until their result is awaited, and loops run as often as their trip count. The walk yields two
estimates:

    scheduled   the compiler's own `estimated_cycles` of each instruction, but at least the time of its FLOPs and HBM
                bytes; collectives as timed by train/compiler/collectives.py. This is the prediction.
    roofline    the larger of FLOPs and HBM bytes over the chip's rates: a lower bound for any chip

Accuracy. For large matrix products alone, the cycles correspond to 81 to 98 % of the peak rate
(train/compiler/chips.py), about what such products reach. For elementwise work and reductions, they are 1.2 to 5
times above the HBM roofline: pessimistic. Collectives have idle links and no latency: optimistic, especially for
many small ones. Attention kernels are assumed to reach `KERNEL_EFFICIENCY` of the peak rate. Use the prediction to
compare programs; do not quote it as a measurement.
"""

import collections
import dataclasses
import re

from castor.train.compiler import collectives as collectives_lib
from castor.train.compiler import kernels
from castor.train.compiler.chips import Chip
from castor.train.compiler.collective_traffic import DONE_CALL, START_CALL, STARTS, Traffic
from castor.train.compiler.collectives import Collective, Fabric
from castor.train.compiler.hlo import Computation, Instruction, Program

KERNEL_EFFICIENCY = 0.5
_FREE = {
    "parameter",
    "constant",
    "get-tuple-element",
    "tuple",
    "bitcast",
    "after-all",
    "partition-id",
    "replica-id",
    "iota",
    "opt-barrier",
}
_FREE |= {"add-dependency", "get-dimension-size", "domain"}
_FUSED_PART = re.compile(r'"async_collective_fusion_config":\{"flag_start":"\d')


@dataclasses.dataclass(frozen=True)
class Work:
    """Cost of one instruction, run once.

    seconds: scheduled time.
    roofline: lower bound of the time, in seconds.
    flops: FLOPs of matrix products.
    kernel: FLOPs of a Pallas kernel.
    hbm: bytes to and from HBM.
    cycles: the compiler's estimate.
    kind: row of the report that the instruction counts in.
    """

    seconds: float
    roofline: float
    flops: float
    kernel: float
    hbm: float
    cycles: int
    kind: str


@dataclasses.dataclass(frozen=True)
class Prediction:
    """One step on one chip: seconds, FLOPs, bytes.

    scheduled: the prediction.
    roofline: its lower bound.
    compute: instructions alone.
    communication: collectives alone.
    exposed: communication that is not hidden behind compute.
    """

    scheduled: float
    roofline: float
    compute: float
    communication: float
    exposed: float
    flops: float
    kernel_flops: float
    hbm_bytes: float
    hbm_seconds: float
    by_kind: dict[str, float]
    collectives: tuple[dict, ...]
    loops: tuple[dict, ...]
    slowest: tuple[dict, ...]
    warnings: tuple[str, ...]

    @property
    def overlapped(self) -> float:
        """Communication hidden behind compute."""
        return max(0.0, self.communication - self.exposed)


class _Timeline:
    """Times of the chip and of the network lanes, in seconds since the computation began."""

    def __init__(self):
        self.now = 0.0
        self._free: dict[str, float] = collections.defaultdict(float)
        self._landing: dict[str, list[float]] = collections.defaultdict(list)

    def send(self, key: str, lane: str, seconds: float, wait: bool) -> None:
        """Starts a transfer as soon as its lane is free. wait: block until the transfer is done."""
        self._free[lane] = max(self.now, self._free[lane]) + seconds
        if wait:
            self.now = self._free[lane]
        else:
            self._landing[key].append(self._free[lane])

    def wait(self, key: str) -> None:
        """Blocks until the oldest transfer of `key` is done."""
        if self._landing[key]:
            self.now = max(self.now, self._landing[key].pop(0))

    def rename(self, old: str, new: str) -> None:
        """Continues the transfers of `old` under the key `new`."""
        self._landing[new].extend(self._landing.pop(old, ()))


class _InstructionCosts:
    """The cost of each instruction of a program, computed once."""

    def __init__(self, program: Program, chip: Chip, kernel_efficiency: float, warnings: collections.Counter[str]):
        self._program, self._chip, self._efficiency = program, chip, kernel_efficiency
        self._warnings = warnings
        self._traffic = Traffic(program)
        self._work: dict[tuple[str, str], Work] = {}

    def work(self, computation: Computation, instruction: Instruction) -> Work:
        key = (computation.name, instruction.name)
        if key not in self._work:
            self._work[key] = self._measure(computation, instruction)
        return self._work[key]

    def _measure(self, computation: Computation, instruction: Instruction) -> Work:
        flops, hbm, cycles = (
            self._program.flops(computation, instruction),
            self._traffic.bytes(computation, instruction),
            instruction.cycles,
        )
        sealed = instruction.op == "custom-call" and instruction.target == kernels.CALL
        kernel = self._kernels(computation, instruction)
        roofline = max((flops + kernel) / self._chip.peak, hbm / self._chip.hbm_bandwidth)
        if instruction.op in STARTS:
            return Work(0.0, 0.0, flops, kernel, hbm, cycles, "asynchronous copies")
        if sealed or kernel:
            own = max(roofline, kernel / self._chip.peak / self._efficiency, cycles / self._chip.clock)
            return Work(own, roofline, flops, kernel, hbm, cycles, "attention kernels")
        kind = "matrix products" if flops else "fusions" if instruction.op == "fusion" else instruction.op
        return Work(max(roofline, cycles / self._chip.clock), roofline, flops, kernel, hbm, cycles, kind)

    def _kernels(self, computation: Computation, instruction: Instruction) -> float:
        """FLOPs of a Pallas kernel, or of the kernels inside a fusion."""
        if instruction.op == "fusion":
            inner = self._program.body(instruction)
            return sum(self._kernels(inner, each) for each in inner or () if each.op in ("fusion", "custom-call"))
        if instruction.op != "custom-call" or instruction.target != kernels.CALL:
            return 0.0
        found = kernels.flops(computation, instruction)
        if found is None:
            self._warnings[
                f"the kernel {re.sub(r'[.0-9]+$', '', instruction.name)} declares no FLOPs: only its HBM bytes are "
                "counted"
            ] += 1
        return found or 0.0


class ScheduleWalk:
    """Walks the schedule of one program on one fabric and records its instructions, collectives and loops."""

    def __init__(self, program: Program, fabric: Fabric, kernel_efficiency: float = KERNEL_EFFICIENCY):
        self.program, self.fabric = program, fabric
        self.done: list[tuple[int, str, Instruction, Work]] = []
        self.sent: list[tuple[int, Collective]] = []
        self.loops: list[dict] = []
        self.warnings: collections.Counter[str] = collections.Counter()
        self._costs = _InstructionCosts(program, fabric.topology.chip, kernel_efficiency, self.warnings)
        self._parts: dict[str, list[tuple[str, Collective]]] = {}

    def seconds(self, name: str, times: int, estimate: str) -> float:
        """Time of one run of a computation.

        name: the computation.
        times: number of its runs in a step.
        estimate: "seconds" or "roofline", the field of `Work` to sum. Only "seconds" records what it visits.
        """
        computation, clock = self.program.computations[name], _Timeline()
        for instruction in computation:
            kind = collectives_lib.kind_of(instruction)
            if kind:
                collective = self._collective(computation, instruction)
                self._keep(times, collective, estimate)
                clock.send(
                    instruction.name, collective.lane, collective.seconds, wait=not instruction.op.endswith("-start")
                )
            elif instruction.op.removesuffix("-done") in collectives_lib.KINDS or instruction.op == "async-done":
                clock.wait(instruction.operands[0])
            elif instruction.op == "async-start":
                for collective in self._wrapped(instruction):
                    self._keep(times, collective, estimate)
                    clock.send(instruction.name, collective.lane, collective.seconds, wait=False)
            elif instruction.op == "async-update":
                clock.rename(instruction.operands[0], instruction.name)
            elif instruction.op == "while":
                clock.now += self._loop(computation, instruction, times, estimate)
            elif instruction.op == "conditional":
                clock.now += self._branches(instruction, times, estimate)
            elif instruction.op == "call":
                clock.now += self.seconds(instruction.called, times, estimate)
            elif instruction.op not in _FREE:
                work = self._costs.work(computation, instruction)
                if estimate == "seconds":
                    self.done.append((times, name, instruction, work))
                clock.now += getattr(work, estimate)
                self._fused(clock, instruction, times, estimate)
        return clock.now

    def _loop(self, computation: Computation, loop: Instruction, times: int, estimate: str) -> float:
        trips = self.program.trips(computation, loop)
        if estimate == "seconds":
            if trips is None:
                self.warnings[f"the trip count of loop {loop.name} is unknown: counted once"] += 1
            self.loops.append({"loop": loop.name, "inside": computation.name, "trips": trips, "runs": times})
        turns = 1 if trips is None else trips
        parts = (loop.attribute("body"), loop.attribute("condition"))
        return turns * sum(self.seconds(part, times * turns, estimate) for part in parts)

    def _branches(self, instruction: Instruction, times: int, estimate: str) -> float:
        found = re.search(r"branch_computations=\{([^}]*)\}", instruction.attributes)
        names = (
            re.findall(r"%([\w.\-]+)", found.group(1))
            if found
            else [instruction.attribute(f"{side}_computation") for side in ("true", "false")]
        )
        if estimate == "seconds":
            self.warnings[
                "a conditional takes as long as its slowest branch; its FLOPs and bytes include every branch"
            ] += 1
        return max(self.seconds(name, times, estimate) for name in names)

    def _fused(self, clock: _Timeline, instruction: Instruction, times: int, estimate: str) -> None:
        """Collectives inside a fusion.

        A fusion holds the start, the end or a middle stage of a collective, which overlaps the fusion's compute, or all
        of it.
        """
        for stage, collective in self._stages(instruction):
            if stage == "end":
                clock.wait(f"channel {collective.channel}")
            elif stage != "part":
                self._keep(times, collective, estimate)
                clock.send(f"channel {collective.channel}", collective.lane, collective.seconds, wait=stage == "all")

    def _stages(self, instruction: Instruction) -> list[tuple[str, Collective]]:
        inner = self.program.body(instruction) if instruction.op == "fusion" else None
        if inner is None:
            return []
        if inner.name not in self._parts:
            targets = {each.target for each in inner if each.op == "custom-call"}
            found = []
            for each in inner:
                if collectives_lib.kind_of(each):
                    part = any(_FUSED_PART.search(other.attributes) for other in inner)
                    stage = (
                        "start"
                        if START_CALL in targets
                        else "end"
                        if DONE_CALL in targets
                        else "part"
                        if part
                        else "all"
                    )
                    found.append((stage, collectives_lib.describe(self.program, inner, each, self.fabric)))
                else:
                    found += self._stages(each)
            self._parts[inner.name] = found
        return self._parts[inner.name]

    def _wrapped(self, instruction: Instruction) -> list[Collective]:
        inner = self.program.body(instruction)
        return [
            collectives_lib.describe(self.program, inner, each, self.fabric)
            for each in inner or ()
            if collectives_lib.kind_of(each)
        ]

    def _collective(self, computation: Computation, instruction: Instruction) -> Collective:
        key = f"{computation.name}/{instruction.name}"
        if key not in self._parts:
            self._parts[key] = [("all", collectives_lib.describe(self.program, computation, instruction, self.fabric))]
        return self._parts[key][0][1]

    def _keep(self, times: int, collective: Collective, estimate: str) -> None:
        if estimate == "seconds":
            self.sent.append((times, collective))


def predict(
    program: Program, fabric: Fabric, kernel_efficiency: float = KERNEL_EFFICIENCY, top: int = 20
) -> Prediction:
    """Predicts the step time of a compiled program.

    program, fabric: the compiled step and the mesh it runs on.
    kernel_efficiency: share of the peak rate that Pallas kernels are assumed to reach.
    top: number of slowest instructions to list.
    """
    walk = ScheduleWalk(program, fabric, kernel_efficiency)
    scheduled = walk.seconds(program.entry, 1, "seconds")
    roofline = walk.seconds(program.entry, 1, "roofline")
    done = walk.done
    compute = sum(times * work.seconds for times, _, _, work in done)
    hbm = sum(times * work.hbm for times, _, _, work in done)
    hbm_seconds = hbm / fabric.topology.chip.hbm_bandwidth
    by_kind: dict[str, float] = collections.defaultdict(float)
    for times, _, _, work in done:
        by_kind[work.kind] += times * work.seconds
    return Prediction(
        scheduled=max(scheduled, hbm_seconds),
        roofline=max(roofline, hbm_seconds),
        compute=compute,
        communication=sum(times * collective.seconds for times, collective in walk.sent),
        exposed=max(0.0, scheduled - compute),
        flops=sum(times * work.flops for times, _, _, work in done),
        kernel_flops=sum(times * work.kernel for times, _, _, work in done),
        hbm_bytes=hbm,
        hbm_seconds=hbm_seconds,
        by_kind=dict(sorted(by_kind.items(), key=lambda item: -item[1])),
        collectives=tuple(_collective_rows(walk.sent)),
        loops=tuple(walk.loops),
        slowest=tuple(_slowest(done, top)),
        warnings=tuple(walk.warnings),
    )


def _collective_rows(sent: list[tuple[int, Collective]]) -> list[dict]:
    """One row per kind, mesh axes, network and dtype, slowest first."""
    rows: dict[tuple, dict] = {}
    for times, collective in sent:
        key = (collective.kind, collective.axes, collective.network, collective.group, collective.dtype)
        names = dict(
            kind=collective.kind,
            axes=list(collective.axes),
            network=collective.network,
            group=collective.group,
            dtype=collective.dtype,
        )
        row = rows.setdefault(key, names | {"runs": 0, "payload_bytes": 0.0, "wire_bytes": 0.0, "seconds": 0.0})
        row["runs"] += times
        row["payload_bytes"] += times * collective.payload
        row["wire_bytes"] += times * collective.wire
        row["seconds"] += times * collective.seconds
    return sorted(rows.values(), key=lambda row: -row["seconds"])


def _slowest(done: list[tuple[int, str, Instruction, Work]], top: int) -> list[dict]:
    ordered = sorted(done, key=lambda each: -each[0] * each[3].seconds)[:top]
    return [
        {
            "instruction": instruction.name,
            "inside": inside,
            "runs": times,
            "seconds": times * work.seconds,
            "roofline_seconds": times * work.roofline,
            "flops": times * (work.flops + work.kernel),
            "hbm_bytes": times * work.hbm,
            "source": instruction.op_name,
        }
        for times, inside, instruction, work in ordered
    ]


def model_flops(parameters: int, layers: int, heads: int, head_dim: int, rows: int, length: int) -> float:
    """FLOPs of one step that the model needs, without recomputation.

    6 FLOPs per parameter and token, plus causal attention (PaLM, arXiv 2204.02311, appendix B, halved for the mask).
    The embedding counts once: looking up rows costs nothing, computing logits does.
    """
    tokens = rows * length
    return 6.0 * parameters * tokens + 6.0 * layers * heads * head_dim * length * tokens
