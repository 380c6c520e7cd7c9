"""launch/engines/local_pod.py: losses, failed hosts and SIGTERM.

Several processes give the losses of one. The error names a host that died, and the pod restarts. SIGTERM saves.
"""

import json
import os
import pathlib
import re
import signal
import socket
import time

import numpy as np
import pytest

from castor.launch.engines import local_pod
from castor.tasks.errors import ConfigurationError
from castor.tasks.storage import lock

MESH = {"data": 2, "tensor": 2}


def rows(model_dir):
    path = model_dir / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def wait_until(happened, child):
    deadline = time.monotonic() + 500
    while not happened():
        assert child.poll() is None, child.communicate()
        assert time.monotonic() < deadline, "the run makes no progress"
        time.sleep(0.05)


def wait_for_step(model_dir, step, child):
    wait_until(lambda: any(row["step"] >= step for row in rows(model_dir)), child)


def whole_checkpoints(model_dir):
    return [path for path in model_dir.glob("checkpoint_*") if path.name.removeprefix("checkpoint_").isdigit()]


def process_of(host: int, of: int) -> int:
    """The process id of a host of the pod that process `of` runs."""
    for children in pathlib.Path(f"/proc/{of}/task").glob("*/children"):
        for child in children.read_text().split():
            if f"--process_id={host}".encode() in pathlib.Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0"):
                return int(child)
    raise AssertionError(f"process {of} runs no host {host}")


def test_a_pod_takes_no_model_dir_that_another_run_writes(castor, tmp_path):
    with lock.hold(tmp_path / "pod", "MODEL_DIR"):
        code, _, err = castor("launch", "local", "--hosts=2", "train", *castor.bindings(tmp_path / "pod"))
        assert code == 2 and f"MODEL_DIR {tmp_path / 'pod'} is being written by process {os.getpid()} on " in err
        assert [path.name for path in (tmp_path / "pod").iterdir()] == [lock.LOCK_FILE], "no host was started"


def test_two_hosts_give_the_losses_of_one_process(castor, tmp_path):
    macros = {"TRAIN_STEPS": 4, "BATCH_SIZE": 8, "EVAL_PERIOD": 4}
    child = castor.start(
        "launch",
        "local",
        "--hosts=2",
        "--devices_per_host=2",
        "train",
        *castor.bindings(tmp_path / "pod", MESH=MESH, **macros),
    )
    _, err = child.communicate(timeout=300)
    assert child.returncode == 0, err
    assert "data 2 x tensor 2" in err and err.count("held-out loss") == 1 and "Gloo" not in err
    code, _, err = castor("train", *castor.bindings(tmp_path / "one", **macros))
    assert code == 0, err
    pod, one = ([row["loss"] for row in rows(tmp_path / name)] for name in ("pod", "one"))
    np.testing.assert_allclose(pod, one, rtol=1e-5)
    assert (tmp_path / "pod" / "checkpoint_4").is_dir() and (tmp_path / "pod" / "COMPLETED").is_file()
    assert sorted(path.name for path in (tmp_path / "pod" / "logs").iterdir()) == ["000_host_0.log", "000_host_1.log"]


def test_a_dead_host_is_named_the_pod_goes_on_and_sigterm_saves(castor, tmp_path):
    run = castor.bindings(
        tmp_path / "m", TRAIN_STEPS=100_000, BATCH_SIZE=8, MESH=MESH, CHECKPOINT_PERIOD=4, EVAL_PERIOD=0
    )
    child = castor.start("launch", "local", "--hosts=2", "--devices_per_host=2", "--restarts=1", "train", *run)
    wait_for_step(tmp_path / "m", 5, child)
    wait_until(
        lambda: whole_checkpoints(tmp_path / "m"), child
    )  # written while training goes on: before, there is nothing to go on from
    os.kill(process_of(1, child.pid), signal.SIGKILL)
    wait_until((tmp_path / "m" / "logs" / "001_host_0.log").exists, child)
    wait_for_step(tmp_path / "m", 1 + max(row["step"] for row in rows(tmp_path / "m")), child)
    child.send_signal(signal.SIGTERM)
    _, err = child.communicate(timeout=300)
    # The other host may be stopped before it notices that its neighbour is gone, or may report how it noticed. Output
    # after that is clean.
    assert child.returncode == 143 and "Traceback" not in err.partition("Starting again")[2], err
    assert re.search(
        r"host 1 of 2 was killed by SIGKILL; the others were stopped\..*000_host_1\.log\. Starting again; 0 restart",
        err,
    ), err
    reached = len(rows(tmp_path / "m"))
    assert [row["step"] for row in rows(tmp_path / "m")] == list(range(reached))
    assert (
        f"stopped by a signal after step {reached} and saved" in err
        and (tmp_path / "m" / f"checkpoint_{reached}").is_dir()
    )
    went_on_from = [int(step) for step in re.findall(r"steps (\d+) to 100000", err)]
    assert (
        len(went_on_from) == 2 and went_on_from[0] == 0 and 4 <= went_on_from[1] <= reached and went_on_from[1] % 4 == 0
    )


def test_a_host_that_cannot_run_ends_the_pod_and_is_not_started_again(tmp_path):
    pod = local_pod.Pod(("tasks", "list", "/nowhere"), tmp_path, hosts=2, restarts=3)
    with pytest.raises(
        local_pod.HostFailure,
        match=r"host \d of 2 ended with code 2.*unknown arguments: --coordinator.*000_host_\d\.log",
    ):
        local_pod.run_pod(pod)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000_host_0.log", "000_host_1.log"]


def test_a_port_is_held_for_the_coordinator_alone():
    with (
        local_pod.reserved_port() as first,
        local_pod.reserved_port() as second,
        socket.socket() as other,
        socket.socket() as coordinator,
    ):
        assert first != second
        with pytest.raises(OSError):
            other.bind(("127.0.0.1", first))
        coordinator.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        coordinator.bind(("127.0.0.1", first))
        coordinator.listen()
        with socket.create_connection(("127.0.0.1", first), timeout=5):
            coordinator.accept()[0].close()


def test_bad_use(castor, tmp_path):
    code, _, err = castor("launch", "local", "--hosts=2", "train", *castor.bindings(tmp_path / "m", BATHC_SIZE=4))
    assert code == 2 and "Did you mean BATCH_SIZE" in err and not (tmp_path / "m").exists()
    code, _, err = castor("launch", "flink", "train", *castor.bindings(tmp_path / "m"))
    assert code == 2 and "castor launch local --hosts=N train" in err
    with pytest.raises(ConfigurationError, match="devices_per_host = 0"):
        local_pod.Pod((), tmp_path, hosts=2, devices_per_host=0)
