"""Parsing of optimized HLO: golden snippets, trip counts of loops, FLOPs of products against brute-force counting."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from castor.train.compiler import hlo

SCAN = """HloModule jit_step, is_scheduled=true, num_partitions=8

%fused_add (param_0: s32[]) -> s32[] {
  %param_0 = s32[]{:T(128)} parameter(0)
  %one = s32[]{:T(128)} constant(1)
  ROOT %add.9 = s32[]{:T(128)} add(%param_0, %one)
}

%fused_compare (param_0.1: s32[], param_1.1: s32[]) -> pred[] {
  %param_0.1 = s32[]{:T(128)} parameter(0)
  %param_1.1 = s32[]{:T(128)} parameter(1)
  ROOT %compare.1 = pred[]{:T(512)} compare(%param_0.1, %param_1.1), direction=LT
}

%body (arg: (s32[], f32[8,128], s32[])) -> (s32[], f32[8,128], s32[]) {
  %arg = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}, s32[]{:T(128)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%arg), index=0
  %x = f32[8,128]{1,0:T(8,128)} get-tuple-element(%arg), index=1
  %limit = s32[]{:T(128)} get-tuple-element(%arg), index=2
  %next = s32[]{:T(128)} fusion(%i), kind=kLoop, calls=%fused_add
  %y = f32[8,128]{1,0:T(8,128)} add(%x, %x), metadata={op_name="jit(step)/layers/add"}, backend_config={"window_config":{"estimated_cycles":"120"}}
  ROOT %out = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}, s32[]{:T(128)}) tuple(%next, %y, %limit)
}

%condition (arg.1: (s32[], f32[8,128], s32[])) -> pred[] {
  %arg.1 = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}, s32[]{:T(128)}) parameter(0)
  %i.1 = s32[]{:T(128)} get-tuple-element(%arg.1), index=0
  %limit.1 = s32[]{:T(128)} get-tuple-element(%arg.1), index=2
  ROOT %less = pred[]{:T(512)} fusion(%i.1, %limit.1), kind=kLoop, calls=%fused_compare
}

