"""A lock on a folder of a file system: the file DIR/.lock. Between processes of one host the kernel keeps it; between
hosts, a lease.

The file names its owner (tasks/storage/lock_owner.py), who holds flock on it. The file is written and locked under
another name and then linked to DIR/.lock, so nobody ever sees it incomplete or unlocked. Between two processes of one
kernel, flock decides: a stopped owner keeps its lock, and a dead owner loses it at once.

A shared file system may keep flock to one host. So the owner also renews the file's modification time. An owner of
another host counts as dead when that time is older than its lease, by the file system's clock and not by the host's. A
taker first creates DIR/.lock.claim, which only one process can create, and reads the lock file again: two takers cannot
both win.

On a file system without hard links, the claim is an exclusively created file (O_EXCL), and a process renames its file
to DIR/.lock only while it holds the claim.
"""

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Iterator

from castor.tasks.storage.lock_owner import LOCK_FILE, Lease, Owner

_POLL_S = 0.2
_SETTLE_S = 5.0
_NO_FLOCK = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL)
_NO_LINKS = (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP)

_open: set[int] = set()
"""Descriptors of lock files that this process has open."""


class HeldByOther(Exception):
    """Another process holds the lock. owner: that process, or None if the lock file does not name one."""

    def __init__(self, owner: Owner | None):
        self.owner = owner


