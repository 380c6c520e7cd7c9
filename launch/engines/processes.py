"""Servers as child processes: started in a group of their own, watched until they answer, and always ended, whatever becomes of this process.

Each server's output goes to a log file. A guard (a shell that waits on a pipe from here) ends the whole group should this process be killed.
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

_PORTS = range(
    20_000, 32_000
)  # below what Linux gives to outgoing connections, so that none of those takes a port between choice and use
_STOP_SECONDS = 10.0
_LOG_LINES = 8


class EngineError(CastorError):
    """An engine that cannot be had or brought up here, or that went away."""


@dataclasses.dataclass(frozen=True)
class Engine:
    """A running engine: `options` are Beam's, for a job that is to run on it; `address` is where it answers, `logs` its log folder."""

    name: str
    address: str
    options: tuple[str, ...]
    logs: pathlib.Path
    facts: Mapping[str, str] = dataclasses.field(default_factory=dict)


class Server:
    """One process and its group, whose log goes to `folder`. `name` is for messages and the log file; cwd: where it runs (the folder)."""

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
        """Of the process, and of its group."""
        return self._process.pid

    def wait(self) -> int:
        """Returns when the process has ended: its exit code, negative for the signal that killed it."""
        return self._process.wait()

    def send(self, number: int) -> None:
        """Sends a signal to the group. Fine if it is gone."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def wait_for(self, answers: Callable[[], bool], seconds: float) -> None:
        """Returns when `answers()` is true. Raises EngineError with the end of the log if the process ends first or the time is up."""
        deadline = time.monotonic() + seconds
        while not answers():
            if self._process.poll() is not None:
                raise EngineError(
                    f"{self.name} ended with code {self._process.returncode} instead of starting: {self.tail()}",
                    f"Its log: {self.log}.",
                )
            if time.monotonic() > deadline:
                raise EngineError(
                    f"{self.name} did not answer within {seconds:.0f} s: {self.tail()}", f"Its log: {self.log}."
                )
            time.sleep(0.1)

    def tail(self) -> str:
        """The last lines of the log that say something."""
        text = self.log.read_text("utf-8", "replace") if self.log.exists() else ""
        lines = [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("at ")]
        return " | ".join(line[:300] for line in lines[-_LOG_LINES:])

    def stop(self) -> None:
        """Ends the group: asked first, then without asking. Fine if it is gone."""
        for number, patience in ((signal.SIGTERM, _STOP_SECONDS), (signal.SIGKILL, _STOP_SECONDS)):
            self.send(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(patience)
                break
        self.send(signal.SIGKILL)  # what the process has started outlives it
        self._guard.kill()
        self._guard.stdin.close()
        self._guard.wait()


@contextlib.contextmanager
def workspace(name: str) -> Iterator[pathlib.Path]:
    """A temporary folder for an engine's files. After an exception its logs stay, and only they, so that the error can be looked into."""
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
    """Yields a function that starts a Server with its files in `folder`; all are stopped at the end, the last first."""
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
    """Ports of this machine that nobody listens on now."""
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
    raise EngineError("no port is free.", "End what holds them.")


def listens(port: int) -> bool:
    """Whether something on this machine accepts connections at a port."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def tool(name: str, purpose: str, remedy: str) -> str:
    """The path of a program. Raises EngineError saying what it is needed for and how to get it."""
    found = shutil.which(name)
    if found is None:
        raise EngineError(f"{purpose} needs {name}, which is not on the PATH.", remedy)
    return found
