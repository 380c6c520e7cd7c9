"""The partitioned run against the run on one device: losses, batches, checkpoints that change meshes, several processes."""

import json
import socket

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


def test_two_processes_with_two_devices_each_give_the_losses_of_one(castor, tmp_path):
    macros = {"TRAIN_STEPS": 4, "BATCH_SIZE": 8, "EVAL_PERIOD": 4}
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    command = [f"--coordinator=localhost:{port}", "--num_processes=2", "--cpu_devices=2", *castor.bindings(tmp_path / "two", MESH={"data": 2, "tensor": 2}, **macros)]
    children = [castor.start("train", f"--process_id={i}", *command) for i in range(2)]
    told = [child.communicate(timeout=300)[1] for child in children]
    assert [child.returncode for child in children] == [0, 0], told
    code, _, err = castor("train", *castor.bindings(tmp_path / "one", **macros))
    assert code == 0, err
    np.testing.assert_allclose(losses(tmp_path / "two"), losses(tmp_path / "one"), rtol=1e-4)
    assert (tmp_path / "two" / "checkpoint_4").is_dir() and (tmp_path / "two" / "COMPLETED").is_file()
