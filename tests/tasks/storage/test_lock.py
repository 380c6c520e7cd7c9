"""The lock on a folder, with real processes: who is refused, who takes over, and who keeps the lock."""

import dataclasses
import errno
import fcntl
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest

from castor.tasks.errors import ConfigurationError, LockError
from castor.tasks.storage import lock, lock_owner
from castor.tasks.storage.lock_owner import LOCK_FILE, Lease, Owner

HOLDER = """
import signal, sys, time
from castor.tasks.storage import lock
signal.signal(signal.SIGINT, signal.default_int_handler)  # shells start background jobs with SIGINT ignored
with lock.hold(sys.argv[1], "OUTPUT"):
    print("held", flush=True)
    sys.stdin.readline()
"""
QUICK = Lease(renew_s=0.1, expire_s=1.0)


def start(script: str, *arguments: str, **options) -> subprocess.Popen:
    command = [sys.executable, "-P", "-c", script, *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **options)


@pytest.fixture
def holder(tmp_path):
    """A process that holds the lock of tmp_path/out until a line is written to it."""
    process = start(HOLDER, tmp_path / "out")
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def write_record(directory: pathlib.Path, age_s: float = 0.0, **changes) -> pathlib.Path:
    """Puts the lock file of another owner into a folder, last renewed `age_s` seconds ago."""
    directory.mkdir(parents=True, exist_ok=True)
    owner = dataclasses.replace(Owner.this_process(QUICK), **changes)
    path = directory / LOCK_FILE
    path.write_bytes(owner.to_bytes())
    os.utime(path, (time.time() - age_s,) * 2)
    return path


@pytest.mark.usefixtures("has_links")
def test_a_second_writer_is_told_who_the_first_is(tmp_path, holder):
    with pytest.raises(LockError) as error, lock.hold(tmp_path / "out", "OUTPUT"):
        pass
    said = str(error.value)
    assert said.startswith(f"OUTPUT {tmp_path / 'out'} is being written by process {holder.pid} on ")
    assert " since 20" in said and " UTC (" in said and str(tmp_path) in said and "\n" not in said
    holder.communicate("\n")
    with lock.hold(tmp_path / "out", "OUTPUT") as held:
        held.check()


def test_one_process_is_no_second_writer_of_its_own_either(tmp_path):
    with lock.hold(tmp_path / "out", "OUTPUT"), pytest.raises(LockError, match=f"process {os.getpid()} on "):
        with lock.hold(tmp_path / "out", "OUTPUT"):
            pass


@pytest.mark.usefixtures("has_links")
def test_nothing_is_left(tmp_path):
    with lock.hold(tmp_path / "made", "OUTPUT"):
        assert (tmp_path / "made" / LOCK_FILE).is_file()
    assert not (tmp_path / "made").exists(), "a folder made for the lock and not used goes with it"
    (tmp_path / "there").mkdir()
    with pytest.raises(ZeroDivisionError), lock.hold(tmp_path / "there", "OUTPUT"):
        1 / 0  # noqa: B018
    assert list((tmp_path / "there").iterdir()) == []


@pytest.mark.usefixtures("has_links")
def test_a_killed_owner_is_replaced_at_once(tmp_path, holder):
    holder.kill()
    holder.wait()
    assert json.loads((tmp_path / "out" / LOCK_FILE).read_bytes())["process"] == holder.pid
    began = time.monotonic()
    with lock.hold(tmp_path / "out", "OUTPUT") as held:
        held.check()
        assert time.monotonic() - began < 2.0
        assert os.listdir(tmp_path / "out") == [LOCK_FILE]
    assert not os.listdir(tmp_path / "out")


@pytest.mark.parametrize("number", (signal.SIGTERM, signal.SIGINT))
def test_a_signalled_owner_leaves_the_lock(tmp_path, holder, number):
    holder.send_signal(number)
    holder.wait()
    with lock.hold(tmp_path / "out", "OUTPUT") as held:
        held.check()


def test_a_stopped_owner_of_this_host_keeps_it(tmp_path, holder):
    holder.send_signal(signal.SIGSTOP)
    path = tmp_path / "out" / LOCK_FILE
    os.utime(path, (time.time() - 3600,) * 2)  # not renewed for long
    with pytest.raises(LockError, match=f"process {holder.pid} "), lock.hold(tmp_path / "out", "OUTPUT"):
        pass
    holder.send_signal(signal.SIGCONT)
    holder.communicate("\n")
    assert holder.returncode == 0 and not path.exists()


