"""The lock on a MODEL_DIR, for a run of any number of processes.

Process 0 holds the lock; no process starts without it.

`castor launch local` holds the lock for all starts of its pod, and process 0 then writes under that lock
(castor.tasks.storage.lock).
"""

import contextlib
from collections.abc import Iterator

import jax
import numpy as np

from castor.tasks.errors import CastorError, LockError
from castor.tasks.storage import lock


@contextlib.contextmanager
def only_writer(model_dir: str) -> Iterator[lock.Held | None]:
    """Holds the lock on MODEL_DIR for the block. Yields the lock in process 0 and None in the others.

    All processes of a run call this together. Raises LockError in all of them if another run writes this MODEL_DIR.
    """
    with contextlib.ExitStack() as stack:
        held, refusal = None, None
        if jax.process_index() == 0:
            try:
                held = stack.enter_context(lock.hold(model_dir, "MODEL_DIR"))
            except CastorError as error:
                refusal = error
        refused = _from_first(refusal is not None)
        if refusal is not None:
            raise refusal
        if refused:
            raise LockError(
                f"MODEL_DIR {model_dir} cannot be locked by process 0.", "See the log of process 0 for the reason."
            )
        yield held


def _from_first(value: bool) -> bool:
    """Process 0's value, in every process."""
    if jax.process_count() == 1:
        return value
    from jax.experimental import multihost_utils

    return bool(multihost_utils.broadcast_one_to_all(np.int32(value)))
