"""The owner of a lock: the record in a lock file, and whether the process that it names is still alive.

Host names do not identify hosts: two containers of one machine have two names, and a new pod has its predecessor's.
Hosts are identified by the kernel's boot id. A process is identified by its pid namespace, process id and start time,
so that a reused process id is not mistaken for the old owner.
"""

import dataclasses
import datetime
import json
import os
import pathlib
import shlex
import socket
import sys
import uuid

LOCK_FILE = ".lock"
_COMMAND_CHARACTERS = 160


@dataclasses.dataclass(frozen=True)
class Lease:
    """The lease of a lock that other hosts can see.

    renew_s: seconds between renewals. expire_s: seconds after the last renewal when the lock expires.
    """

    renew_s: float = 10.0
    expire_s: float = 60.0


@dataclasses.dataclass(frozen=True)
class Owner:
    """One holding of one lock.

    host, process, since, command: for human readers.
    token: unique to this holding.
    boot, namespace, started: the process's kernel, pid namespace and start time (clock ticks since boot).
    expire_s: seconds after its last renewal when the lock expires.
    """

    host: str
    process: int
    since: str
    command: str
    token: str
    boot: str
    namespace: str
    started: str
    expire_s: float

    @classmethod
    def this_process(cls, lease: Lease) -> "Owner":
        """A new holding by this process."""
        return cls(
            host=socket.gethostname(),
            process=os.getpid(),
            since=f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M:%S} UTC",
            command=_command(),
            token=uuid.uuid4().hex,
            boot=_boot(),
            namespace=_namespace(),
            started=_state_and_start(os.getpid())[1],
            expire_s=lease.expire_s,
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> "Owner | None":
        """The owner that a lock file names; None if the file is truncated or is not a lock file."""
        try:
            fields = json.loads(data)
            return cls(**{field.name: field.type(fields[field.name]) for field in dataclasses.fields(cls)})
        except (ValueError, KeyError, TypeError):
            return None

    def to_bytes(self) -> bytes:
        return (json.dumps(dataclasses.asdict(self), sort_keys=True) + "\n").encode()

    def is_of_this_kernel(self) -> bool:
        """Whether the owner runs, or ran, under this machine's kernel since its last boot."""
        return self.boot == _boot()

    def is_nearby(self) -> bool:
        """Whether this process can see if the owner is alive: both are of one kernel and pid namespace."""
        return self.is_of_this_kernel() and self.namespace == _namespace()

    def has_ended(self) -> bool:
        """True if the owner is known to have ended. Never known of an owner that is not nearby."""
        if not self.is_nearby():
            return False
        state, started = _state_and_start(self.process)
        return state in ("", "Z", "X") or started != self.started

    def __str__(self) -> str:
        return f"process {self.process} on {self.host} since {self.since} ({self.command})"


def _command() -> str:
    """The command line, truncated, without the folder of the program."""
    program, *arguments = sys.argv or [""]
    name = "castor" if pathlib.Path(program).stem in ("castor", "command") else pathlib.Path(program).name
    text = " ".join(shlex.join([name or "python", *arguments]).split())
    return text if len(text) <= _COMMAND_CHARACTERS else f"{text[:_COMMAND_CHARACTERS]}..."


def _boot() -> str:
    """The kernel's boot id, which all containers of a machine share; the host name if the system has no boot id."""
    try:
        return pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return socket.gethostname()


def _namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _state_and_start(process: int) -> tuple[str, str]:
    """(state letter, start time) of a process, from /proc. No such process: ("", ""); no /proc: ("?", "")."""
    try:
        fields = pathlib.Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return fields[0], fields[19]
    except ProcessLookupError:
        return "", ""
    except OSError:
        if pathlib.Path("/proc/self/stat").exists():
            return "", ""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return "", ""
    except PermissionError:
        pass
    return "?", ""
