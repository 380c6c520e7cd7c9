"""A child process in which functions meet hostile input, so that what they do to it they do not do to the job.

Parsers and codecs are C code fed by strangers: quadratic on a nested page, 10 GB for a lying header, a segmentation fault for a flipped
bit. None of that can be caught in the process it happens in. `Child` runs one function in `python -m pipelines.sandbox`, one element at a
time, under three kernel limits:

- CPU seconds an element, by ITIMER_PROF whose default action kills: it reaches code stuck in C that holds the GIL, and counts CPU, not wall
  time, so that what becomes of an element does not depend on how busy the machine is;
- address space over what the child had when it was ready, by RLIMIT_AS;
- no core files.

A killed or crashed child is reaped and replaced; the element becomes `BadInput`. A crash or an exhausted memory in a child that has served
other elements is tried once more in a fresh child, so that the verdict depends on the element alone.

The function travels once, pickled, from parent to child; elements travel both ways as `pipelines.document.pack` bytes, so nothing that
comes back from a child is ever unpickled. This file imports neither Beam nor any parser, and a function meant for the sandbox lives in a
module that imports no Beam either, or each child pays four seconds for it. If the function has a method `prepare()`, the child calls it
once before the limits are set: the place to load models.
"""

import dataclasses
import os
import pickle
import select
import signal
import struct
import subprocess
import sys
import time
import weakref
from collections.abc import Callable

import msgpack

from castor.pipelines.document import BadInput, Document, Element, pack, unpack

_HEADER = struct.Struct("<Q")
_PIPE_BYTES = 1 << 20
_START_SECONDS = 300.0
_READY, _ELEMENT, _BAD, _MEMORY, _FAILED = b"R", b"E", b"B", b"M", b"F"


@dataclasses.dataclass(frozen=True)
class Sandbox:
    """Limits of one call. `wall_seconds` is a last resort against a child that sleeps for ever; it is far above what CPU time allows."""

    cpu_seconds: float = 10.0
    memory_bytes: int = 2 << 30
    wall_seconds: float = 1800.0


class SandboxError(RuntimeError):
    """The child could not be started or the function could not be loaded in it: a fault of the program, not of an element."""


class Child:
    """One function in one child process, started when first needed. Not thread-safe; `close` it, or let the garbage collector do so."""

    def __init__(self, function: Callable[[Document], Element], sandbox: Sandbox = Sandbox()):
        self._task = pickle.dumps((function, sandbox))
        self._sandbox = sandbox
        self._process: subprocess.Popen | None = None
        self._finalizer = None
        self._calls = 0

    @property
    def pid(self) -> int | None:
        """Process id of the living child, None when there is none."""
        return self._process.pid if self._process else None

    def call(self, document: Document) -> Element:
        """The function's result. Raises BadInput: the function's own, or `timeout`, `memory`, `crash:SIGNAL`, `exception:TypeName`."""
        request = pack(document)
        while True:
            fresh = self._calls == 0
            try:
                return self._exchange(request)
            except BadInput as error:
                if fresh or not (error.error == "memory" or error.error.startswith("crash:")):
                    raise

    def close(self) -> None:
        """Ends the child and reaps it."""
        if self._finalizer:
            self._finalizer()
        self._process, self._finalizer, self._calls = None, None, 0

    def _exchange(self, request: bytes) -> Element:
        if self._process is None:
            self._start()
        self._calls += 1
        deadline = time.monotonic() + self._sandbox.wall_seconds
        kind, body = self._roundtrip(request, deadline)
        if kind == _ELEMENT:
            return unpack(body)
        if kind == _BAD:
            raise BadInput(*msgpack.unpackb(body, unicode_errors="surrogatepass"))
        if kind == _MEMORY:
            self.close()
            raise BadInput("memory", f"over {self._sandbox.memory_bytes} bytes")
        raise BadInput("crash:protocol", f"unexpected answer {kind!r}")

    def _start(self) -> None:
        environment = dict(os.environ, PYTHONPATH=os.pathsep.join(p for p in sys.path if p), PYTHONHASHSEED="0")
        environment.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MALLOC_ARENA_MAX="2")
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "castor.pipelines.core.sandbox"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            bufsize=0,
        )
        self._finalizer = weakref.finalize(self, _stop, self._process)
        for pipe in (self._process.stdin, self._process.stdout):
            _widen(pipe.fileno())
            os.set_blocking(pipe.fileno(), False)
        self._calls = 0
        try:
            kind, body = self._roundtrip(self._task, time.monotonic() + _START_SECONDS)
        except BadInput as error:
            raise SandboxError(f"the sandbox's child did not start: {error}") from error
        if kind != _READY:
            self.close()
            raise SandboxError(f"the sandbox's child could not load its function: {body.decode('utf-8', 'replace')}")

    def _roundtrip(self, request: bytes, deadline: float) -> tuple[bytes, bytes]:
        """Sends a frame and receives one. Both pipes are polled together, so that neither side can block on a full pipe."""
        outgoing = memoryview(_HEADER.pack(len(request)) + request)
        incoming, wanted = bytearray(), None
        stdin, stdout = self._process.stdin.fileno(), self._process.stdout.fileno()
        poll = select.poll()
        poll.register(stdout, select.POLLIN)
        poll.register(stdin, select.POLLOUT)
        while wanted is None or len(incoming) < wanted:
            left = deadline - time.monotonic()
            if left <= 0:
                self.close()
                raise BadInput("timeout", f"no answer in {self._sandbox.wall_seconds:g} s of wall time")
            for descriptor, event in poll.poll(min(left, 60.0) * 1000):
                if descriptor == stdin:
                    try:
                        outgoing = outgoing[os.write(stdin, outgoing[:_PIPE_BYTES]) :]
                    except BlockingIOError:
                        continue
                    except BrokenPipeError:
                        raise self._verdict() from None
                    if not outgoing:
                        poll.unregister(stdin)
                elif event & (select.POLLIN | select.POLLHUP | select.POLLERR):
                    try:
                        data = os.read(stdout, _PIPE_BYTES)
                    except BlockingIOError:
                        continue
                    if not data:
                        raise self._verdict()
                    incoming += data
                    if wanted is None and len(incoming) >= _HEADER.size:
                        wanted = _HEADER.size + _HEADER.unpack_from(incoming)[0]
        body = bytes(incoming[_HEADER.size :])
        return body[:1], body[1:]

    def _verdict(self) -> BadInput:
        """Reaps a child that went away and says what became of it."""
        process = self._process
        code = process.wait()
        self.close()
        if code == -signal.SIGPROF:
            return BadInput("timeout", f"over {self._sandbox.cpu_seconds:g} s of CPU time")
        if code < 0:
            return BadInput(f"crash:{signal.Signals(-code).name}", "the process that worked on it crashed")
        return BadInput("crash:exit", f"the process that worked on it left with code {code}")


