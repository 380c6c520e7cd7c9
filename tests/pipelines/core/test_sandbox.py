"""The sandbox: whatever the function does, the caller soon gets a result or a BadInput, and no process is left."""

import gc
import os
import subprocess
import sys
import time

import psutil
import pytest
import small_job

from castor.pipelines.core.functions import Chain
from castor.pipelines.core.sandbox import Child, Sandbox, SandboxError
from castor.pipelines.document import BadInput, Document, document_id


def document(text, data=None):
    return Document(document_id("test", text[:20]), "test", "text", text, data)


@pytest.fixture
def child():
    with_limits = Child(small_job.suffer, Sandbox(cpu_seconds=0.5, memory_bytes=256 << 20))
    yield with_limits
    with_limits.close()


def test_result_comes_back_whole_whatever_its_size(child):
    for size in (0, 1, 100_000, 5_000_000):
        sent = document("x" * size, bytes(size)).with_metadata(a=[1, 2.5, None], b="\ud800")
        assert child.call(sent) == sent


def test_what_the_function_prints_does_not_disturb(child):
    assert child.call(document("print")) == document("print")
    assert child.call(document("again")) == document("again")


@pytest.mark.parametrize("how", ["spin", "spin_in_c"])
def test_cpu_limit_reaches_python_and_c(child, how):
    started = time.monotonic()
    with pytest.raises(BadInput) as caught:
        child.call(document(how))
    assert caught.value.error == "timeout" and time.monotonic() - started < 20
    assert child.call(document("next")) == document("next")


@pytest.mark.parametrize(
    "how, error",
    [("segfault", "crash:SIGSEGV"), ("exit", "crash:exit"), ("eat", "memory"), ("recurse", "exception:RecursionError")],
)
def test_crash_memory_and_recursion(child, how, error):
    for _ in range(2):
        with pytest.raises(BadInput) as caught:
            child.call(document(how))
        assert caught.value.error == error
        assert child.call(document("next")) == document("next")


def test_bad_input_keeps_kind_and_message(child):
    with pytest.raises(BadInput) as caught:
        child.call(document("bad"))
    assert (caught.value.error, caught.value.message) == ("bad_word", "\ud800")


def test_cpu_time_is_counted_an_element_not_a_child(child):
    first = child.call(document("pid")).text
    for i in range(200):
        child.call(document(f"{i} " + "x" * 200_000))
    assert child.call(document("pid")).text == first


def test_one_child_serves_until_killed_and_none_stays(child):
    pid = int(child.call(document("pid")).text)
    assert child.pid == pid and psutil.pid_exists(pid)
    with pytest.raises(BadInput):
        child.call(document("segfault"))
    assert not psutil.pid_exists(pid)
    second = int(child.call(document("pid")).text)
    child.close()
    assert not psutil.pid_exists(second)
    forgotten = Child(small_job.suffer)
    third = int(forgotten.call(document("pid")).text)
    del forgotten
    gc.collect()
    assert not psutil.pid_exists(third)


def test_child_dies_with_a_killed_parent():
    script = (
        "import small_job, time\nfrom castor.pipelines.core.sandbox import Child\nfrom castor.pipelines.document import Document\n"
        "c = Child(small_job.suffer)\nprint(c.call(Document('0' * 32, 's', 'text', 'pid')).text, flush=True)\ntime.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-P", "-c", script], stdout=subprocess.PIPE, text=True)
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 20
    while (
        psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline
    ):
        time.sleep(0.05)
    assert (
        not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    )  # PID 1 of a container may not reap


def test_function_that_cannot_be_loaded_is_our_fault(monkeypatch, tmp_path):
    module = tmp_path / "vanishing.py"
    module.write_text("def function(document):\n    return document\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import vanishing

    child = Child(vanishing.function)
    module.unlink()
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p != str(tmp_path)])
    with pytest.raises(SandboxError, match="vanishing"):
        child.call(document("x"))


def test_child_imports_neither_beam_nor_tensorflow():
    child = Child(Chain((small_job.suffer,)))
    child.call(document("x"))
    maps = open(f"/proc/{child.pid}/maps", encoding="ascii").read()
    child.close()
    assert "apache_beam" not in maps and "tensorflow" not in maps and "jax" not in maps


def test_environment_of_the_parent_is_untouched():
    before = dict(os.environ)
    child = Child(small_job.suffer)
    child.call(document("x"))
    child.close()
    assert dict(os.environ) == before
