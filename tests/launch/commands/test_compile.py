"""`castor compile` as users run it, on the smallest model that has every part, and its page."""

import json
import os
import subprocess
import sys

import pytest
from train_world import REPOSITORY

from castor.launch.command import main
from castor.launch.reports import compile_report

TINY = [
    "--gin_file=models/tiny.gin",
    "--gin_file=runs/pretrain.gin",
    "--topology=v5e:2x2",
    "--gin.MESH={'fsdp': 2, 'tensor': 2}",
]
SHAPE = [
    f"--gin.Transformer.{name}={value}" for name, value in dict(embed=16, layers=3, heads=2, head_dim=8, mlp=32).items()
]


def test_a_step_is_compiled_without_caches_and_told_as_table_json_and_page(tmp_path, capsys):
    pytest.importorskip("libtpu", reason="the TPU compiler (libtpu) is not installed")
    arguments = [
        "compile",
        *TINY,
        *SHAPE,
        "--vocab_size=256",
        "--gin.TASK_FEATURE_LENGTHS={'targets': 128}",
        f"--output={tmp_path}",
        "--keep_hlo",
    ]
    code, printed = main(arguments), capsys.readouterr()
    assert code == 0, printed.err
    assert "FITS" in printed.out and "all-gather" in printed.out
    report = json.loads((tmp_path / "report.json").read_text())
    assert (
        report["castor_compile"] == 1
        and report["fits"]
        and report["mesh"] == {**report["mesh"], "fsdp": 2, "tensor": 2}
    )
    assert report["batch"] == {"rows": 8, "length": 128, "tokens": 1024, "accumulate": 1}
    assert 3 in [loop["trips"] for loop in report["loops"]]
    axes = {tuple(row["axes"]) for row in report["collectives"]}
    assert ("fsdp",) in axes and ("tensor",) in axes
    assert {row["network"] for row in report["collectives"]} == {"ICI"}
    step = report["step"]
    assert step["seconds"] >= step["roofline_seconds"] > 0 and step["seconds"] == pytest.approx(
        step["compute_seconds"] + step["exposed_seconds"]
    )
    assert 1 < report["flops"]["hardware_over_model"] < 10 and 0 < step["mfu"] < 1
    assert report["memory"]["peak"] > report["memory"]["arguments"] > 0
    page = (tmp_path / "report.html").read_text()
    assert "FITS" in page and "<script" not in page and "http" not in page
    assert (tmp_path / "step.hlo.txt").read_text().startswith("HloModule")


def test_the_page_escapes_whatever_names_it_is_given():
    model = dict(
        vocab_size=8,
        embed=8,
        layers=1,
        heads=1,
        kv_heads=1,
        head_dim=8,
        mlp=8,
        parameters=64,
        attention="<script>alert(1)</script>",
    )
    head = {
        "model": model,
        "batch": {"rows": 1, "length": 8, "tokens": 8, "accumulate": 1},
        "optimizer": "AdamW",
        "topology": {"name": "v5e:2x2", "slices": 1, "chips": 4, "peak_flops": 1.0},
        "mesh": {"data": 4},
        "compiler_options": {},
    }
    report = {
        **head,
        "fits": False,
        "memory": {"peak": None, "capacity": 2**34, "usable": 2**34},
        "refusal": "The step needs <b>more</b>.",
    }
    page = compile_report.render(report)
    assert "<script>" not in page and "&lt;script&gt;" in page and "&lt;b&gt;" in page and "DOES NOT FIT" in page


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([*TINY], "--vocab_size"),
        ([*TINY, "--vocab_size=250", "--gin.MESH={'tensor': 4}"], "Transformer.vocab_size = 250"),
        ([*TINY, "--vocab_size=256", "--gin.BATCH_SIZE=3"], "BATCH_SIZE"),
        ([*TINY, "--vocab_size=256", "--topology=v5x:2x2"], "v5x"),
        ([*TINY, "--vocab_size=256", "--gin.TASK_FEATURE_LENGTHS={'inputs': 8}"], "targets"),
    ],
)
def test_bad_use_is_one_line(arguments, said, capsys):
    pytest.importorskip("libtpu", reason="the TPU compiler (libtpu) is not installed")
    assert main(["compile", *arguments]) == 2
    assert said in capsys.readouterr().err.strip().splitlines()[-1]


def test_without_the_tpu_compiler_the_error_names_what_to_install(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "libtpu", None)
    assert main(["compile", *TINY, "--vocab_size=256"]) == 2
    assert "castor[tpu]" in capsys.readouterr().err


def test_castor_is_silent_where_libtpu_is_installed_and_no_tpu_is_there(tmp_path):
    pytest.importorskip("libtpu", reason="the TPU compiler (libtpu) is not installed")
    from castor.launch.devices import has_accelerator

    if has_accelerator():
        pytest.skip("this machine has an accelerator")
    program = "import argparse; from castor.launch.devices import start_jax; start_jax(argparse.Namespace(cpu_devices=None)); import jax; print(jax.devices()[0].platform)"
    environment = {name: value for name, value in os.environ.items() if name != "JAX_PLATFORMS"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", program], capture_output=True, text=True, env=environment, cwd=REPOSITORY
    )
    assert (done.stdout, done.stderr) == ("cpu\n", "")
