"""train/metrics.py: exact lines, one per step, whatever was interrupted before."""

import json

import numpy as np

from castor.train.metrics import JsonLines, step_row


def test_a_restart_keeps_what_came_before_its_step_and_rewrites_the_rest(tmp_path, capsys):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 0, "loss": 3.0}\n{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.0}\n{"step": 3, "lo')
    lines = JsonLines(path, keep_until=2)
    assert path.read_text() == '{"step": 0, "loss": 3.0}\n{"step": 1, "loss": 2.0}\n'
    lines.write({"step": 2, "loss": 1.0})
    assert lines.differs_at is None
    lines.write({"step": 3, "loss": 0.5})
    lines.close()
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [0, 1, 2, 3]


def test_a_replayed_step_that_differs_is_told_once(tmp_path, capsys):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 0, "loss": 3.0}\n{"step": 1, "loss": 2.0}\n')
    lines = JsonLines(path, keep_until=0)
    lines.write({"step": 0, "loss": 3.5})
    lines.write({"step": 1, "loss": 2.5})
    lines.close()
    assert lines.differs_at == 0 and capsys.readouterr().err.count("differ from those before the restart") == 1


def test_floats_read_back_to_the_same_bits():
    values = {
        "loss": np.float32(0.1),
        "tokens": np.float32(96),
        "skipped": np.int32(1),
        "domain_nll": np.float32([0.3, 0, 9]),
        "domain_tokens": np.float32([32, 0, 64]),
    }
    row = json.loads(json.dumps(step_row(values, ("a", "b", "c"))))
    assert np.float32(row["loss"]) == values["loss"] and row["tokens"] == 96 and row["skipped"] == 1
    assert row["loss/a"] == float(np.float32(0.3)) / 32 and row["tokens/c"] == 64 and "loss/b" not in row
