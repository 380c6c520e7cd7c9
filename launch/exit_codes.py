"""Exit codes of the `castor` command, as shells and schedulers see them (docs/training.md)."""

import signal

FAILED = 1
BAD_USE = 2  # a CastorError: the same command fails again until somebody changes something
INTERRUPTED = 128 + signal.SIGINT
STOPPED = 128 + signal.SIGTERM  # a training run that SIGTERM stopped before its last step, after it has saved
