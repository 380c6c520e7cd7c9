"""Batches by index, for the loaders of other libraries, which copy their source into worker processes.

Only the constructor's arguments are sent to a worker, never an open map or a thread; each process opens its own
batches. tasks/integrations/grain.py and tasks/integrations/torch.py adapt this source to their libraries. This file
imports neither.
"""

import operator
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from castor.tasks.batches.batches import Batches
from castor.tasks.batches.catalog import Mixture, resolve_mixture
from castor.tasks.checks import is_integer
from castor.tasks.errors import ConfigurationError


class BatchSource:
    """A sequence whose element i is the batch of step steps[i].

    mixture: as for Batches. A name bound in gin is resolved here, because worker processes have no gin configuration.

    steps: a range of steps, or N for steps 0 to N - 1.

    options: the other arguments of Batches (batch_size, lengths, seed, split, shard, num_shards, ...).

    Raises what Batches raises, and ConfigurationError for invalid steps.
    """

    def __init__(self, mixture: Mixture | str | Mapping[str, float], steps: range | int, **options: Any):
        if is_integer(steps):
            steps = range(steps)
        if not isinstance(steps, range) or (steps and min(steps[0], steps[-1]) < 0):
            raise ConfigurationError(f"steps must be a range of steps from 0 on, or their number, not {steps!r}.")
        self.steps = steps
        self._arguments = {"mixture": resolve_mixture(mixture), **options}
        self._opened: tuple[int, Batches] | None = None
        self._repr = f"{type(self).__name__}(fingerprint={self.batches.fingerprint!r}, steps={steps!r})"

    @property
    def batches(self) -> Batches:
        """The batches, opened in this process. A forked worker opens its own, because threads do not survive a fork."""
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = os.getpid(), Batches(**self._arguments)
        return self._opened[1]

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """The batch of step steps[index]; see Batches.batch. Raises IndexError outside the steps."""
        return self.batches.batch(self.steps[operator.index(index)])

    def __repr__(self) -> str:
        """A name of the global batches' content, equal in every process and for every shard."""
        return self._repr

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}