def test_children_do_not_keep_it(tmp_path):
    """Neither a program that is started nor a forked copy: both outlive the owner here."""
    script = """
import os, subprocess, sys, time
from castor.tasks.storage import lock
with lock.hold(sys.argv[1], "OUTPUT"):
    started = subprocess.Popen([sys.executable, "-P", "-c", "import time; time.sleep(60)"], stdout=2, close_fds=False)
    forked = os.fork()
    if not forked:
        os.dup2(2, 1)
        time.sleep(60)
        os._exit(0)
    print(started.pid, forked, flush=True)
    time.sleep(60)
"""
    owner = start(script, tmp_path / "out", stderr=subprocess.DEVNULL)
    children = [int(word) for word in owner.stdout.readline().split()]
    try:
        with pytest.raises(LockError), lock.hold(tmp_path / "out", "OUTPUT"):
            pass
        owner.kill()
        owner.wait()
        with lock.hold(tmp_path / "out", "OUTPUT") as held:
            held.check()
        for child in children:
            os.kill(child, 0)  # they are still there
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
        owner.communicate()


def test_a_forked_child_does_not_release_it(tmp_path):
    """A child that leaves the block by an exception must not take its parent's lock file away."""
    script = """
import os, sys
from castor.tasks.storage import lock
with lock.hold(sys.argv[1], "OUTPUT"):
    child = os.fork()
    if not child:
        raise SystemExit(0)
    os.waitpid(child, 0)
    print(os.path.exists(os.path.join(sys.argv[1], ".lock")), flush=True)
    sys.stdin.readline()
"""
    process = start(script, tmp_path / "out")
    assert process.stdout.readline() == "True\n"
    with pytest.raises(LockError), lock.hold(tmp_path / "out", "OUTPUT"):
        pass
    process.communicate("\n")


def test_processes_below_the_owner_may_write_under_its_lock(tmp_path, holder, monkeypatch):
    with lock.hold(tmp_path / "pod", "MODEL_DIR") as held:
        monkeypatch.setenv(*next(iter(held.environment().items())))
        child = start(HOLDER, tmp_path / "pod")
        assert child.stdout.readline() == "held\n"
        child.communicate("\n")
        assert child.returncode == 0 and (tmp_path / "pod" / LOCK_FILE).exists()
        with pytest.raises(LockError), lock.hold(tmp_path / "out", "OUTPUT"):  # held by somebody else
            pass


def test_a_child_is_told_when_the_owner_above_has_gone(tmp_path, monkeypatch):
    with lock.hold(tmp_path / "pod", "MODEL_DIR") as above:
        monkeypatch.setenv(*next(iter(above.environment().items())))
        with lock.hold(tmp_path / "pod", "MODEL_DIR") as held:
            held.check()
            (tmp_path / "pod" / LOCK_FILE).unlink()
            with pytest.raises(LockError, match="no longer this process's"):
                held.check()


@pytest.mark.usefixtures("has_links")
def test_a_lease_of_another_host_that_ran_out_is_taken_over(tmp_path):
    write_record(tmp_path / "out", age_s=5.0, host="elsewhere", boot="other")
    with lock.hold(tmp_path / "out", "OUTPUT", QUICK) as held:
        held.check()
        assert Owner.from_bytes((tmp_path / "out" / LOCK_FILE).read_bytes()).process == os.getpid()
    assert os.listdir(tmp_path / "out") == []


@pytest.mark.usefixtures("has_links")
def test_a_lease_of_another_host_is_waited_for(tmp_path):
    """It may have been renewed just before its owner died: the next writer waits for its end and then has the lock."""
    write_record(tmp_path / "out", host="elsewhere", boot="other")
    began = time.monotonic()
    with lock.hold(tmp_path / "out", "OUTPUT", QUICK):
        assert 0.5 < time.monotonic() - began < 5.0


