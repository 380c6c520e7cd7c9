"""A lock on a folder of a bucket: the object gs://BUCKET/DIR/.lock, a lease. Every write names the generation that it
replaces.

The object is created only if there is none. It is renewed and removed only while its generation is the holder's own. Of
two concurrent writes, the bucket accepts one. An owner that is not known to have ended counts as dead when the object
has kept its generation for the length of the lease. The waiting process measures that time with its own clock; clocks
of two hosts are never compared. A takeover from a dead owner of another host therefore takes one lease; a living owner
is recognized by its next renewal.
"""

import time

from castor.tasks.storage import gcs
from castor.tasks.storage.lock_file import HeldByOther
from castor.tasks.storage.lock_owner import LOCK_FILE, Lease, Owner

_POLL_S = 1.0


class ObjectLock:
    """One holding of the lock of one folder of a bucket."""

    def __init__(self, directory: str, owner: Owner, lease: Lease):
        self._path = f"{directory.rstrip('/')}/{LOCK_FILE}"
        self._owner, self._lease = owner, lease
        self._generation = 0
        self._is_lost = False

    def acquire(self) -> None:
        """Returns when the lock is held. Raises HeldByOther, or OSError if the bucket does not answer."""
        while not self._write(replaces=0):
            found = _read(self._path)
            if found is None:
                continue
            owner, generation = found
            self._wait_for_end(owner, generation)
            if self._write(replaces=generation):
                return

    def renew(self) -> bool:
        """Renews the lease. False if the lock is not this holding's any more; OSError if the bucket does not answer."""
        self._is_lost = not self._write(replaces=self._generation)
        return not self._is_lost

    def release(self) -> None:
        """Removes the object if it is still this holding's."""
        if not self._is_lost:
            gcs.remove_generation(self._path, self._generation)

    def follow(self, directory: str) -> None:
        """The folder has been renamed to `directory`."""
        self._path = f"{directory.rstrip('/')}/{LOCK_FILE}"

    def _wait_for_end(self, owner: Owner | None, generation: int) -> None:
        """Returns when the owner is dead or has given the lock up. Raises HeldByOther if it renews its lease."""
        until = time.monotonic() + (self._lease.expire_s if owner is None else owner.expire_s)
        while not (owner is not None and owner.has_ended()) and time.monotonic() < until:
            if owner is not None and _runs_here(owner):
                raise HeldByOther(owner)
            time.sleep(_POLL_S)
            found = _read(self._path)
            if found is None:
                return
            if found[1] != generation:
                raise HeldByOther(found[0])

    def _write(self, replaces: int) -> bool:
        """Writes the record over generation `replaces` (0: only if there is none). False if there is another record."""
        generation = gcs.write_generation(self._path, self._owner.to_bytes(), replaces)
        if generation is None:  # another record, or this write succeeded and its answer was lost
            found = _read(self._path)
            if found is None or found[0] != self._owner:
                return False
            generation = found[1]
        self._generation = generation
        return True


def read_owner(directory: str) -> Owner | None:
    """The owner that a folder's lock object names, dead or alive; None if there is no such object."""
    found = _read(f"{directory.rstrip('/')}/{LOCK_FILE}")
    return found[0] if found else None


def _read(path: str) -> tuple[Owner | None, int] | None:
    """(owner, generation) of a lock object; None if there is none."""
    found = gcs.read_generation(path)
    return (Owner.from_bytes(found[0]), found[1]) if found else None


def _runs_here(owner: Owner) -> bool:
    """Whether the owner is a living process of this kernel and pid namespace."""
    return owner.is_nearby() and not owner.has_ended()
