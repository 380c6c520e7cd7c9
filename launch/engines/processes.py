"""Servers as child processes in their own process groups, which never outlive this process.

Each server's output goes to a log file. A guard (a shell that reads from a pipe of this process) kills the whole group
if this process is killed.
"""

import contextlib
import dataclasses
import os
import pathlib
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from castor.tasks.errors import CastorError

_PORTS = range(20_000, 32_000)
"""Below Linux's range for outgoing connections, so that none of them takes a port between choice and use."""
_STOP_SECONDS = 10.0
_LOG_LINES = 8


class EngineError(CastorError):
    """An engine cannot be fetched or started on this machine, or has stopped."""


@dataclasses.dataclass(frozen=True)
class Engine:
    """A running engine.

    name: name of the engine.
    address: where the engine listens.
    options: Beam options for a job on this engine.
    logs: folder of the engine's logs.
    facts: versions and sizes to report.
    """

    name: str
    address: str
    options: tuple[str, ...]
    logs: pathlib.Path
    facts: Mapping[str, str] = dataclasses.field(default_factory=dict)


class Server:
    """A child process in its own process group.

    name: used in messages and for the log file, NAME.log.
    command: program and arguments.
    folder: where the log is written.
    environment: variables added to this process's environment.
    cwd: working directory; default `folder`.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        folder: pathlib.Path,
        environment: Mapping[str, str] | None = None,
        cwd: pathlib.Path | None = None,
    ):
        self.name = name
        self.log = folder / f"{name}.log"
        with open(self.log, "wb") as log:
            self._process = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=cwd or folder,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
            )
        guard = ["sh", "-c", 'read _; kill -9 "-$1"', "sh", str(self.pid)]
        self._guard = subprocess.Popen(
            guard, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )

    @property
    def pid(self) -> int:
        """Id of the process and of its group."""
        return self._process.pid

    def wait(self) -> int:
        """Waits for the process and returns its exit code; negative for the signal that killed the process."""
        return self._process.wait()

    def send(self, number: int) -> None:
        """Sends a signal to the group. Does nothing if the group has ended."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def wait_for(self, answers: Callable[[], bool], seconds: float) -> None:
        """Waits until `answers()` is true.

        answers: readiness probe, called ten times per second.
        seconds: timeout.

        Raises EngineError with the end of the log if the process ends first or the timeout expires.
        """
        deadline = time.monotonic() + seconds
        while not answers():
            if self._process.poll() is not None:
                raise EngineError(
                    f"{self.name} ended with code {self._process.returncode} instead of starting: {self.tail()}",
                    f"Log: {self.log}.",
                )
            if time.monotonic() > deadline:
                raise EngineError(
                    f"{self.name} did not become ready within {seconds:.0f} s: {self.tail()}", f"Log: {self.log}."
                )
            time.sleep(0.1)

    def tail(self) -> str:
        """The last lines of the log, without empty lines and Java stack frames."""
        text = self.log.read_text("utf-8", "replace") if self.log.exists() else ""
        lines = [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("at ")]
        return " | ".join(line[:300] for line in lines[-_LOG_LINES:])

    def stop(self) -> None:
        """Stops the group with SIGTERM and, after a timeout, SIGKILL. Does nothing if the group has already ended."""
        for number, patience in ((signal.SIGTERM, _STOP_SECONDS), (signal.SIGKILL, _STOP_SECONDS)):
            self.send(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(patience)
                break
        self.send(signal.SIGKILL)  # children of the process may outlive it
        self._guard.kill()
        self._guard.stdin.close()
        self._guard.wait()


@contextlib.contextmanager
def workspace(name: str) -> Iterator[pathlib.Path]:
    """A temporary folder for an engine's files, removed on exit. After an exception the logs are kept for diagnosis."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix=f"castor-{name}-"))
    try:
        yield folder
    except BaseException:
        for entry in folder.iterdir():
            if entry.is_dir():
                shutil.rmtree(entry, ignore_errors=True)
            elif entry.suffix != ".log":
                entry.unlink()
        raise
    shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def running(folder: pathlib.Path) -> Iterator[Callable[..., Server]]:
    """Yields a function that starts a Server with files in `folder`. Stops all servers on exit, in reverse order."""
    servers: list[Server] = []

    def start(name: str, command: Sequence[str], environment: Mapping[str, str] | None = None) -> Server:
        servers.append(Server(name, command, folder, environment))
        return servers[-1]

    try:
        yield start
    finally:
        for server in reversed(servers):
            server.stop()


def free_ports(count: int) -> list[int]:
    """Random ports of 127.0.0.1 that are free now. Raises EngineError if there are fewer than `count`."""
    found: list[int] = []
    for port in random.SystemRandom().sample(_PORTS, len(_PORTS)):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            return found
    raise EngineError(
        f"no free port from {_PORTS.start} to {_PORTS.stop - 1}.", "Stop the programs that listen on these ports."
    )


def listens(port: int) -> bool:
    """Whether a server on this machine accepts connections on `port`."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def tool(name: str, purpose: str, remedy: str) -> str:
    """Path of a program.

    name: the program's name or path.
    purpose: what needs the program, as the subject of the message.
    remedy: how to install the program.

    Raises EngineError with purpose and remedy if the program is not found.
    """
    found = shutil.which(name)
    if found is None:
        raise EngineError(f"{purpose} needs {name}, which is not on the PATH.", remedy)
    return found