def test_a_living_owner_of_another_host_is_found_out_by_its_next_renewal(tmp_path):
    path = write_record(tmp_path / "out", host="elsewhere", process=77, boot="other", expire_s=30.0)
    renewing = start("import os, sys, time\nwhile True:\n    os.utime(sys.argv[1])\n    time.sleep(0.3)", path)
    try:
        began = time.monotonic()
        with pytest.raises(LockError, match="process 77 on elsewhere "), lock.hold(tmp_path / "out", "OUTPUT"):
            pass
        assert time.monotonic() - began < 10.0
    finally:
        renewing.kill()
        renewing.communicate()


def test_an_owner_without_its_lock_must_stop(tmp_path):
    with lock.hold(tmp_path / "out", "OUTPUT", QUICK) as held:
        (tmp_path / "out" / LOCK_FILE).unlink()
        other = write_record(tmp_path / "out", host="elsewhere", process=77, boot="other")
        time.sleep(0.5)
        with pytest.raises(LockError, match="no longer this process's"):
            held.check()
    assert other.exists(), "the lock of who took over is not removed"


def test_an_owner_that_was_paused_finds_out_at_its_first_check(tmp_path):
    """Its renewing thread slept as well: `check` asks itself."""
    script = """
import sys
from castor.tasks.errors import LockError
from castor.tasks.storage import lock
with lock.hold(sys.argv[1], "OUTPUT", lock.Lease(renew_s=0.4, expire_s=1.0)) as held:
    print("held", flush=True)
    sys.stdin.readline()
    try:
        held.check()
    except LockError:
        print("lost", flush=True)
"""
    for _ in range(3):
        process = start(script, tmp_path / "out")
        assert process.stdout.readline() == "held\n"
        process.send_signal(signal.SIGSTOP)
        time.sleep(1.0)
        write_record(tmp_path / "other", boot="other").replace(tmp_path / "out" / LOCK_FILE)
        process.stdin.write("\n")
        process.stdin.flush()
        process.send_signal(signal.SIGCONT)
        assert process.communicate()[0] == "lost\n"
        (tmp_path / "out" / LOCK_FILE).unlink()


@pytest.fixture(params=("links", "no links"))
def has_links(request, monkeypatch):
    """Whether the file system has hard links; without them, as FAT and some FUSE file systems answer."""
    if request.param == "no links":
        monkeypatch.setattr(os, "link", no_links)
    return request.param == "links"


def no_links(*names):
    raise PermissionError(errno.EPERM, "Operation not permitted", *names)


RACER = """
import errno, os, sys, time
from castor.tasks.errors import LockError
from castor.tasks.storage import lock, lock_file, lock_owner
folder, host, links = sys.argv[1:]
if not links:
    def no_links(*names):
        raise OSError(errno.EOPNOTSUPP, "Operation not supported", *names)
    os.link = no_links
if host:  # this process stands for a host of its own, on a file system that keeps flock to one host
    lock_owner._boot = lambda: host
    lock_file._flock = lambda descriptor: True
print("ready", flush=True)
for line in sys.stdin:
    out = os.path.join(folder, line.strip())
    try:
        with lock.hold(out, "OUTPUT", lock.Lease(renew_s=5.0, expire_s=20.0)):
            inside = os.open(os.path.join(out, "inside"), os.O_CREAT | os.O_EXCL)
            time.sleep(0.02)
            os.close(inside)
            os.unlink(os.path.join(out, "inside"))
        print("won", flush=True)
    except LockError:
        print("told", flush=True)
    except FileExistsError:
        print("TWO", flush=True)
"""


@pytest.mark.parametrize(("kind", "rounds"), (("free", 60), ("dead", 60), ("hosts", 12)))
@pytest.mark.parametrize("links", ("links", ""))
def test_takers_that_race_never_both_win(tmp_path, holder, kind, rounds, links):
    """free: nobody held the lock. dead: a killed process of this host did. hosts: each taker is on its own host."""
    holder.kill()
    holder.wait()
    dead = (tmp_path / "out" / LOCK_FILE).read_bytes()
    racers = [start(RACER, tmp_path, f"host {i}" if kind == "hosts" else "", links) for i in range(4)]
    try:
        for racer in racers:
            assert racer.stdout.readline() == "ready\n"
        for number in range(rounds):
            folder = tmp_path / str(number)
            if kind == "dead":
                folder.mkdir()
                (folder / LOCK_FILE).write_bytes(dead)
            elif kind == "hosts":
                write_record(folder, age_s=60.0, host="elsewhere", boot="other", expire_s=20.0)
            for racer in racers:
                racer.stdin.write(f"{number}\n")
                racer.stdin.flush()
            answers = [racer.stdout.readline().strip() for racer in racers]
            assert "won" in answers and set(answers) <= {"won", "told"}, (number, answers)
            assert not folder.exists() or os.listdir(folder) == []
    finally:
        for racer in racers:
            racer.kill()
            racer.communicate()


