"""train/compiler/predict.py: trip counts multiply, collectives overlap compute, attention kernels are costed by
shape.
"""

import io

import numpy as np
import pytest

from castor.train.compiler import kernels
from castor.train.compiler.chips import CHIPS, Topology
from castor.train.compiler.collective_traffic import Traffic
from castor.train.compiler.collectives import Fabric
from castor.train.compiler.hlo import parse
from castor.train.compiler.predict import model_flops, predict

CYCLES = 1_000_000  # of the matrix product below: far above its roofline
CHIP = CHIPS["v5e"]
GATHER = 15 * 2**20 / (2 * CHIP.link)  # 16 MiB over a closed ring of sixteen

PROGRAM = """HloModule jit_step, is_scheduled=true, num_partitions=16

%body (arg: (s32[], bf16[128,128], bf16[32768,16])) -> (s32[], bf16[128,128], bf16[32768,16]) {
  %arg = (s32[], bf16[128,128]{1,0}, bf16[32768,16]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%arg), index=0
  %x = bf16[128,128]{1,0} get-tuple-element(%arg), index=1
  %w = bf16[32768,16]{1,0} get-tuple-element(%arg), index=2
  %start = (bf16[32768,16]{1,0}, bf16[32768,256]{1,0}) all-gather-start(%w), channel_id=1, replica_groups=[1,16]<=[16], dimensions={1}
  %product = bf16[128,128]{1,0} convolution(%x, %x), dim_labels=bf_io->bf, backend_config={"window_config":{"estimated_cycles":"CYCLES"}}
  %done = bf16[32768,256]{1,0} all-gather-done(%start)
  %one = s32[] constant(1)
  %next = s32[] add(%i, %one)
  ROOT %out = (s32[], bf16[128,128]{1,0}, bf16[32768,16]{1,0}) tuple(%next, %product, %w)
}

%condition (arg.1: (s32[], bf16[128,128], bf16[32768,16])) -> pred[] {
  %arg.1 = (s32[], bf16[128,128]{1,0}, bf16[32768,16]{1,0}) parameter(0)
  %i.1 = s32[] get-tuple-element(%arg.1), index=0
  %limit = s32[] constant(12)
  ROOT %less = pred[] compare(%i.1, %limit), direction=LT
}

ENTRY %main (x: bf16[128,128], w: bf16[32768,16]) -> bf16[128,128] {
  %x.1 = bf16[128,128]{1,0} parameter(0)
  %w.1 = bf16[32768,16]{1,0} parameter(1)
  %zero = s32[] constant(0)
  %tuple = (s32[], bf16[128,128]{1,0}, bf16[32768,16]{1,0}) tuple(%zero, %x.1, %w.1)
  %loop = (s32[], bf16[128,128]{1,0}, bf16[32768,16]{1,0}) while(%tuple), condition=%condition, body=%body
  ROOT %result = bf16[128,128]{1,0} get-tuple-element(%loop), index=1
}
"""

FUSED = """HloModule jit_step, is_scheduled=true, num_partitions=16

%begin (p: bf16[32768,16]) -> (bf16[32768,256], u32[]) {
  %p = bf16[32768,16]{1,0} parameter(0)
  %g = bf16[32768,256]{1,0} all-gather(%p), channel_id=7, replica_groups=[1,16]<=[16], dimensions={1}, backend_config={"async_collective_fusion_config":{"flag_start":"-1"}}
  ROOT %c = (bf16[32768,256]{1,0}, u32[]{:S(2)}) custom-call(%g), custom_call_target="AsyncCollectiveStart"
}

%middle (p.1: bf16[128,128], q: bf16[32768,16]) -> bf16[128,128] {
  %p.1 = bf16[128,128]{1,0} parameter(0)
  %q = bf16[32768,16]{1,0} parameter(1)
  %g.1 = bf16[32768,256]{1,0} all-gather(%q), channel_id=7, replica_groups=[1,16]<=[16], dimensions={1}, backend_config={"async_collective_fusion_config":{"flag_start":"2"}}
  ROOT %d = bf16[128,128]{1,0} convolution(%p.1, %p.1), dim_labels=bf_io->bf
}

%end (q.1: bf16[32768,16]) -> bf16[32768,256] {
  %q.1 = bf16[32768,16]{1,0} parameter(0)
  %g.2 = bf16[32768,256]{1,0} all-gather(%q.1), channel_id=7, replica_groups=[1,16]<=[16], dimensions={1}
  ROOT %c.1 = bf16[32768,256]{1,0} custom-call(%q.1, %g.2), custom_call_target="AsyncCollectiveDone"
}

ENTRY %main (x: bf16[128,128], w: bf16[32768,16]) -> bf16[32768,256] {
  %x = bf16[128,128]{1,0} parameter(0)
  %w = bf16[32768,16]{1,0} parameter(1)
  %s = (bf16[32768,256]{1,0}, u32[]{:S(2)}) fusion(%w), kind=kLoop, calls=%begin
  %m = bf16[128,128]{1,0} fusion(%x, %w), kind=kOutput, calls=%middle, backend_config={"window_config":{"estimated_cycles":"CYCLES"}}
  ROOT %e = bf16[32768,256]{1,0} fusion(%w), kind=kLoop, calls=%end
}
"""


