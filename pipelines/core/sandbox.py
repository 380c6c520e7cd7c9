"""Runs functions on untrusted input in a child process, so that a crash or an excessive cost does not stop the job.

Parsers and codecs are C code that reads untrusted bytes. A nested page can take quadratic time, a forged header can
request 10 GB, a flipped bit can cause a segmentation fault. A process cannot catch these failures in itself. `Child`
runs one function in `python -m castor.pipelines.core.sandbox`, one element at a time, under three kernel limits:

- CPU seconds per element, by ITIMER_PROF, whose default action kills the process. The timer also stops C code that
  holds the GIL. It counts CPU time, not wall time, so the outcome of an element does not depend on the load of the
  machine.
- Address space beyond what the child used when it was ready, by RLIMIT_AS.
- No core files.

A killed or crashed child is reaped and replaced; the element becomes `BadInput`. After a crash or exhausted memory in
a child that has processed other elements, the element is tried once more in a fresh child. The outcome therefore
depends on the element alone.

The function is pickled and sent to the child once. Elements are sent both ways as `pipelines.document.pack` bytes, so
no output of a child is ever unpickled. This file imports neither Beam nor any parser. The module of a function for
the sandbox should not import Beam either: the import would cost each child four seconds. If the function has a method
`prepare()`, the child calls it once before the limits are set; models are loaded there.
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
    """Limits of one call.

    cpu_seconds: CPU time, in seconds.
    memory_bytes: address space beyond what the child used when it was ready, in bytes.
    wall_seconds: wall time, in seconds; a last resort against a child that sleeps, far above what `cpu_seconds` allows.
    """

    cpu_seconds: float = 10.0
    memory_bytes: int = 2 << 30
    wall_seconds: float = 1800.0


class SandboxError(RuntimeError):
    """The child did not start or could not load the function: an error in the program, not in an element."""


class Child:
    """One function in one child process, started at the first call.

    Not thread-safe. Ends with `close` or garbage collection.
    """

    def __init__(self, function: Callable[[Document], Element], sandbox: Sandbox = Sandbox()):
        self._task = pickle.dumps((function, sandbox))
        self._sandbox = sandbox
        self._process: subprocess.Popen | None = None
        self._finalizer = None
        self._calls = 0

    @property
    def pid(self) -> int | None:
        """Process id of the running child, or None."""
        return self._process.pid if self._process else None

    def call(self, document: Document) -> Element:
        """The function's result.

        Raises BadInput: the function's own, or `timeout`, `memory`, `crash:SIGNAL`, `exception:TypeName`.
        """
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
            raise SandboxError(f"the sandbox process did not start: {error}") from error
        if kind != _READY:
            self.close()
            raise SandboxError(f"the sandbox process could not load its function: {body.decode('utf-8', 'replace')}")

    def _roundtrip(self, request: bytes, deadline: float) -> tuple[bytes, bytes]:
        """Sends one frame and receives one. Polls both pipes together, so that neither side blocks on a full pipe."""
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
        """Reaps a child that ended and returns the cause."""
        process = self._process
        code = process.wait()
        self.close()
        if code == -signal.SIGPROF:
            return BadInput("timeout", f"over {self._sandbox.cpu_seconds:g} s of CPU time")
        if code < 0:
            return BadInput(f"crash:{signal.Signals(-code).name}", "the sandbox process crashed")
        return BadInput("crash:exit", f"the sandbox process exited with code {code}")


def _stop(process: subprocess.Popen) -> None:
    process.kill()
    for pipe in (process.stdin, process.stdout):
        pipe.close()
    process.wait()


def _widen(descriptor: int) -> None:
    """Requests a pipe of 1 MiB, so that a usual page needs one write. The kernel may refuse."""
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
    os.dup2(null, 0)  # a library's own input and output must not mix with the frames
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
