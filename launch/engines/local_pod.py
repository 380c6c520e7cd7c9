"""`castor launch local --hosts=N train ...`: one training run as N processes on this machine, as on a pod of N hosts.

Every process is a `castor train --coordinator` with its own virtual CPU devices. Each process feeds only its own rows
of batch(step) and communicates by Gloo collectives. The output of process 0 is shown here. Each process also writes
MODEL_DIR/logs/NNN_host_I.log, where NNN counts the starts.

If one process fails, the whole pod is stopped, because the others would wait forever in the next collective.
`--restarts` starts the whole pod again from the latest checkpoint. SIGTERM and Ctrl-C are forwarded as SIGTERM, which
JAX treats as a preemption notice: all processes save and exit after the same step. A second signal, or the end of the
grace period, kills the remaining processes. If this process is killed, a guard kills the hosts.
"""

import argparse
import contextlib
import dataclasses
import pathlib
import queue
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping

from castor.launch import exit_codes, training_runs
from castor.launch.engines.processes import Server
from castor.tasks.configuration import Flags
from castor.tasks.errors import CastorError, ConfigurationError
from castor.tasks.storage import lock, storage
from castor.train.model_dir import LOG_FOLDER
from castor.train.preemption import SignalRecorder

JOBS = ("train",)
_LOOK_S = 0.1
_NOISE = "[Gloo] Rank"  # Gloo prints one such line per mesh axis from C++; no option disables them


@dataclasses.dataclass(frozen=True)
class Pod:
    """A training run as several processes.

    arguments: the command line after `castor`, the same for every host.
    folder: where the logs are written.
    hosts: number of processes.
    devices_per_host: virtual CPU devices per process.
    restarts: how many times the pod is restarted after a failure.
    grace_s: seconds that the hosts have to save and exit after a signal.
    environment: variables added to this process's environment.
    """

    arguments: tuple[str, ...]
    folder: pathlib.Path
    hosts: int
    devices_per_host: int = 1
    restarts: int = 0
    grace_s: float = 60.0
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        for name, least in (("hosts", 1), ("devices_per_host", 1), ("restarts", 0), ("grace_s", 0)):
            if getattr(self, name) < least:
                raise ConfigurationError(
                    f"castor launch local: {name.removesuffix('_s')} = {getattr(self, name)}.",
                    f"Give at least {least}.",
                )


class HostFailure(CastorError):
    """The first host that failed.

    code: exit code of the host; negative for the signal that killed the host.
    """

    def __init__(self, host: int, pod: Pod, code: int, server: Server):
        self.code = code
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        super().__init__(
            f"host {host} of {pod.hosts} {how}; the others were stopped.{_last_words(server)}", f"Log: {server.log}."
        )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("castor launch local train: a pod of processes on this machine")
    group.add_argument("--hosts", type=int, metavar="N", help="number of processes (default 2)", default=2)
    group.add_argument(
        "--devices_per_host", type=int, metavar="N", help="virtual CPU devices per process (default 1)", default=1
    )
    group.add_argument(
        "--restarts",
        type=int,
        metavar="N",
        help="restart the whole pod up to N times after a failure (default 0)",
        default=0,
    )
    group.add_argument(
        "--grace",
        type=float,
        metavar="SECONDS",
        help="how long hosts may take to save and exit after a signal (default 60)",
        default=60.0,
    )


def run(arguments: argparse.Namespace, flags: Flags) -> int:
    """Runs `castor train` with these flags on all hosts. Returns 0, or 143 if SIGTERM stopped the run after a save.

    Raises KeyboardInterrupt after Ctrl-C, and HostFailure if a host failed.
    """
    # Parse the configuration here first, so that a mistake is reported once, before any host starts.
    model_dir = training_runs.configure(flags.or_files(*training_runs.GIN_FILES)).model_dir
    command = (arguments.job, *_as_arguments(flags), *arguments.rest)
    numbers = (arguments.hosts, arguments.devices_per_host, arguments.restarts, arguments.grace)
    with lock.hold(model_dir, "MODEL_DIR") as held:  # covers all restarts; process 0 writes under it
        where = (
            tempfile.mkdtemp(prefix="castor-logs-")
            if storage.is_remote(model_dir)
            else storage.join(model_dir, LOG_FOLDER)
        )
        folder = pathlib.Path(where).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        return run_pod(Pod(command, folder, *numbers, held.environment()))


def run_pod(pod: Pod) -> int:
    """Starts the pod, and restarts it as often as `pod.restarts` allows. Returns and raises as `run` does."""
    with SignalRecorder() as signals:
        for left in reversed(range(pod.restarts + 1)):
            try:
                _run_once(pod, signals)
                break
            except HostFailure as failure:
                # A configuration error would recur after a restart.
                if not left or signals.received or failure.code == exit_codes.BAD_USE:
                    raise
                _say(f"{failure} Starting again; {left - 1} restart(s) left after this one.")
    if signal.SIGINT in signals.received:
        raise KeyboardInterrupt
    return exit_codes.STOPPED if signals.received else 0