def fabric() -> Fabric:
    topology = Topology.of("v5e:16x16")
    places = np.stack(np.unravel_index(np.arange(16), (1, 16)), -1)
    return Fabric(topology, ("fsdp", "tensor"), (16, 1), places, np.zeros(16, int))


def test_loops_multiply_and_what_lies_behind_compute_is_told_from_what_does_not():
    prediction = predict(parse(io.StringIO(PROGRAM.replace("CYCLES", str(CYCLES)))), fabric())
    product = CYCLES / CHIP.clock
    assert product > GATHER
    assert prediction.compute == pytest.approx(12 * product, rel=1e-3) and prediction.communication == pytest.approx(
        12 * GATHER
    )
    assert (
        prediction.scheduled == pytest.approx(prediction.compute)
        and prediction.exposed == pytest.approx(0, abs=1e-9)
        and prediction.overlapped == pytest.approx(12 * GATHER)
    )
    assert prediction.flops == 12 * 2 * 128**3
    (row,) = prediction.collectives
    assert (row["kind"], row["axes"], row["network"], row["runs"], row["wire_bytes"]) == (
        "all-gather",
        ["fsdp"],
        "ICI",
        12,
        12 * 15 * 2**20,
    )
    assert prediction.loops == ({"loop": "loop", "inside": "main", "trips": 12, "runs": 1},)
    # With a tenth of the compute, the transfer is exposed.
    short = predict(parse(io.StringIO(PROGRAM.replace("CYCLES", str(CYCLES // 10)))), fabric())
    assert short.scheduled == pytest.approx(12 * GATHER, rel=1e-3) and short.exposed == pytest.approx(
        12 * (GATHER - product / 10), rel=1e-3
    )


def test_a_collective_fused_into_compute_counts_once_from_its_start_to_its_end():
    prediction = predict(parse(io.StringIO(FUSED.replace("CYCLES", str(CYCLES)))), fabric())
    assert prediction.communication == pytest.approx(GATHER) and prediction.exposed == pytest.approx(0, abs=1e-9)
    short = predict(parse(io.StringIO(FUSED.replace("CYCLES", "10"))), fabric())
    assert short.scheduled == pytest.approx(GATHER, rel=1e-2) and short.exposed == pytest.approx(GATHER, rel=2e-2)


def test_a_loop_of_unknown_length_is_counted_once_and_said():
    prediction = predict(
        parse(
            io.StringIO(
                PROGRAM.replace("CYCLES", "1000").replace("%limit = s32[] constant(12)", "%limit = s32[] negate(%i.1)")
            )
        ),
        fabric(),
    )
    assert prediction.loops[0]["trips"] is None and "loop" in prediction.warnings[0]


def traffic(body: str, called: str = "") -> float:
    program = parse(io.StringIO(f"{called}ENTRY %main () -> f32[1] {{\n{body}\n}}\n"))
    main = program.computations["main"]
    return Traffic(program).bytes(main, main.root)


def test_traffic_is_what_must_pass():
    big = "  %a = f32[100,1000]{1,0} parameter(0)\n"
    assert traffic(big + "  ROOT %r = f32[100,1000]{1,0} negate(%a)") == 800_000
    assert traffic(big + "  ROOT %r = f32[100,1000]{1,0:S(1)} negate(%a)") == 400_000
    assert (
        traffic(
            big
            + "  %i = s32[] parameter(1)\n  ROOT %r = f32[1,1000]{1,0} dynamic-slice(%a, %i, %i), dynamic_slice_sizes={1,1000}"
        )
        == 8_000
    )
    inner = (
        "%inner (p: f32[100,1000], i: s32[]) -> f32[1,1000] {\n  %p = f32[100,1000]{1,0} parameter(0)\n  %i.1 = s32[] "
        "parameter(1)\n"
        "  ROOT %s = f32[1,1000]{1,0} dynamic-slice(%p, %i.1, %i.1), dynamic_slice_sizes={1,1000}\n}\n"
    )
    assert (
        traffic(
            big + "  %i = s32[] parameter(1)\n  ROOT %r = f32[1,1000]{1,0} fusion(%a, %i), kind=kLoop, calls=%inner",
            inner,
        )
        == 8_004
    )  # and the index
    update = (
        "%inner (p: f32[100,1000], u: f32[1,1000], i: s32[]) -> f32[100,1000] {\n  %p = f32[100,1000]{1,0} "
        "parameter(0)\n"
        "  %u = f32[1,1000]{1,0} parameter(1)\n  %i.1 = s32[] parameter(2)\n"
        "  ROOT %s = f32[100,1000]{1,0} dynamic-update-slice(%p, %u, %i.1, %i.1)\n}\n"
    )
    body = big + "  %u.1 = f32[1,1000]{1,0} parameter(1)\n  %i = s32[] parameter(2)\n"
    assert (
        traffic(body + "  ROOT %r = f32[100,1000]{1,0} fusion(%a, %u.1, %i), kind=kLoop, calls=%inner", update) == 8_004
    )


def splash(kind: str, rows: int, columns: int, results: str, metadata: str) -> float | None:
    text = f"""ENTRY %main () -> f32[1] {{
  %m = s8[1,4,4]{{2,1,0}} parameter(0)
  %q = bf16[2,8,{rows},256]{{3,2,1,0}} parameter(1)
  %k = bf16[2,{columns},256]{{2,1,0}} parameter(2)
  %v = bf16[2,{columns},256]{{2,1,0}} parameter(3)
  ROOT %splash_mqa_{kind}_segmented.1 = {results} custom-call(%m, %q, %k, %v), custom_call_target="tpu_custom_call", frontend_attributes={{kernel_metadata={{
"xprof_metadata":"{{{metadata}}}"
}}}}
}}
"""
    main = parse(io.StringIO(text)).computations["main"]
    return kernels.flops(main, main.root)


SPLASH_OF_ONE_ROW = r"""ENTRY %main () -> f32[1] {
  %m = s32[1,4,4]{2,1,0} parameter(0)
  %q = bf16[8,4096,256]{2,1,0} parameter(1)
  %k = bf16[4096,256]{1,0} parameter(2)
  %v = bf16[4096,256]{1,0} parameter(3)
  %s = s32[4096,128]{1,0} parameter(4)
  ROOT %closed_call.1 = bf16[8,4096,256]{2,1,0} custom-call(%m, %m, %q, %k, %v, %s), custom_call_target="tpu_custom_call", frontend_attributes={kernel_metadata={
"xprof_metadata":"{\"block_q\": 1024, \"block_kv\": 1024}"
}}
}
"""


def test_splash_attention_is_counted_by_whole_blocks_under_the_diagonal():
    out, block = "(bf16[2,8,4096,256]{3,2,1,0}, f32[2,8,4096,128]{3,2,1,0})", 2 * 1024 * 1024 * 256
    blocks = 4 * 5 // 2 * 2 * 8
    assert splash("fwd", 4096, 4096, out, r"\"block_q\": 1024, \"block_kv\": 1024") == 2 * blocks * block
    assert splash("dq", 4096, 4096, out, r"\"block_q_dq\": 1024, \"block_kv_dq\": 1024") == 3 * blocks * block
    two = "(bf16[2,4096,256]{2,1,0}, bf16[2,4096,256]{2,1,0})"
    assert splash("dkv", 4096, 4096, two, r"\"block_q_dkv\": 1024, \"block_kv_dkv\": 1024") == 4 * blocks * block
    three = "(bf16[2,4,8,4096,256]{4,3,2,1,0}, bf16[2,4096,256]{2,1,0}, bf16[2,4096,256]{2,1,0})"
    assert splash("dkv", 4096, 4096, three, r"\"block_q_dkv\": 1024, \"block_kv_dkv\": 1024") == 5 * blocks * block
    # With one row per device the arrays lack the row axis; a quarter of the queries has a quarter of the triangle.
    text = SPLASH_OF_ONE_ROW
    main = parse(io.StringIO(text)).computations["main"]
    assert kernels.flops(main, main.root) == 2 * blocks / 2 * block
    assert splash("fwd", 1024, 4096, out, r"\"block_q\": 1024, \"block_kv\": 1024") == 2 * blocks / 4 * block


def test_model_flops():
    assert model_flops(1000, 2, 4, 8, rows=3, length=10) == 6 * 1000 * 30 + 3 * 2 * (2 * 2 * 10 * 10 * 4 * 8) * 3 / 2
