"""Checkpoints: MODEL_DIR/checkpoint_<step>/{parameters,optimizer,facts}, by orbax.

`step` counts the updates done; a run that restores it goes on with batch `step`. There is no data iterator in a checkpoint: batch(step) is a
function. The facts say what the state is a state of: the shape of every array, the fingerprint of the mixture and that of the vocabulary. They are
compared before anything is read, so that a mismatch has a name. Parameters lie apart from the optimizer's state: inference reads only them.

A checkpoint is written under a temporary name and renamed when it is whole, in a thread of its own while training goes on; a run killed in the
middle leaves a temporary folder, which the next start removes. Arrays are stored whole, whatever the mesh: any mesh restores them.
"""

import dataclasses
import logging
import pathlib
import re
import shutil
from collections.abc import Mapping
from typing import Any

import gin
import jax

from tasks.errors import CheckpointError

PREFIX = "checkpoint"
_ITEMS = ("parameters", "optimizer", "facts")


@gin.configurable(module="train.checkpoints")
@dataclasses.dataclass(frozen=True)
class Checkpoints:
    """When to save and what to keep.

    period: updates between two checkpoints; the last update is always saved. 0: only the last.
    keep: how many of the latest stay; None keeps all. keep_period: besides, every checkpoint whose step is a multiple of it stays.
    asynchronous: write while training goes on.
    allow_other_data: go on from a checkpoint of another mixture, batch size, length or seed, or with another skip list (the loss curve is then
    no longer one run's).
    """

    period: int = 500
    keep: int | None = 3
    keep_period: int | None = None
    asynchronous: bool = True
    allow_other_data: bool = False

    def due(self, step: int, total: int) -> bool:
        return step == total or (self.period > 0 and step % self.period == 0)


