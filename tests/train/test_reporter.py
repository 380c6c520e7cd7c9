"""train/reporter.py: every process ends the run at the same skipped update.

tests/train/test_loop.py covers what process 0 writes.
"""

import jax.numpy as jnp
import pytest

from castor.tasks.errors import CastorError
from castor.train.reporter import SkippedUpdateMonitor


def results(skipped: int):
    value = jnp.float32("nan" if skipped else 1.0)
    return {"loss": value, "gradient_norm": value, "skipped": jnp.int32(skipped), "domain_nll": jnp.zeros(3)}


def test_every_process_ends_at_the_same_skipped_update():
    monitor = SkippedUpdateMonitor(skip_limit=3)
    for step, skipped in enumerate([1, 1, 0, 1, 1]):
        monitor.log_step(step, results(skipped))
    with pytest.raises(
        CastorError, match="loss of step 5 is nan.* 3 skipped updates in a row, from step 3 on.*SKIP_LIMIT"
    ):
        monitor.log_step(5, results(1))
