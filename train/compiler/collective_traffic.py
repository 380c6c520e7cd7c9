"""Bytes that a scheduled instruction moves to or from HBM.

The count is a lower bound: each operand and result once, and only arrays in HBM. Slices move what they return, updates
what they write. A fusion moves only what its slices touch of its operands. Results that a collective writes count as
network traffic instead.
"""

from castor.train.compiler.collectives import kind_of
from castor.train.compiler.hlo import HBM, Computation, Instruction, Program

_VIEWS = ("bitcast", "convert", "reshape")
_SLICES = ("dynamic-slice", "slice", "gather")
STARTS = ("copy-start", "slice-start")
DONES = ("copy-done", "slice-done")
START_CALL, DONE_CALL = "AsyncCollectiveStart", "AsyncCollectiveDone"


class Traffic:
    """HBM traffic of the instructions of one program; caches the analysis of fusions."""

    def __init__(self, program: Program):
        self._program = program
        self._read: dict[tuple[str, str], float] = {}

    def bytes(self, computation: Computation, instruction: Instruction) -> float:
        """Bytes moved to and from HBM when `instruction` runs once."""
        known = computation.instructions
        inputs = [known[name] for name in instruction.operands if name in known]
        if instruction.op in DONES:
            return 0.0
        if instruction.op == "custom-call" and instruction.target != "tpu_custom_call":
            return 0.0  # assertions, partial results, starts and ends of asynchronous collectives
        if instruction.op in STARTS:
            moved = [array for array in instruction.arrays if array.space <= 1 and array.shape][-1]
            return moved.nbytes * ((moved.space == HBM) + (inputs[0].arrays[0].space == HBM))
        if instruction.op in _SLICES:
            return instruction.hbm_bytes + (instruction.nbytes if inputs[0].hbm_bytes else 0.0)
        if instruction.op == "dynamic-update-slice":
            return inputs[1].hbm_bytes + (inputs[1].nbytes if instruction.hbm_bytes else 0.0)
        inner = self._program.body(instruction) if instruction.op == "fusion" else None
        if inner is None:
            return instruction.hbm_bytes + sum(each.hbm_bytes for each in inputs)
        if any(each.target in (START_CALL, DONE_CALL) for each in inner):
            return 0.0
        return self._inputs(computation, instruction, inner) + self._results(instruction, inner)

    def _inputs(self, computation: Computation, fusion: Instruction, inner: Computation) -> float:
        total = 0.0
        for number, name in enumerate(fusion.operands):
            source = computation.instructions.get(name)
            if source is not None and number in inner.parameters:
                total += min(source.hbm_bytes, self.read(inner, inner.parameters[number].name))
        return total

    def _results(self, fusion: Instruction, inner: Computation) -> float:
        total = 0.0
        names = inner.root.operands if inner.root.op == "tuple" else (inner.root.name,)
        for array, name in zip(fusion.arrays, names):
            made = inner.instructions.get(name)
            while made is not None and made.op in _VIEWS[:2] and made.operands:
                made = inner.instructions.get(made.operands[0])
            if array.space != HBM or made is None or made.op == "parameter" or kind_of(made):
                continue
            if made.op == "dynamic-update-slice":
                update = inner.instructions.get(made.operands[1])
                total += min(array.nbytes, update.nbytes) if update else array.nbytes
            else:
                total += array.nbytes
        return total

    def read(self, computation: Computation, name: str) -> float:
        """Bytes of a value that its readers inside a fusion touch, at most its size."""
        key = (computation.name, name)
        if key not in self._read:
            whole = computation.instructions[name].nbytes
            touched = sum(self._touched(computation, name, user, whole) for user in computation.users.get(name, ()))
            self._read[key] = min(touched, whole)
        return self._read[key]

    def _touched(self, computation: Computation, name: str, user: Instruction, whole: float) -> float:
        if user.op in _SLICES and user.operands[0] == name:
            return user.nbytes
        if user.op == "tuple" or kind_of(user) or (user.op == "dynamic-update-slice" and user.operands[0] == name):
            return 0.0
        if user.op in ("bitcast", "reshape"):
            return self.read(computation, user.name)
        inner = self._program.body(user) if user.op == "fusion" else None
        if inner is None:
            return whole
        places = (
            number for number, operand in enumerate(user.operands) if operand == name and number in inner.parameters
        )
        return sum(self.read(inner, inner.parameters[number].name) for number in places)
