"""The state a run starts from: its latest checkpoint (resume), or another run's parameters (warm start).

Resuming restores the run's own checkpoint in full: parameters, optimizer state and step. A warm start copies only
parameters from another run; optimizer state, step and data order start fresh.
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
    """The state of the latest checkpoint on the mesh of `train_step`, or None if the store has no checkpoints.

    metadata: what this run would save; compared with the checkpoint's.

    A damaged checkpoint is quarantined and the previous one restored. With several processes, only those that read the
    damaged shard detect the damage. They quarantine the checkpoint and raise DamagedCheckpoint, which ends the run; the
    next start resumes from the previous checkpoint.
    """
    while (step := store.latest()) is not None:
        abstract = train_step.abstract_state()
        try:
            parameters, optimizer = store.restore(step, abstract.parameters, abstract.optimizer, metadata)
        except DamagedCheckpoint as damaged:
            earlier = store.quarantine(damaged, step)
            if jax.process_count() > 1:
                raise DamagedCheckpoint(
                    damaged.what, f"The checkpoint was quarantined. Start the run again to resume from step {earlier}."
                ) from damaged
            print(
                f"castor: {damaged.what} The checkpoint was quarantined; the run resumes from step {earlier}.",
                file=sys.stderr,
            )
            continue
        return abstract.replace(
            step=jax.device_put(np.int32(step), train_step.partitioner.replicated()),
            parameters=parameters,
            optimizer=optimizer,
        )
    return None


@dataclasses.dataclass(frozen=True)
class WarmStart:
    """Parameters of another run to start from.

    model_dir: MODEL_DIR of the other run.
    step: step of its checkpoint; None: the latest.
    grow_vocabulary: the new vocabulary extends the old one with appended ids, whose embeddings keep their initial
        values. Whether the old ids kept their meaning cannot be checked.
    """

    model_dir: str
    step: int | None = None
    grow_vocabulary: bool = False

    @classmethod
    def parse(cls, source: str, grow_vocabulary: bool = False) -> "WarmStart":
        """Parses MODEL_DIR or MODEL_DIR@STEP."""
        directory, at, step = source.rpartition("@")
        if at and step.isdigit():
            return cls(directory, int(step), grow_vocabulary)
        return cls(source, None, grow_vocabulary)

    def apply(self, state: TrainState, train_step: TrainStep, vocabulary: str) -> TrainState:
        """The initialized `state` with the other run's parameters.

        vocabulary: fingerprint of this run's vocabulary.

        Raises CheckpointError for a parameter of another shape and VocabularyError for another vocabulary.
        """
        with contextlib.closing(CheckpointStore(self.model_dir, read_only=True)) as store:
            step = store.step_or_latest(self.step)
            saved = store.metadata(step)
            if saved.get("vocabulary") != vocabulary and not self.grow_vocabulary:
                raise VocabularyError(
                    f"{self.model_dir} was trained with vocabulary {saved.get('vocabulary')}; the task caches of this "
                    f"run use {vocabulary}.",
                    "Warm-start with the same vocabulary, or pass --grow_vocabulary if the new one only appends ids "
                    "to the old one.",
                )
            wanted = train_step.abstract_state().parameters
            rows, ids = saved["parameters"].get(EMBEDDING, [[0]])[0][0], wanted[EMBEDDING].shape[0]
            grows = self.grow_vocabulary and rows != ids
            if grows and rows > ids:
                raise CheckpointError(
                    f"{self.model_dir} has a vocabulary of {rows} ids; this run's has {ids}.",
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
                "A warm start copies every parameter: use the same model.",
            )
            parameters, _ = store.restore(step, to_read)
        if grows:
            grow = jax.jit(_grow, out_shardings=wanted[EMBEDDING].sharding)
            parameters = parameters | {EMBEDDING: grow(parameters[EMBEDDING], state.parameters[EMBEDDING])}
        return state.replace(parameters=parameters)


def _grow(old_VxD: jax.Array, new_VxD: jax.Array) -> jax.Array:
    """`new_VxD` with its first rows replaced by `old_VxD`."""
    return jnp.concatenate([old_VxD, new_VxD[old_VxD.shape[0] :]])