def _stop(process: subprocess.Popen) -> None:
    process.kill()
    for pipe in (process.stdin, process.stdout):
        pipe.close()
    process.wait()


def _widen(descriptor: int) -> None:
    """Asks for a pipe of 1 MiB, so that an ordinary page crosses in one turn; the kernel may say no."""
    import fcntl

    try:
        fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    except OSError:
        pass


# The child's side.


def main() -> None:
    """Serves calls on standard input until it closes."""
    import resource

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    stdin, stdout = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)  # what a library prints or asks must not mix with the answers
    os.dup2(null, 1)
    task = _receive(stdin)
    if task is None:
        return
    try:
        function, sandbox = pickle.loads(task)
        getattr(function, "prepare", _nothing)()
        limit = _address_space() + sandbox.memory_bytes
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    except BaseException as error:
        _send(stdout, _FAILED + f"{type(error).__name__}: {error}".encode("utf-8", "replace"))
        return
    _send(stdout, _READY)
    while (request := _receive(stdin)) is not None:
        answer = _answer(function, sandbox, request)
        del request
        _send(stdout, answer)
        if answer == _MEMORY:
            return


def _answer(function, sandbox: Sandbox, request: bytes) -> bytes:
    signal.setitimer(signal.ITIMER_PROF, sandbox.cpu_seconds)
    try:
        return _ELEMENT + pack(function(unpack(request)))
    except BadInput as error:
        return _BAD + _error(error.error, error.message)
    except MemoryError:
        return _MEMORY
    except Exception as error:
        return _BAD + _error(f"exception:{type(error).__name__}", str(error))
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _error(kind: str, message: str) -> bytes:
    return msgpack.packb([kind, message[:1000]], unicode_errors="surrogatepass")


def _nothing() -> None:
    pass


def _address_space() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")


def _receive(descriptor: int) -> bytes | None:
    header = _read_exactly(descriptor, _HEADER.size)
    return None if header is None else _read_exactly(descriptor, _HEADER.unpack(header)[0])


def _read_exactly(descriptor: int, count: int) -> bytes | None:
    parts, left = [], count
    while left:
        data = os.read(descriptor, min(left, _PIPE_BYTES))
        if not data:
            return None
        parts.append(data)
        left -= len(data)
    return b"".join(parts)


def _send(descriptor: int, body: bytes) -> None:
    data = memoryview(_HEADER.pack(len(body)) + body)
    while data:
        data = data[os.write(descriptor, data) :]


if __name__ == "__main__":
    main()
