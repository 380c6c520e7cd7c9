"""Where a run begins: at its latest checkpoint, at the parameters of another run, or at initial values.

Nothing here trains. What a run goes on from is its own checkpoint and all of it; what it is warmed with are another run's parameters and nothing
else: the optimizer is fresh, the step is 0, the data are the new run's.
"""

import dataclasses
import sys
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from castor.tasks.errors import CheckpointError, VocabularyError
from castor.train.checkpoints.checkpoints import CheckpointStore, DamagedCheckpoint, shapes
from castor.train.step import Trainer, TrainState

EMBEDDING = "embedding"
"""The one parameter whose first axis is the vocabulary (train/model/decoder.py: one table for input and output)."""


def resume(store: CheckpointStore, trainer: Trainer, facts: Mapping[str, Any]) -> TrainState | None:
    """The state of the latest checkpoint, on the trainer's mesh, or None where there is none. `facts` are compared with those saved.

    A damaged checkpoint is set aside and the one before it taken. Where several processes restore together only those that meet the damage know of
    it: they set it aside and fail with DamagedCheckpoint, which ends the run; started again, it goes on from the one before.
    """
    while (step := store.latest()) is not None:
        abstract = trainer.abstract_state()
        try:
            parameters, optimizer = store.restore(step, abstract.parameters, abstract.optimizer, facts)
        except DamagedCheckpoint as damaged:
            earlier = store.set_aside(damaged, step)
            if jax.process_count() > 1:
                raise DamagedCheckpoint(
                    damaged.what, f"It was set aside: started again, the run goes on from step {earlier}."
                ) from damaged
            print(f"castor: {damaged.what} It was set aside; the run goes on from step {earlier}.", file=sys.stderr)
            continue
        return abstract.replace(
            step=jax.device_put(np.int32(step), trainer.partitioner.replicated()),
            parameters=parameters,
            optimizer=optimizer,
        )
    return None


@dataclasses.dataclass(frozen=True)
class WarmStart:
    """Another run's parameters to begin with. model_dir: that run's; step: its checkpoint, None for the latest.

    grow_vocabulary: the vocabulary may be another and longer one, whose first ids mean what they meant in the old one; the embeddings of the ids
    that it adds keep their initial values. Nothing can check that the old ids kept their meaning: whoever says this knows it.
    """

    model_dir: str
    step: int | None = None
    grow_vocabulary: bool = False

    @classmethod
    def of(cls, source: str, grow_vocabulary: bool = False) -> "WarmStart":
        """From MODEL_DIR or MODEL_DIR@STEP."""
        directory, at, step = source.rpartition("@")
        return (
            cls(directory, int(step), grow_vocabulary) if at and step.isdigit() else cls(source, None, grow_vocabulary)
        )

    def apply(self, state: TrainState, trainer: Trainer, vocabulary: str) -> TrainState:
        """`state`, as initialised, with the other run's parameters. vocabulary: fingerprint of this run's.

        Raises CheckpointError for a parameter of another shape and VocabularyError for another vocabulary.
        """
        store = CheckpointStore(self.model_dir, read_only=True)
        try:
            step = store.latest() if self.step is None else self.step
            saved = store.facts(0 if step is None else step)  # raises where there is none
            if saved.get("vocabulary") != vocabulary and not self.grow_vocabulary:
                raise VocabularyError(
                    f"{self.model_dir} was trained with vocabulary {saved.get('vocabulary')}; the task caches of this run use {vocabulary}.",
                    "Warm-start with the same vocabulary, or say --grow_vocabulary where the new one only adds ids after the old ones.",
                )
            wanted = trainer.abstract_state().parameters
            rows, ids = saved["parameters"].get(EMBEDDING, [[0]])[0][0], wanted[EMBEDDING].shape[0]
            grown = self.grow_vocabulary and rows != ids
            if grown and rows > ids:
                raise CheckpointError(
                    f"{self.model_dir} has a vocabulary of {rows} ids, this run one of {ids}.",
                    "A vocabulary can grow, not shrink.",
                )
            old = wanted
            if grown:
                shape = (rows, *wanted[EMBEDDING].shape[1:])
                old = wanted | {
                    EMBEDDING: jax.ShapeDtypeStruct(
                        shape, wanted[EMBEDDING].dtype, sharding=trainer.partitioner.replicated()
                    )
                }
            store.compare_shapes(
                step,
                saved["parameters"],
                shapes(old),
                "parameter",
                "A warm start takes over every parameter: use the same model.",
            )
            parameters, _ = store.restore(step, old)
        finally:
            store.close()
        if grown:
            grow = jax.jit(_grow, out_shardings=wanted[EMBEDDING].sharding)
            parameters = parameters | {EMBEDDING: grow(parameters[EMBEDDING], state.parameters[EMBEDDING])}
        return state.replace(parameters=parameters)


def _grow(old_VxD: jax.Array, new_VxD: jax.Array) -> jax.Array:
    return jnp.concatenate([old_VxD, new_VxD[old_VxD.shape[0] :]])