ENTRY %main (p: f32[8,128]) -> f32[8,128] {
  %p = f32[8,128]{1,0:T(8,128)} parameter(0), sharding={replicated}
  %start = s32[]{:T(128)} constant(START)
  %end = s32[]{:T(128)} constant(26)
  %tuple = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}, /*index=2*/s32[]{:T(128)}) tuple(%start, %p, %end)
  %loop = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}, s32[]{:T(128)}) while(%tuple), condition=%condition, body=%body
  %kernel = bf16[4]{0:T(256)S(1)} custom-call(%p), custom_call_target="tpu_custom_call", frontend_attributes={kernel_metadata={
"xprof_metadata":"{\\"block_q\\": 512}"
}}
  ROOT %result = f32[8,128]{1,0:T(8,128)} get-tuple-element(%loop), index=1
}
"""


def parse(text: str) -> hlo.Program:
    return hlo.parse(io.StringIO(text))


def product(line: str, left: str, right: str) -> float:
    text = f"ENTRY %main () -> f32[1] {{\n  %a = {left} parameter(0)\n  %b = {right} parameter(1)\n  ROOT %c = {line}\n}}\n"
    computation = parse(text).computations["main"]
    return hlo.product_flops(computation, computation.root)


def test_instructions_keep_what_a_cost_model_needs():
    program = parse(SCAN.replace("START", "0"))
    assert (program.entry, program.num_partitions, len(program.computations)) == ("main", 8, 5)
    y = program.computations["body"].instructions["y"]
    assert (y.op, y.operands, y.cycles, y.op_name) == ("add", ("x", "x"), 120, "jit(step)/layers/add")
    assert y.arrays == (hlo.Array("f32", (8, 128)),) and y.nbytes == 4096
    main = program.computations["main"]
    assert [each.dtype for each in main.instructions["tuple"].arrays] == ["s32", "f32", "s32"]
    kernel = main.instructions["kernel"]
    assert kernel.target == "tpu_custom_call" and "block_q" in kernel.attributes and kernel.operands == ("p",)
    assert kernel.arrays == (hlo.Array("bf16", (4,), space=1),) and kernel.hbm_bytes == 0
    assert main.root.name == "result" and program.callers["body"][1].name == "loop"


@pytest.mark.parametrize(("start", "trips"), [(0, 26), (2, 24), (30, 0)])
def test_a_loop_runs_from_its_start_to_the_bound_that_it_carries_along(start, trips):
    program = parse(SCAN.replace("START", str(start)))
    main = program.computations["main"]
    assert program.trips(main, main.instructions["loop"]) == trips


@pytest.mark.parametrize(
    ("change", "trips"),
    [
        (("direction=LT", "direction=LE"), 27),
        (("fusion(%i.1, %limit.1), kind", "fusion(%limit.1, %i.1), kind"), 0),  # 26 < i: never begins
        (("add(%param_0, %one)", "multiply(%param_0, %one)"), None),
        (("tuple(%next, %y, %limit)", "tuple(%next, %y, %i)"), None),  # the bound moves
        (("constant(1)", "constant(4)"), 7),
    ],
)
def test_other_bounds_and_strides(change, trips):
    program = parse(SCAN.replace("START", "0").replace(*change))
    main = program.computations["main"]
    assert program.trips(main, main.instructions["loop"]) == trips


def test_a_known_trip_count_is_believed():
    text = SCAN.replace("START", "0").replace("body=%body", 'body=%body, backend_config={"known_trip_count":{"n":"5"}}')
    main = parse(text).computations["main"]
    assert parse(text).trips(main, main.instructions["loop"]) == 5


def test_text_that_is_no_module_is_refused():
    with pytest.raises(ValueError, match="ENTRY"):
        parse("not HLO at all\n")


def test_products():
    assert (
        product(
            "f32[64,32]{1,0} dot(%a, %b), lhs_contracting_dims={1}, rhs_contracting_dims={0}",
            "f32[64,128]{1,0}",
            "f32[128,32]{1,0}",
        )
        == 2 * 64 * 128 * 32
    )
    line = "bf16[64,32]{1,0} convolution(%a, %b), dim_labels=bf_io->bf"
    assert product(line, "bf16[64,128]{1,0}", "bf16[128,32]{1,0}") == 2 * 64 * 128 * 32
    # How the TPU compiler writes a batched product: a window over the batch of which only the diagonal meets the input.
    line = "bf16[4,8,16]{2,1,0} convolution(%a, %b), window={size=4 stride=3 pad=3_3 lhs_dilate=4 rhs_reversal=1}, dim_labels=0bf_0io->0bf"
    assert product(line, "bf16[4,8,32]{2,1,0}", "bf16[4,32,16]{2,1,0}") == 2 * 4 * 8 * 32 * 16


@given(*[st.integers(1, 6)] * 3, st.integers(-3, 6), *[st.integers(1, 4)] * 3)
def test_meeting_pairs_are_what_counting_finds(size, kernel, outputs, low, stride, dilation, kernel_dilation):
    inputs = {low + element * dilation for element in range(size)}
    counted = sum(
        output * stride + element * kernel_dilation in inputs for output in range(outputs) for element in range(kernel)
    )
    assert hlo.meeting_pairs(size, kernel, outputs, low, stride, dilation, kernel_dilation) == counted


def test_flops_reach_into_fusions():
    text = (
        "%inner (a: f32[8,8]) -> f32[8,8] {\n  %a = f32[8,8]{1,0} parameter(0)\n"
        "  ROOT %d = f32[8,8]{1,0} dot(%a, %a), lhs_contracting_dims={1}, rhs_contracting_dims={0}\n}\n"
        "ENTRY %main (p: f32[8,8]) -> f32[8,8] {\n  %p = f32[8,8]{1,0} parameter(0)\n"
        "  ROOT %f = f32[8,8]{1,0} fusion(%p), kind=kOutput, calls=%inner\n}\n"
    )
    program = parse(text)
    assert program.flops(program.computations["main"], program.computations["main"].root) == 2 * 8**3
