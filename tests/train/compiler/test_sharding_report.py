"""train/compiler/sharding_report.py and `castor train --explain_sharding` against hand counts, real state and a golden
page.

After an intended change, run `CASTOR_WRITE_GOLDEN=1 python -m pytest tests/train/compiler/test_sharding_report.py` and
read the diff.
"""

import dataclasses
import os
import pathlib

import jax
import numpy as np
import pytest

import gin
from castor.launch.command import main
from castor.train.compiler import sharding_report
from castor.train.model.decoder import DecoderConfig
from castor.train.optimizers import Adafactor, AdamW
from castor.train.partitioning import Partitioner
from castor.train.step import TrainStep

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "explain_sharding.txt"
MODEL = DecoderConfig(vocab_size=256, embed=32, layers=2, heads=4, head_dim=8, mlp=64, dtype="bfloat16")


def train_step_on(mesh, devices, optimizer=AdamW()):
    return TrainStep(MODEL, optimizer, Partitioner.abstract(mesh, devices), 1)


def test_bytes_a_device_by_hand():
    rows = {
        row.name: row
        for row in sharding_report.state(
            train_step_on({"data": 2, "fsdp": 2, "context": 2, "sequence": 2, "tensor": 2}, 32)
        )
    }
    gate = rows["layers/gate"]  # [2, 32, 64] float32, embed in 4 parts and mlp in 4, two copies along data
    assert gate.axes == ("layers", "embed", "mlp") and gate.cut == ("", "fsdp=2 context=2", "sequence=2 tensor=2")
    assert (gate.total, gate.local, gate.copies, gate.whole) == (16384, 1024, 2, False)
    norm = rows["layers/mlp_norm/scale"]
    assert (norm.total, norm.local, norm.copies, norm.whole) == (256, 256, 32, True)
    moment = next(row for name, row in rows.items() if name.endswith("mu/layers/gate"))
    assert (moment.kind, moment.axes, moment.local) == ("optimizer", gate.axes, gate.local)


def test_adafactors_rows_and_columns_are_cut_as_what_they_are_of():
    wide = dataclasses.replace(MODEL, embed=128, mlp=256)  # what is smaller, Adafactor keeps whole
    train_step = dataclasses.replace(train_step_on({"fsdp": 4, "tensor": 2}, 8, Adafactor()), model=wide)
    rows = {row.name: row for row in sharding_report.state(train_step)}
    of_gate = {
        row.axes: row.cut for name, row in rows.items() if name.endswith("layers/gate") and row.kind == "optimizer"
    }
    assert of_gate[("layers", "embed")] == ("", "fsdp=4") and of_gate[("layers", "mlp")] == ("", "tensor=2")


def test_the_state_lies_as_it_is_told():
    train_step = TrainStep(MODEL, AdamW(), Partitioner.create({}, jax.devices()[:1]), 1)
    state = train_step.init()
    arrays = [*jax.tree.leaves(state.parameters), *jax.tree.leaves(state.optimizer)]
    reported = sharding_report.state(train_step)
    assert [(row.shape, row.dtype, row.local) for row in reported] == [
        (a.shape, str(a.dtype), a.addressable_shards[0].data.nbytes) for a in arrays
    ]
    sums = sharding_report.totals(reported)
    assert sums["parameters"][0] == sum(np.asarray(a).nbytes for a in jax.tree.leaves(state.parameters))


def test_activations_of_a_part_of_the_batch():
    train_step = TrainStep(
        MODEL, AdamW(), Partitioner.abstract({"fsdp": 2, "context": 2, "sequence": 2}, 8), 1, accumulate=2
    )
    inputs, queries, keys, _ = sharding_report.activations(train_step, rows=8, length=16)
    assert (inputs.shape, inputs.local) == (
        (2, 4, 16, 32),
        2 * 2 * 4 * 32 * 2,
    )  # [2, 4, 16, 32] bfloat16: rows in 2, length in 4
    assert queries.local == 2 * 8 * 2 * 8 * 2 and keys.local == 2 * 16 * 1 * 8 * 2


@pytest.fixture
def castor(capsys):
    def run(*arguments):
        code = main(
            [
                "train",
                "--explain_sharding",
                "--gin_file=models/tiny.gin",
                "--gin_file=runs/pretrain.gin",
                "--vocab_size=1024",
                *arguments,
            ]
        )
        gin.clear_config()
        return code, capsys.readouterr()

    return run


def test_what_is_printed(castor):
    code, printed = castor("--topology=v5e:2x4", "--gin.MESH={'fsdp': 2, 'sequence': 2, 'tensor': 2}")
    assert code == 0, printed.err
    found = "".join(f"{line.rstrip()}\n" for line in printed.out.splitlines())
    if os.environ.get("CASTOR_WRITE_GOLDEN"):
        GOLDEN.write_text(found)
    assert found == GOLDEN.read_text()


@pytest.mark.parametrize(
    "arguments, match",
    [
        (("--cpu_devices=8", "--gin.MESH={'tensor': 8}"), "Transformer.heads = 4 is not a multiple of 8"),
        (("--topology=v5e:4x4", "--num_slices=2", "--gin.MESH={'data': 1, 'fsdp': -1}"), "would cross the 2 slices"),
        (("--topology=v5e:4x4", "--gin.MESH={'fsdp': 3}"), "does not fit the 16 device"),
        (
            ("--cpu_devices=8", "--gin.MESH={'context': 8}", "--gin.TASK_FEATURE_LENGTHS={'targets': 100}"),
            r"TASK_FEATURE_LENGTHS\['targets'\] = 100",
        ),
        (
            ("--cpu_devices=2", "--vocab_size=1023", "--gin.MESH={'tensor': 2}"),
            "vocab_size = 1023 is not a multiple of 2",
        ),
    ],
)
def test_meshes_that_cannot_be(castor, arguments, match):
    import re

    code, printed = castor(*arguments)
    assert code == 2 and re.search(match, printed.err), printed.err
