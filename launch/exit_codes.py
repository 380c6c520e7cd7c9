"""Exit codes of the `castor` command, as shells and schedulers see them (docs/training.md)."""

import signal

FAILED = 1
BAD_USE = 2  # a CastorError: a retry fails the same way until the command or its inputs change
INTERRUPTED = 128 + signal.SIGINT
STOPPED = 128 + signal.SIGTERM  # SIGTERM stopped a training run before its last step; the run saved a checkpoint