def shapes(tree: Any) -> dict[str, list]:
    """Array name -> [shape, dtype], as the facts hold it."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): [list(leaf.shape), str(leaf.dtype)] for path, leaf in leaves}


class CheckpointStore:
    """The checkpoints of one MODEL_DIR. Every process of a run makes one and calls it in step with the others."""

    def __init__(self, model_dir: str, config: Checkpoints = Checkpoints(), read_only: bool = False):
        import orbax.checkpoint as ocp

        logging.getLogger("absl").setLevel(logging.ERROR)
        self._ocp, self._config = ocp, config
        self.directory = pathlib.Path(model_dir).resolve()
        if not read_only:
            self.directory.mkdir(parents=True, exist_ok=True)
            if jax.process_index() == 0:
                for leftover in self.directory.glob(f"{PREFIX}_*.orbax-checkpoint-tmp*"):
                    shutil.rmtree(leftover, ignore_errors=True)
        self._manager = None
        if self.directory.is_dir():
            options = ocp.CheckpointManagerOptions(
                step_prefix=PREFIX,
                max_to_keep=config.keep,
                keep_period=config.keep_period,
                enable_async_checkpointing=config.asynchronous,
                read_only=read_only,
                create=not read_only,
            )
            self._manager = ocp.CheckpointManager(self.directory, options=options, item_names=_ITEMS)

    def latest(self) -> int | None:
        """The step of the latest whole checkpoint, or None."""
        return self._manager.latest_step() if self._manager else None

    def save(self, step: int, parameters, optimizer, facts: Mapping[str, Any]) -> None:
        """Saves state trees of jax.Arrays after `step` updates; returns when the arrays may change again. Does nothing if that step is saved."""
        if step in self._manager.all_steps():
            return
        args = self._ocp.args
        content = {
            "parameters": args.StandardSave(parameters),
            "optimizer": args.StandardSave(optimizer),
            "facts": args.JsonSave({**facts, "step": step, "parameters": shapes(parameters), "optimizer": shapes(optimizer)}),
        }
        with jax.transfer_guard("allow"):  # orbax copies to the host by its own means
            self._manager.save(step, args=args.Composite(**content), force=True)

    def facts(self, step: int) -> dict[str, Any]:
        """What checkpoint `step` says of itself."""
        if self._manager is None or step not in self._manager.all_steps():
            have = ", ".join(map(str, self._manager.all_steps())) if self._manager else ""
            raise CheckpointError(f"there is no checkpoint {step} in {self.directory}.", f"There are: {have}." if have else "There is none at all.")
        try:
            return self._manager.restore(step, args=self._ocp.args.Composite(facts=self._ocp.args.JsonRestore()))["facts"]
        except (OSError, ValueError, KeyError) as error:
            raise CheckpointError(f"{self._path(step)} cannot be read: {error}.", "Move it away: the run goes on from the one before.") from error

    def restore(self, step: int, parameters, optimizer=None, facts: Mapping[str, Any] | None = None):
        """Restores (parameters, optimizer) of checkpoint `step` onto the shardings of the given trees of ShapeDtypeStruct.

        optimizer None: it is neither checked nor read. facts: what this run would save; `mixture` and `vocabulary` are compared.
        Raises CheckpointError naming the first thing that does not agree.
        """
        saved = self.facts(step)
        self._compare_shapes(step, saved["parameters"], shapes(parameters), "parameter")
        if optimizer is not None:
            self._compare_shapes(step, saved["optimizer"], shapes(optimizer), "optimizer state")
        if facts is not None:
            self._compare_data(step, saved, facts)
        args = self._ocp.args
        wanted = {"parameters": args.StandardRestore(parameters)}
        if optimizer is not None:
            wanted["optimizer"] = args.StandardRestore(optimizer)
        try:
            restored = self._manager.restore(step, args=args.Composite(**wanted))
        except (OSError, ValueError, KeyError) as error:
            first = re.split(r"\n|Traceback", str(error))[0][:300]
            raise CheckpointError(f"{self._path(step)} cannot be read: {first}.", "Move it away: the run goes on from the one before.") from error
        return restored["parameters"], restored["optimizer"] if optimizer is not None else None

    def wait(self) -> None:
        """Returns when what was saved is on disk."""
        if self._manager:
            self._manager.wait_until_finished()

    def close(self) -> None:
        if self._manager:
            self._manager.close()

    def _path(self, step: int) -> pathlib.Path:
        return self.directory / f"{PREFIX}_{step}"

    def _compare_shapes(self, step: int, saved: Mapping[str, list], wanted: Mapping[str, list], what: str) -> None:
        remedy = "Use the model and optimizer that MODEL_DIR/config says, or train into another MODEL_DIR."
        for name in sorted(saved.keys() | wanted.keys()):
            if name not in saved:
                raise CheckpointError(f"{self._path(step)} lacks the {what} {name}, which this run has.", remedy)
            if name not in wanted:
                raise CheckpointError(f"{self._path(step)} holds the {what} {name}, which this run does not have.", remedy)
            if saved[name] != wanted[name]:
                there, here = (f"{dtype}{shape}" for shape, dtype in (saved[name], wanted[name]))
                raise CheckpointError(f"{self._path(step)} holds the {what} {name} as {there}; this run has {here}.", remedy)

    def _compare_data(self, step: int, saved: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
        if saved.get("vocabulary") != facts.get("vocabulary"):
            raise CheckpointError(
                f"{self._path(step)} was trained with vocabulary {saved.get('vocabulary')}; the task caches of this run use {facts.get('vocabulary')}.",
                "Use caches tokenized with the checkpoint's vocabulary, or train into another MODEL_DIR.",
            )
        if saved.get("mixture") != facts.get("mixture") and not self._config.allow_other_data:
            raise CheckpointError(
                f"{self._path(step)} was trained on mixture {saved.get('mixture')}; this run reads {facts.get('mixture')} (tasks, weights, stages, batch size, lengths, seed, skip lists or the version of the data order differ).",
                "Restore the old data configuration (MODEL_DIR/config) or train into another MODEL_DIR; where the change is meant, as when documents or "
                "steps are skipped after a bad stretch, pass --gin.Checkpoints.allow_other_data=True.",
            )
