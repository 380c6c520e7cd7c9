"""Servers end with their group, whatever becomes of who started them; what cannot be had is said in one line."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from castor.launch.engines import harness, packages
from castor.launch.engines.processes import EngineError, Server, free_ports, listens, running, tool, workspace


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended but was not waited for does not."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until_gone(*pids: int) -> bool:
    deadline = time.monotonic() + 20
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not any(map(alive, pids))


def test_a_server_is_ended_with_its_children(tmp_path):
    with running(tmp_path) as start:
        server = start("parent", ["sh", "-c", "trap '' TERM; sleep 600 & echo $!; wait"])
        server.wait_for(lambda: bool(server.log.read_text().strip()), 20)
        child = int(server.log.read_text())
        assert alive(server.pid) and alive(child)
        os.killpg(server.pid, signal.SIGKILL)
    assert wait_until_gone(server.pid, child)


def test_a_server_does_not_outlive_a_killed_launcher(tmp_path):
    program = (
        "import pathlib, sys, time; from castor.launch.engines.processes import Server; "
        "print(Server('sleeper', ['sleep', '600'], pathlib.Path(sys.argv[1])).pid, flush=True); time.sleep(600)"
    )
    launcher = subprocess.Popen([sys.executable, "-P", "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    pid = int(launcher.stdout.readline())
    assert alive(pid)
    launcher.kill()
    launcher.wait()
    assert wait_until_gone(pid)


def test_a_server_that_fails_says_why_and_leaves_its_log():
    with pytest.raises(EngineError, match="brittle ended with code 3 instead of starting: no such thing") as caught:
        with workspace("test") as folder, running(folder) as start:
            start("brittle", ["sh", "-c", "echo no such thing; exit 3"]).wait_for(lambda: False, 20)
    log = pathlib.Path(str(caught.value).rpartition("Log: ")[2].rstrip("."))
    assert log.read_text() == "no such thing\n"
    log.unlink()
    log.parent.rmdir()


def test_a_server_that_never_answers_is_given_up(tmp_path):
    server = Server("mute", ["sleep", "600"], tmp_path)
    with pytest.raises(EngineError, match="mute did not become ready within 0 s"):
        server.wait_for(lambda: False, 0.2)
    server.stop()
    server.stop()
    assert not alive(server.pid)


def test_ports_are_free_and_distinct():
    ports = free_ports(6)
    assert len(set(ports)) == 6 and not any(map(listens, ports))


def test_what_is_missing_is_named(monkeypatch, tmp_path):
    with pytest.raises(EngineError, match="Flink needs no-such-java, which is not on the PATH. Install"):
        tool("no-such-java", "Flink", "Install it.")
    monkeypatch.setenv("CASTOR_FLINK_JOB_SERVER", str(tmp_path / "absent.jar"))
    with pytest.raises(EngineError, match="absent.jar: no such file"):
        packages.flink_job_server()


def test_a_fetch_that_fails_leaves_nothing(monkeypatch, tmp_path):
    monkeypatch.setenv("CASTOR_ENGINES", str(tmp_path / "engines"))

    def fetch(folder):
        (folder / "half").write_text("half")
        raise EngineError("the network is down.")

    with pytest.raises(EngineError, match="down"):
        packages._once("thing", fetch)
    assert [path.name for path in (tmp_path / "engines").iterdir()] == [".thing.lock"]
    assert packages._once("thing", lambda folder: (folder / "whole").touch()) == tmp_path / "engines" / "thing"
    assert (packages._once("thing", fetch) / "whole").exists()  # what is there is not fetched again


def test_prism_is_of_the_version_of_the_sdk():
    import importlib.metadata

    assert packages.PRISM.version == f"v{importlib.metadata.version('apache-beam')}"


def test_a_worker_finds_what_the_launcher_finds(tmp_path):
    """The script that starts a worker: the launcher's folder, interpreter and module path."""
    _, configuration = harness.process_options(tmp_path)
    script = (tmp_path / "harness.sh").read_text()
    assert str(tmp_path / "harness.sh") in configuration and sys.executable in script and f"cd {os.getcwd()}" in script
    done = subprocess.run(
        [tmp_path / "harness.sh", "--id=1", "--bad"], capture_output=True, text=True, cwd="/", timeout=100, check=False
    )
    assert done.returncode and "No module named" not in done.stderr
