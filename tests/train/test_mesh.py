"""The partitioned run against the run on one device: losses, batches, checkpoints that change meshes. Several processes: tests/launch/test_local.py."""

import json

import numpy as np

MESH = {"data": 2, "fsdp": 2, "tensor": 2}


def losses(model_dir):
    return [json.loads(line)["loss"] for line in (model_dir / "metrics.jsonl").read_text().splitlines()]


def test_eight_devices_give_the_losses_of_one(castor, tmp_path):
    macros = {"BATCH_SIZE": 8, "EVAL_PERIOD": 0, "Transformer.remat": "none", "WarmupCosine.total_steps": 23}
    code, _, err = castor("train", *castor.bindings(tmp_path / "one", TRAIN_STEPS=23, **macros))
    assert code == 0, err
    child = castor.start("train", "--cpu_devices=8", *castor.bindings(tmp_path / "eight", TRAIN_STEPS=20, MESH=MESH, **macros))
    _, err = child.communicate(timeout=300)
    assert child.returncode == 0, err
    assert "data 2 x fsdp 2 x tensor 2" in err
    np.testing.assert_allclose(losses(tmp_path / "eight"), losses(tmp_path / "one")[:20], rtol=1e-4)

    # The checkpoint of eight devices goes on on one.
    code, _, err = castor("train", *castor.bindings(tmp_path / "eight", TRAIN_STEPS=23, **macros))
    assert code == 0, err
    np.testing.assert_allclose(losses(tmp_path / "eight"), losses(tmp_path / "one"), rtol=1e-4)
