"""train/loop.py: a run from gin to metrics; killed and started again it is the same run."""

import json
import os
import signal
import time

import pytest


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def wait_for_lines(path, count, child, timeout_s=60):
    deadline = time.monotonic() + timeout_s
    while not path.exists() or path.read_text().count("\n") < count:
        assert child.poll() is None, child.communicate()
        assert time.monotonic() < deadline, "the run makes no progress"
        time.sleep(0.02)


def test_a_run_leaves_what_it_promises(castor, tmp_path):
    code, _, err = castor("train", *castor.bindings(tmp_path / "m", EVAL_PERIOD=3, CHECKPOINT_PERIOD=3))
    assert code == 0, err
    lines = rows(tmp_path / "m" / "metrics.jsonl")
    assert [line["step"] for line in lines] == list(range(6))
    assert {"loss", "z_loss", "gradient_norm", "learning_rate", "tokens"} <= set(lines[0])
    assert all(line["tokens"] == sum(v for k, v in line.items() if k.startswith("tokens/")) for line in lines)
    assert [line["step"] for line in rows(tmp_path / "m" / "evaluation.jsonl")] == [3, 6]
    assert {"loss/words", "loss/counts", "loss/pictures"} <= set(rows(tmp_path / "m" / "evaluation.jsonl")[0])
    assert sorted(p.name for p in (tmp_path / "m").glob("checkpoint_*")) == ["checkpoint_3", "checkpoint_6"]
    assert (tmp_path / "m" / "COMPLETED").is_file() and list((tmp_path / "m" / "tensorboard").iterdir())
    (config,) = (tmp_path / "m" / "config").iterdir()
    assert "TRAIN_STEPS = 6" in config.read_text() and "train.model.Transformer.embed = 32" in config.read_text()
