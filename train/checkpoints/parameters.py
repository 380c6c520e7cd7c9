"""Loads only the parameters of a checkpoint, for inference and export."""

import contextlib
from typing import Any

from castor.train.checkpoints.checkpoints import CheckpointStore
from castor.train.model.decoder import DecoderConfig
from castor.train.optimizers import AdamW
from castor.train.partitioning import Partitioner
from castor.train.step import TrainStep


def load_parameters(
    model_dir: str, model: DecoderConfig, partitioner: Partitioner, step: int | None = None
) -> tuple[int, Any]:
    """(step, parameters on the partitioner's mesh) of checkpoint `step`; None: the latest.

    Raises CheckpointError if MODEL_DIR has no such checkpoint or the shapes differ from the model's.
    """
    with contextlib.closing(CheckpointStore(model_dir, read_only=True)) as store:
        step = store.step_or_latest(step)
        # Any optimizer works here: its state is not read.
        abstract = TrainStep(model, AdamW(), partitioner, num_domains=1).abstract_state().parameters
        return step, store.restore(step, abstract)[0]
