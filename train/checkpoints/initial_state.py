"""The state a run starts from: its latest checkpoint (resume), or another run's parameters (warm start).

Resuming restores everything: parameters, optimizer state and step. A warm start takes another run's parameters and nothing else: the optimizer
state is new, the step is 0, the data are the new run's.
"""

import contextlib
import dataclasses
import sys
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from castor.tasks.errors import CheckpointError, VocabularyError
from castor.train.checkpoints.checkpoints import CheckpointStore, DamagedCheckpoint, shapes
from castor.train.step import TrainState, TrainStep

EMBEDDING = "embedding"
"""The one parameter whose first axis is the vocabulary (train/model/decoder.py: one table for input and output)."""


def resume(store: CheckpointStore, train_step: TrainStep, metadata: Mapping[str, Any]) -> TrainState | None:
    """The state of the latest checkpoint, on the mesh of `train_step`, or None where there is none. `metadata` are compared with those saved.

    A damaged checkpoint is quarantined and the one before it restored. With several processes only those that read the damaged part know of the
    damage: they quarantine the checkpoint and raise DamagedCheckpoint, which ends the run; the next start continues from the one before.
    """
    while (step := store.latest()) is not None:
        abstract = train_step.abstract_state()
        try:
            parameters, optimizer = store.restore(step, abstract.parameters, abstract.optimizer, metadata)
        except DamagedCheckpoint as damaged:
            earlier = store.quarantine(damaged, step)
            if jax.process_count() > 1:
                raise DamagedCheckpoint(
                    damaged.what, f"It was quarantined: started again, the run goes on from step {earlier}."
                ) from damaged
            print(f"castor: {damaged.what} It was quarantined; the run goes on from step {earlier}.", file=sys.stderr)
            continue
        return abstract.replace(
            step=jax.device_put(np.int32(step), train_step.partitioner.replicated()),
            parameters=parameters,
            optimizer=optimizer,
        )
    return None


@dataclasses.dataclass(frozen=True)
class WarmStart:
    """Parameters of another run to start from. model_dir: that run's; step: of its checkpoint, None for the latest.

    grow_vocabulary: the new vocabulary is the old one with ids appended; the embeddings of the new ids keep their initial values. That the old ids
    kept their meaning cannot be checked.
    """

    model_dir: str
    step: int | None = None
    grow_vocabulary: bool = False

    @classmethod
    def parse(cls, source: str, grow_vocabulary: bool = False) -> "WarmStart":
        """From MODEL_DIR or MODEL_DIR@STEP."""
        directory, at, step = source.rpartition("@")
        if at and step.isdigit():
            return cls(directory, int(step), grow_vocabulary)
        return cls(source, None, grow_vocabulary)

    def apply(self, state: TrainState, train_step: TrainStep, vocabulary: str) -> TrainState:
        """`state`, as initialized, with the other run's parameters. vocabulary: fingerprint of this run's.

        Raises CheckpointError for a parameter of another shape and VocabularyError for another vocabulary.
        """
        with contextlib.closing(CheckpointStore(self.model_dir, read_only=True)) as store:
            step = store.step_or_latest(self.step)
            saved = store.metadata(step)
            if saved.get("vocabulary") != vocabulary and not self.grow_vocabulary:
                raise VocabularyError(
                    f"{self.model_dir} was trained with vocabulary {saved.get('vocabulary')}; the task caches of this run use {vocabulary}.",
                    "Warm-start with the same vocabulary, or give --grow_vocabulary if the new one only adds ids after the old ones.",
                )
            wanted = train_step.abstract_state().parameters
            rows, ids = saved["parameters"].get(EMBEDDING, [[0]])[0][0], wanted[EMBEDDING].shape[0]
            grows = self.grow_vocabulary and rows != ids
            if grows and rows > ids:
                raise CheckpointError(
                    f"{self.model_dir} has a vocabulary of {rows} ids, this run one of {ids}.",
                    "A vocabulary can grow, not shrink.",
                )
            to_read = wanted
            if grows:
                embedding = jax.ShapeDtypeStruct(
                    (rows, *wanted[EMBEDDING].shape[1:]),
                    wanted[EMBEDDING].dtype,
                    sharding=train_step.partitioner.replicated(),
                )
                to_read = wanted | {EMBEDDING: embedding}
            store.compare_shapes(
                step,
                saved["parameters"],
                shapes(to_read),
                "parameter",
                "A warm start takes over every parameter: use the same model.",
            )
            parameters, _ = store.restore(step, to_read)
        if grows:
            grow = jax.jit(_grow, out_shardings=wanted[EMBEDDING].sharding)
            parameters = parameters | {EMBEDDING: grow(parameters[EMBEDDING], state.parameters[EMBEDDING])}
        return state.replace(parameters=parameters)


def _grow(old_VxD: jax.Array, new_VxD: jax.Array) -> jax.Array:
    """The rows of the new table, those of the old one in their places."""
    return jnp.concatenate([old_VxD, new_VxD[old_VxD.shape[0] :]])