def _run_once(pod: Pod, signals: SignalRecorder) -> None:
    """Starts all hosts and waits for the last one. Raises HostFailure as soon as one fails."""
    number = 1 + max((int(path.name[:3]) for path in pod.folder.glob("[0-9][0-9][0-9]_host_*.log")), default=-1)
    with contextlib.ExitStack() as stack:
        port = stack.enter_context(reserved_port())
        servers: list[Server] = []
        stack.callback(_kill, servers)
        ended: queue.SimpleQueue[tuple[int, int]] = queue.SimpleQueue()
        for host in range(pod.hosts):
            bound = {"JAX_COORDINATOR_BIND_ADDRESS": f"127.0.0.1:{port}", **pod.environment}
            server = Server(
                f"{number:03d}_host_{host}", _command(pod, host, port), pod.folder, bound, pathlib.Path.cwd()
            )
            servers.append(server)
            threading.Thread(target=_report_end, args=(host, server, ended), daemon=True).start()
        output = stack.enter_context(contextlib.closing(_LogFollower(servers[0].log)))
        passed_on, give_up = 0, float("inf")
        running = set(range(pod.hosts))
        while running:
            with contextlib.suppress(queue.Empty):
                host, code = ended.get(timeout=_LOOK_S)
                running.discard(host)
                if code not in (0, exit_codes.STOPPED):
                    _kill(servers)
                    output.show()
                    raise HostFailure(host, pod, code, servers[host])
            output.show()
            if len(signals.received) > passed_on:
                passed_on = len(signals.received)
                if passed_on > 1:
                    raise CastorError(
                        "stopped by a second signal; the hosts were killed.",
                        "The same command resumes from the latest checkpoint.",
                    )
                _say(f"{signals.received[0].name}: the hosts save and exit; a second signal kills them.")
                give_up = time.monotonic() + pod.grace_s
                for server in servers:
                    server.send(signal.SIGTERM)
            if time.monotonic() > give_up:
                late = ", ".join(map(str, sorted(running)))
                what = f"host(s) {late} did not save and exit within {pod.grace_s:g} s and were killed."
                raise CastorError(what, f"Logs: {pod.folder}. Allow more with --grace.")


def _command(pod: Pod, host: int, port: int) -> list[str]:
    process = [
        f"--coordinator=127.0.0.1:{port}",
        f"--num_processes={pod.hosts}",
        f"--process_id={host}",
        f"--cpu_devices={pod.devices_per_host}",
    ]
    return [sys.executable, "-P", "-m", "castor.launch.command", *pod.arguments, *process]


def _as_arguments(flags: Flags) -> Iterator[str]:
    """The command-line arguments that reproduce these flags."""
    yield from (f"--gin_search_paths={path}" for path in flags.search_paths)
    yield from (f"--gin_file={name}" for name in flags.files)
    yield from (f"--gin_bindings={line}" for line in flags.bindings)


def _report_end(host: int, server: Server, ended: queue.SimpleQueue) -> None:
    """Waits for a host in its own thread, so that hosts are reported in the order in which they end."""
    ended.put((host, server.wait()))


def _kill(servers: list[Server]) -> None:
    """Kills all hosts. SIGTERM would not do: a host that waits in a collective for a dead host does not react to it."""
    for server in servers:
        server.send(signal.SIGKILL)
    for server in servers:
        server.stop()


def _last_words(server: Server) -> str:
    """The last error in a host's log, or else the last lines."""
    lines = [line for line in server.tail().split(" | ") if line and _NOISE not in line]
    errors = [line for line in lines if line.startswith("castor: error: ")]
    return f" Its last output: {' | '.join(errors[-1:] or lines)}" if lines else ""


def _say(text: str) -> None:
    print(f"castor: {text}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def reserved_port() -> Iterator[int]:
    """Reserves a port of 127.0.0.1 for a child process of this user, until the block exits.

    The kernel chooses the port, so two pods never get the same one. This socket is bound but never listens. gRPC
    servers set SO_REUSEPORT as well, which lets the coordinator listen on the reserved port.
    """
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


class _LogFollower:
    """Copies new lines of a growing log file to stderr."""

    def __init__(self, path: pathlib.Path):
        self._file = open(path, encoding="utf-8", errors="replace")
        self._begun = ""

    def show(self) -> None:
        *lines, self._begun = (self._begun + self._file.read()).split("\n")
        for line in lines:
            if _NOISE not in line:
                print(line, file=sys.stderr)
        sys.stderr.flush()

    def close(self) -> None:
        self.show()
        self._file.close()
