"""One writer at a time for every folder that Castor writes: `hold` locks a folder of a file system or of a bucket.

    with lock.hold(output, "OUTPUT") as held:
        ...                 # write
        held.check()        # before what was written replaces what was there
        ...

A second writer gets LockError, which names the first, before it touches anything. A lock whose owner is dead is taken
over. If an owner was paused for so long that another host took its lock over, `check` raises LockError, and the owner
must write nothing more.
"""

import contextlib
import os
import threading
import time
from collections.abc import Iterator

from castor.tasks.errors import ConfigurationError, LockError
from castor.tasks.storage import lock_file, storage
from castor.tasks.storage.lock_file import FileLock, HeldByOther
from castor.tasks.storage.lock_owner import LOCK_FILE, Lease, Owner

__all__ = ["LOCK_FILE", "Lease"]

_LEASE = Lease()
_PASSED_ON = "CASTOR_LOCKS"
"""Environment variable: tokens of the locks that parent processes hold for this one, separated by commas."""


class Held:
    """A lock that this process may write under. Made by `hold`."""

    def __init__(self, directory: str, purpose: str, owner: Owner):
        self._what, self._owner = f"{purpose} {directory}", owner

    def check(self) -> None:
        """Raises LockError if another writer has taken the lock over. Costs nothing while the lease is fresh."""

    def follow(self, directory: str) -> None:
        """Moves the lock along with its folder, which has been renamed to `directory`."""

    def environment(self) -> dict[str, str]:
        """The environment for child processes that write under this lock and end before this process does."""
        return {_PASSED_ON: ",".join([*_passed_on(), self._owner.token])}

    def _lost(self, how: str) -> LockError:
        return LockError(
            f"{self._what} is no longer this process's to write: {how}.",
            "Nothing more was written. Let the other writer end, or run this command again.",
        )


class _Own(Held):
    """A lock of this process, renewed by a thread."""

    def __init__(self, directory: str, purpose: str, owner: Owner, keeper, lease: Lease):
        super().__init__(directory, purpose, owner)
        self._keeper, self._lease = keeper, lease
        self._renewed = _now()
        self._is_lost = False
        self._renewing = threading.Lock()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="castor-lock", daemon=True)
        self._thread.start()

    def check(self) -> None:
        if not self._is_lost and _now() - self._renewed > 2 * self._lease.renew_s:  # the thread, too, was stopped
            try:
                self._renew()
            except OSError as error:
                if _now() - self._renewed > self._lease.expire_s - self._lease.renew_s:
                    raise self._lost(
                        f"its lock could not be renewed for {_now() - self._renewed:.0f} s: {error}"
                    ) from error
        if self._is_lost:
            raise self._lost("another writer took its lock over, or removed it, while this one was paused")

    def follow(self, directory: str) -> None:
        with self._renewing:
            self._keeper.follow(directory)

    def release(self) -> None:
        if os.getpid() != self._owner.process:
            return  # a forked copy that leaves the block: the lock is its parent's
        self._end.set()
        self._thread.join()
        with contextlib.suppress(OSError):  # a bucket that does not answer: the lease ends by itself
            self._keeper.release()

    def _keep(self) -> None:
        while not self._is_lost and not self._end.wait(self._lease.renew_s):
            with contextlib.suppress(OSError):  # once more at the next turn
                self._renew()

    def _renew(self) -> None:
        with self._renewing:
            began = _now()
            if self._keeper.renew():
                self._renewed = began
            else:
                self._is_lost = True


class _OfParent(Held):
    """The lock of a parent process, which started this one to write under it."""

    def __init__(self, directory: str, purpose: str, owner: Owner):
        super().__init__(directory, purpose, owner)
        self._directory = directory

    def check(self) -> None:
        now = _read_owner(self._directory)
        if now is None or now.token != self._owner.token:
            raise self._lost(f"{self._owner} has given its lock up")


@contextlib.contextmanager
def hold(directory: storage.Path, purpose: str, lease: Lease = _LEASE) -> Iterator[Held]:
    """Holds the lock of a folder during the block. Creates the folder if it does not exist.

    purpose: the user's name for the folder, for messages ("OUTPUT", "MODEL_DIR").
    lease: how often to renew the lock, and when other hosts may take it over.

    Raises LockError if another process holds it, ConfigurationError if the folder cannot be made or written to.
    """
    directory = os.fspath(directory)
    owner = Owner.this_process(lease)
    keeper = _keeper(directory, owner, lease)
    try:
        keeper.acquire()
    except HeldByOther as error:
        if error.owner is None or error.owner.token not in _passed_on():
            raise _refusal(directory, purpose, error.owner) from None
        above = error.owner
    except OSError as error:
        raise ConfigurationError(
            f"{purpose} {directory} cannot be made a directory that this process may write to: {error.strerror}.",
            "Choose another.",
        ) from error
    else:
        held = _Own(directory, purpose, owner, keeper, lease)
        try:
            yield held
        finally:
            held.release()
        return
    yield _OfParent(directory, purpose, above)


def _keeper(directory: str, owner: Owner, lease: Lease):
    if not storage.is_remote(directory):
        return FileLock(directory, owner, lease)
    from castor.tasks.storage.lock_object import ObjectLock

    return ObjectLock(directory, owner, lease)


def _read_owner(directory: str) -> Owner | None:
    if not storage.is_remote(directory):
        return lock_file.read_owner(directory)
    from castor.tasks.storage import lock_object

    return lock_object.read_owner(directory)


def _refusal(directory: str, purpose: str, owner: Owner | None) -> LockError:
    if owner is None:
        return LockError(
            f"{purpose} {directory} is being written by a process that its {LOCK_FILE} does not name.",
            "Wait until it has ended, or choose another folder.",
        )
    return LockError(
        f"{purpose} {directory} is being written by {owner}.",
        "Wait until it has ended, stop it, or choose another folder.",
    )


def _passed_on() -> list[str]:
    return [token for token in os.environ.get(_PASSED_ON, "").split(",") if token]


def _now() -> float:
    """Monotonic time in seconds. Includes the time that the machine was suspended, where the system counts it."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
