"""train/loop.py: a run from gin to metrics; a killed and restarted run equals an uninterrupted one."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent.parent


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def wait_for_lines(path, count, child, timeout_s=500):
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
    assert {"loss", "z_loss", "gradient_norm", "learning_rate", "tokens", "skipped"} <= set(lines[0])
    assert all(line["tokens"] == sum(v for k, v in line.items() if k.startswith("tokens/")) for line in lines)
    assert [line["step"] for line in rows(tmp_path / "m" / "evaluation.jsonl")] == [3, 6]
    assert {"loss/words", "loss/counts", "loss/pictures"} <= set(rows(tmp_path / "m" / "evaluation.jsonl")[0])
    assert sorted(p.name for p in (tmp_path / "m").glob("checkpoint_*")) == ["checkpoint_3", "checkpoint_6"]
    assert (tmp_path / "m" / "COMPLETED").is_file() and list((tmp_path / "m" / "tensorboard").iterdir())
    (config,) = (tmp_path / "m" / "config").iterdir()
    assert "TRAIN_STEPS = 6" in config.read_text() and "Transformer.embed = 32" in config.read_text()


def test_killed_and_started_again_it_is_the_same_run(castor, tmp_path):
    macros = {"TRAIN_STEPS": 16, "CHECKPOINT_PERIOD": 4, "EVAL_PERIOD": 4, "DROPOUT_RATE": 0.1}
    assert castor("train", *castor.bindings(tmp_path / "whole", **macros))[0] == 0

    flags = castor.bindings(tmp_path / "cut", **macros)
    for steps, saved in ((6, 4), (11, 8)):
        castor.train_until_killed(steps, saved, *flags)
        assert steps - 2 <= len(rows(tmp_path / "cut" / "metrics.jsonl")) <= steps
    code, _, err = castor("train", *flags)
    assert code == 0 and "steps 8 to 16" in err, err
    assert len(list((tmp_path / "cut" / "config").iterdir())) == 3
    for name in ("metrics.jsonl", "evaluation.jsonl"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_second_run_is_refused_and_sigterm_saves_and_ends_cleanly(castor, tmp_path):
    child = castor.start(
        "train", *castor.bindings(tmp_path / "m", TRAIN_STEPS=100_000, CHECKPOINT_PERIOD=0, EVAL_PERIOD=0)
    )
    wait_for_lines(tmp_path / "m" / "metrics.jsonl", 5, child)
    unfinished = tmp_path / "m" / "checkpoint_4.orbax-checkpoint-tmp"  # as if a save were in progress
    unfinished.mkdir()
    code, _, err = castor("train", *castor.bindings(tmp_path / "m", TRAIN_STEPS=7))
    assert code == 2 and err.count("\n") == 1, err
    assert f"MODEL_DIR {tmp_path / 'm'} is being written by process {child.pid} on " in err
    assert unfinished.is_dir() and len(list((tmp_path / "m" / "config").iterdir())) == 1, "it touched nothing"
    unfinished.rmdir()
    child.send_signal(signal.SIGTERM)
    _, err = child.communicate(timeout=300)
    assert child.returncode == 143 and "stopped by a signal" in err and "Traceback" not in err
    reached = len(rows(tmp_path / "m" / "metrics.jsonl"))
    assert (tmp_path / "m" / f"checkpoint_{reached}").is_dir() and not (tmp_path / "m" / "COMPLETED").exists()


def test_the_loss_falls_in_every_domain(castor, tmp_path):
    code, _, err = castor("train", *castor.bindings(tmp_path / "m", TRAIN_STEPS=60, BATCH_SIZE=8, EVAL_PERIOD=60))
    assert code == 0, err
    lines = rows(tmp_path / "m" / "metrics.jsonl")
    (held_out,) = rows(tmp_path / "m" / "evaluation.jsonl")
    for domain in ("words", "counts", "pictures"):
        curve = [line[f"loss/{domain}"] for line in lines if f"loss/{domain}" in line]
        assert sum(curve[-5:]) / 5 < 0.75 * curve[0]
        assert held_out[f"loss/{domain}"] < 0.75 * curve[0]


def test_a_longer_run_goes_on_and_a_shorter_one_is_refused(castor, tmp_path):
    assert castor("train", *castor.bindings(tmp_path / "m", TRAIN_STEPS=3, EVAL_PERIOD=0))[0] == 0
    code, _, err = castor("train", *castor.bindings(tmp_path / "m", TRAIN_STEPS=2, EVAL_PERIOD=0))
    assert code == 2 and "beyond TRAIN_STEPS = 2" in err
    assert castor("train", *castor.bindings(tmp_path / "m", TRAIN_STEPS=5, EVAL_PERIOD=0))[0] == 0
    assert [row["step"] for row in rows(tmp_path / "m" / "metrics.jsonl")] == list(range(5))


def test_no_tensorflow_on_the_training_path(castor, tmp_path):
    script = "import sys; from castor.launch.command import main; code = main(sys.argv[1:]); print('tensorflow' in sys.modules, 'apache_beam' in sys.modules); sys.exit(code)"
    command = [
        sys.executable,
        "-P",
        "-c",
        script,
        "train",
        *castor.bindings(tmp_path / "m", TRAIN_STEPS=2, EVAL_PERIOD=0),
    ]
    done = subprocess.run(
        command, cwd=REPOSITORY, capture_output=True, text=True, env=os.environ | {"JAX_PLATFORMS": "cpu"}
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "False False"


def test_updates_that_are_not_finite_are_skipped_up_to_a_limit(castor, tmp_path):
    """The first update moves the parameters so far that every later loss is not finite."""
    macros = {"LEARNING_RATE": 1e30, "WARMUP_STEPS": 0, "TRAIN_STEPS": 5, "EVAL_PERIOD": 0}
    code, _, err = castor("train", *castor.bindings(tmp_path / "borne", **macros))
    assert code == 0 and "gradient norm nan: the update is skipped (4 in a row; the run ends at 10)" in err, err
    assert [row["skipped"] for row in rows(tmp_path / "borne" / "metrics.jsonl")] == [0, 1, 1, 1, 1]
    code, _, err = castor("train", *castor.bindings(tmp_path / "ended", SKIP_LIMIT=3, **macros))
    assert (
        code == 2
        and "loss of step 3 is " in err
        and "3 skipped updates in a row, from step 1 on" in err
        and "SKIP_LIMIT" in err
    ), err
    assert len(rows(tmp_path / "ended" / "metrics.jsonl")) == 4