@pytest.mark.usefixtures("has_links")
def test_what_a_killed_contender_left_is_removed(tmp_path):
    process = start("pass")
    gone = dataclasses.replace(Owner.this_process(QUICK), process=process.pid, started="1")
    process.communicate()
    (tmp_path / f"{LOCK_FILE}.{gone.token}").write_bytes(gone.to_bytes())
    (tmp_path / f"{LOCK_FILE}.claim").write_bytes(gone.to_bytes())
    with lock.hold(tmp_path, "OUTPUT"):
        assert os.listdir(tmp_path) == [LOCK_FILE]


@pytest.mark.usefixtures("has_links")
def test_a_claim_left_by_a_killed_taker_does_not_bar_the_next(tmp_path):
    write_record(tmp_path / "out", host="elsewhere", boot="other", age_s=5.0)
    gone = dataclasses.replace(Owner.this_process(QUICK), started="1")
    (tmp_path / "out" / f"{LOCK_FILE}.claim").write_bytes(gone.to_bytes())
    with lock.hold(tmp_path / "out", "OUTPUT"):
        assert os.listdir(tmp_path / "out") == [LOCK_FILE]


def test_a_claim_that_was_killed_before_it_named_its_owner_expires(tmp_path, monkeypatch):
    """Without hard links a claim gets its content after its name. Nobody can tell whose an empty one is."""
    monkeypatch.setattr(os, "link", no_links)
    (tmp_path / f"{LOCK_FILE}.claim").touch()
    began = time.monotonic()
    with lock.hold(tmp_path, "OUTPUT", QUICK) as held:
        assert time.monotonic() - began > 0.9 * QUICK.expire_s
        held.check()
        assert os.listdir(tmp_path) == [LOCK_FILE]


def test_the_claim_of_a_living_process_is_respected(tmp_path, monkeypatch):
    """It has flock on its claim, however old that is."""
    monkeypatch.setattr(os, "link", no_links)
    claim = tmp_path / f"{LOCK_FILE}.claim"
    with open(claim, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        os.utime(claim, (time.time() - 3600,) * 2)
        threading.Timer(1.5, claim.unlink).start()
        began = time.monotonic()
        with lock.hold(tmp_path, "OUTPUT", QUICK):
            assert time.monotonic() - began > 1.4


def test_a_lock_file_that_names_nobody_is_respected_until_it_is_old(tmp_path):
    (tmp_path / LOCK_FILE).write_text("{")
    os.utime(tmp_path / LOCK_FILE, (time.time() - 5,) * 2)
    with lock.hold(tmp_path, "OUTPUT", QUICK) as held:
        held.check()


def test_a_reused_process_id_is_not_the_owner():
    here = Owner.this_process(QUICK)
    assert not here.has_ended()
    assert dataclasses.replace(here, started="1").has_ended()
    assert not dataclasses.replace(here, started="1", boot="other").has_ended(), "of another host it is not known"
    assert not dataclasses.replace(here, started="1", namespace="other").has_ended(), "nor of another container"


def test_what_cannot_be_locked_is_a_bad_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(ConfigurationError, match="OUTPUT .*file cannot be made a directory"),
        lock.hold(tmp_path / "file", "OUTPUT"),
    ):
        pass


def test_a_folder_that_is_renamed_keeps_its_lock(tmp_path):
    with lock.hold(tmp_path / "out", "OUTPUT", QUICK) as held:
        (tmp_path / "out").rename(tmp_path / "aside")
        held.follow(str(tmp_path / "aside"))
        time.sleep(0.3)
        held.check()
        (tmp_path / "aside" / "model").write_text("")
    assert os.listdir(tmp_path / "aside") == ["model"]


def test_long_command_lines_are_cut(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/usr/bin/castor", "train", *["--gin.X=1"] * 100])
    assert lock_owner._command().startswith("castor train --gin.X=1") and len(lock_owner._command()) < 200
