"""PyTorch integration: the batches of a mixture as a map-style dataset or as a stream.

    from torch.utils.data import DataLoader
    from castor.tasks.integrations.torch import BatchDataset, BatchStream

    options = {"batch_size": 8, "lengths": {"targets": 512}, "shard": rank, "num_shards": world_size}
    for batch in DataLoader(BatchStream("out/tasks/web", start=1000, **options), batch_size=None, num_workers=4):
        ...                                     # steps 1000, 1001, ... in order for any num_workers; dicts of tensors
    BatchDataset("out/tasks/web", steps=2000, **options)[1000]

Elements are complete batches: always use `batch_size=None`, and never shuffle. To resume, start the stream at the
step of the checkpoint; torchdata's StatefulDataLoader does so through `state_dict`.
"""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

try:
    import torch
    import torch.utils.data
except ImportError as error:
    from castor.tasks.errors import ConfigurationError

    raise ConfigurationError("tasks.torch needs PyTorch, which is not installed.", "Install castor[torch].") from error

import numpy as np

from castor.tasks.batches.catalog import Mixture
from castor.tasks.checks import check_integer
from castor.tasks.errors import ConfigurationError
from castor.tasks.integrations.batch_source import BatchSource

_FOREVER = range(1 << 62)


class BatchDataset(torch.utils.data.Dataset):
    """A map-style dataset: element i is the batch of step steps[i], a dict of tensors.

    mixture: as for Batches.

    steps: a range of steps, or N for steps 0 to N - 1.

    options: the other arguments of Batches.

    Raises what Batches raises.
    """

    def __init__(self, mixture: Mixture | str | Mapping[str, float], steps: range | int, **options: Any):
        self.source = BatchSource(mixture, steps, **options)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return _tensors(self.source[index])


class BatchStream(torch.utils.data.IterableDataset):
    """An iterable dataset: the batches of steps start, start + 1, ..., dicts of tensors.

    With w workers, worker k returns steps start + k, start + k + w, ...; DataLoader takes turns between its workers,
    so the steps come in order.

    mixture: as for Batches.

    start: first step.

    stop: last step plus 1; None for an endless stream.

    options: the other arguments of Batches.

    Raises what Batches raises.
    """

    def __init__(
        self, mixture: Mixture | str | Mapping[str, float], start: int = 0, stop: int | None = None, **options: Any
    ):
        self.source = BatchSource(mixture, _FOREVER if stop is None else stop, **options)
        self._start = check_integer("step", start, at_least=0)
        self._position: int | None = None  # next step of this process, once iteration has begun
        self._resume: int | None = (
            None  # first step of this worker's next __iter__, if a state was loaded in the worker
        )

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        worker = torch.utils.data.get_worker_info()
        number, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        self._position = self._start + number if self._resume is None else self._resume
        self._resume = None
        return self._from(self._position, workers)

    def _from(self, first: int, stride: int) -> Iterator[dict[str, torch.Tensor]]:
        for step in itertools.count(first, stride):
            if step >= self.source.steps.stop:
                return
            batch = _tensors(self.source[step])
            self._position = step + stride
            yield batch

    def state_dict(self) -> dict[str, int]:
        """{"step": next step of this process}.

        The parent of workers does not advance: store the step of the training loop instead.
        """
        return {"step": self._start if self._position is None else self._position}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Resumes at the step of `state`: this worker if called in a worker, otherwise the whole stream."""
        self._position = check_integer("step", state["step"], at_least=0)
        if torch.utils.data.get_worker_info() is None:
            self._start = self._position
        else:
            self._resume = self._position


def _tensors(batch: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """Tensors that share memory with the arrays, except for read-only arrays, which torch does not support."""
    return {name: torch.from_numpy(array if array.flags.writeable else array.copy()) for name, array in batch.items()}