class FileLock:
    """One holding of the lock of one folder."""

    def __init__(self, directory: str, owner: Owner, lease: Lease):
        self._directory, self._owner, self._lease = directory, owner, lease
        self._path = os.path.join(directory, LOCK_FILE)
        self._own = -1  # descriptor of this holding's file
        self._is_held = False
        self._made_directory = False

    def acquire(self) -> None:
        """Returns when the lock is held. Raises HeldByOther, or OSError if the folder cannot be made or written to."""
        if not os.path.isdir(self._directory):
            os.makedirs(self._directory, exist_ok=True)
            self._made_directory = True
        own = f"{self._path}.{self._owner.token}"
        self._own = os.open(own, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        _open.add(self._own)
        try:
            os.write(self._own, self._owner.to_bytes())
            os.fsync(self._own)
            while not _flock(self._own):
                time.sleep(0.01)  # another process is looking whether this file is a leftover
            while not (self._create(own) or self._replace_dead(own)):
                pass
            self._is_held = True
            self._remove_leftovers()
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(own)
            if not self._is_held:
                _close(self._own)
                self._remove_empty_directory()

    def renew(self) -> bool:
        """Renews the lease. False if the lock is not this holding's any more."""
        if not self._is_own():
            return False
        os.utime(self._own)
        return True

    def release(self) -> None:
        """Removes the lock file if it is still this holding's, and an empty folder that was made for the lock."""
        with contextlib.suppress(OSError):
            if self._is_own():
                os.unlink(self._path)
        _close(self._own)
        self._remove_empty_directory()

    def follow(self, directory: str) -> None:
        """The folder has been renamed to `directory`."""
        self._directory, self._path = directory, os.path.join(directory, LOCK_FILE)

    def _is_own(self) -> bool:
        with _opened(self._path) as file:  # opened anew, for a network file system then asks its server
            return file is not None and os.path.samestat(os.fstat(file), os.fstat(self._own))

    def _create(self, own: str) -> bool:
        """Gives the file `own` the lock's name. False if there is a lock file or another process may be creating it."""
        linked = _link(own, self._path)
        if linked is not None or os.path.lexists(self._path):
            return bool(linked)
        with self._claimed(own) as alone:
            if not alone or os.path.lexists(self._path):
                return False
            os.rename(own, self._path)
            return True

    def _replace_dead(self, own: str) -> bool:
        """Replaces the lock file of a dead owner by the file `own`. False if the lock file is gone: try again.

        Raises HeldByOther for the file of a living owner.
        """
        until = time.monotonic() + _SETTLE_S
        while True:
            with _opened(self._path) as other:
                if other is None:
                    return False
                owner = _read(other)
                alone = _flock(other)
                if not _is_under(other, self._path):
                    return False
                if alone:
                    self._check_dead(owner)
                    return self._claim_and_replace(own, owner)
            if owner is None or not owner.has_ended() or time.monotonic() > until:
                raise HeldByOther(owner)
            time.sleep(_POLL_S / 10)  # another process is taking over from a dead owner: wait for its name

    def _check_dead(self, owner: Owner | None) -> None:
        """Returns if an owner is dead whose flock this process could take. Raises HeldByOther if it is alive."""
        if owner is not None and owner.is_of_this_kernel() and (_has_flock(self._own) or owner.has_ended()):
            return
        if owner is not None and owner.is_nearby():
            raise HeldByOther(owner)
        expire_s = self._lease.expire_s if owner is None else owner.expire_s
        first = None
        while True:
            with _opened(self._path) as again:
                if again is None:
                    return
                now, changed = _read(again), os.fstat(again).st_mtime
            os.utime(self._own)
            if now == owner and os.fstat(self._own).st_mtime - changed > expire_s:
                return
            if now != owner or first not in (None, changed):
                raise HeldByOther(now)
            first = changed
            time.sleep(_POLL_S)

    def _claim_and_replace(self, own: str, before: Owner | None) -> bool:
        """Replaces the lock file of `before` by the file `own`. False if another process was faster."""
        with self._claimed(own) as alone:
            if not alone:
                return False
            with _opened(self._path) as other:
                if other is None or _read(other) != before:
                    return False
            os.replace(own, self._path)
            return True

    @contextlib.contextmanager
    def _claimed(self, own: str) -> Iterator[bool]:
        """Whether this process alone may change the lock file during the block."""
        claim = f"{self._path}.claim"
        linked = _link(own, claim)
        file = self._own if linked else _create_exclusively(claim, self._owner) if linked is None else None
        if file is None:
            # The claim belongs to a process of another host (takers of this host need flock first), to a process that
            # creates the lock file without hard links, or to a process that was killed at this point.
            self._remove_leftovers()
            time.sleep(_POLL_S)
            yield False
            return
        try:
            yield _is_under(file, claim)
        finally:
            if _is_under(file, claim):
                os.unlink(claim)
            if file != self._own:
                _close(file)

    def _remove_leftovers(self) -> None:
        """Removes the files of processes that were killed while they asked for the lock. Never a living process's."""
        os.utime(self._own)
        now = os.fstat(self._own).st_mtime
        for name in os.listdir(self._directory):
            if name.startswith(f"{LOCK_FILE}.") and not name.endswith(self._owner.token):
                path = os.path.join(self._directory, name)
                with contextlib.suppress(OSError), _opened(path) as file:
                    if file is None:
                        continue
                    owner = _read(file)
                    expire_s = self._lease.expire_s if owner is None else owner.expire_s
                    if not (owner is not None and owner.has_ended() or now - os.fstat(file).st_mtime > expire_s):
                        continue
                    # A claim may be a second name of the lock file, on which this process holds flock already.
                    if (_is_under(file, self._path) or _flock(file)) and _is_under(file, path):
                        os.unlink(path)

    def _remove_empty_directory(self) -> None:
        if self._made_directory:
            with contextlib.suppress(OSError):
                os.rmdir(self._directory)


def read_owner(directory: str) -> Owner | None:
    """The owner that a folder's lock file names, dead or alive; None if there is no such file."""
    with _opened(os.path.join(directory, LOCK_FILE)) as file:
        return None if file is None else _read(file)


@contextlib.contextmanager
def _opened(path: str) -> Iterator[int | None]:
    """A descriptor of a file, None if there is no such file."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except PermissionError:
        descriptor = os.open(path, os.O_RDONLY)  # another user's: enough for flock on a local disk
    except FileNotFoundError:
        yield None
        return
    _open.add(descriptor)
    try:
        yield descriptor
    finally:
        _close(descriptor)


def _close(descriptor: int) -> None:
    _open.discard(descriptor)
    os.close(descriptor)


def _read(descriptor: int) -> Owner | None:
    return Owner.from_bytes(os.pread(descriptor, 1 << 16, 0))


def _is_under(descriptor: int, path: str) -> bool:
    """Whether `path` is a name of an open file."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _flock(descriptor: int) -> bool:
    """Locks an open file without waiting. False if it is locked already; True if the file system has no flock."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_FLOCK:
            raise
    return True


def _has_flock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _link(source: str, target: str) -> bool | None:
    """Gives a file a second name. False if that name is taken, None if the file system has no hard links."""
    try:
        os.link(source, target)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        return None
    return True


def _create_exclusively(path: str, owner: Owner) -> int | None:
    """A descriptor of a new file that names `owner`, who has flock on it; None if that name is taken."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
    except FileExistsError:
        return None
    _open.add(descriptor)
    while not _flock(descriptor):
        time.sleep(0.01)
    os.write(descriptor, owner.to_bytes())
    return descriptor


def _close_in_child() -> None:
    """A forked child shares the parent's flock and would keep it for as long as it lives."""
    for descriptor in list(_open):
        _close(descriptor)


os.register_at_fork(after_in_child=_close_in_child)
