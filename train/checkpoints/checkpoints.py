"""Checkpoints: MODEL_DIR/checkpoint_<step>/{parameters,optimizer,facts}, by orbax.

`step` counts the updates done; a run that restores it goes on with batch `step`. There is no data iterator in a checkpoint: batch(step) is a
function. The facts say what the state is a state of: the shape of every array, the fingerprint of the mixture and that of the vocabulary. They are
compared before anything is read, so that a mismatch has a name. Parameters lie apart from the optimizer's state: inference reads only them.

A checkpoint is written under a temporary name and renamed when it is whole, in a thread of its own while training goes on; a run killed in the
middle leaves a temporary folder, which the next start removes. Arrays are stored whole, whatever the mesh: any mesh and any number of hosts restores
them. The checksum of each (train/checkpoints/checksums.py), taken on the devices when it is saved, is compared when it is restored: a checkpoint that was damaged
since raises DamagedCheckpoint, and `set_aside` takes it out of the way.
"""

import contextlib
import dataclasses
import importlib.util
import logging
import os
import pathlib
import re
import shutil
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

import gin
from castor.tasks.errors import CheckpointError
from castor.tasks.storage import storage
from castor.train.checkpoints import checksums

PREFIX = "checkpoint"
_ITEMS = ("parameters", "optimizer", "facts")
_UNREADABLE = (
    OSError,
    ValueError,
    KeyError,
)  # and a plain Exception, which is how orbax passes on some of tensorstore's errors
if importlib.util.find_spec("gcsfs"):
    # Else etils, and so orbax, goes to buckets by TensorFlow, whose import takes longer than all the rest. It decides once in a process, at its first
    # use, which may be JAX's cache of compiled programs: so here, before anything is compiled.
    os.environ.setdefault("EPATH_USE_TF", "false")
_OTHER_MODEL = "Use the model and optimizer that MODEL_DIR/config says, or train into another MODEL_DIR."


@gin.configurable(module="train.checkpoints")
@dataclasses.dataclass(frozen=True)
class Checkpoints:
    """When to save and what to keep.

    period: updates between two checkpoints; the last update is always saved. 0: only the last.
    keep: how many of the latest stay; None keeps all. At least 2, or there is nothing to fall back on when the latest is damaged.
    keep_period: besides, every checkpoint whose step is a multiple of it stays. keep_best: besides, as many of those with the lowest held-out loss,
    among those saved right after an evaluation.
    asynchronous: write while training goes on.
    allow_other_data: go on from a checkpoint of another mixture, batch size, length or seed, or with another skip list (the loss curve is then
    no longer one run's).
    """

    period: int = 500
    keep: int | None = 3
    keep_period: int | None = None
    keep_best: int = 0
    asynchronous: bool = True
    allow_other_data: bool = False

    def due(self, step: int, total: int) -> bool:
        return step == total or (self.period > 0 and step % self.period == 0)


class DamagedCheckpoint(CheckpointError):
    """A checkpoint that was whole once and cannot be read any more, or reads back as something else."""


def shapes(tree: Any) -> dict[str, list]:
    """Array name -> [shape, dtype], as the facts hold it."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): [list(leaf.shape), str(leaf.dtype)]
        for path, leaf in leaves
    }


class CheckpointStore:
    """The checkpoints of one MODEL_DIR. Every process of a run makes one and calls it in step with the others."""

    def __init__(self, model_dir: str, config: Checkpoints = Checkpoints(), read_only: bool = False):
        import orbax.checkpoint as ocp

        logging.getLogger("absl").setLevel(logging.ERROR)
        self._ocp, self._config = ocp, config
        self.directory = _folder(model_dir)
        if not read_only:
            self.directory.mkdir(parents=True, exist_ok=True)
            if jax.process_index() == 0:
                _remove_unfinished(self.directory)
        self._manager = None
        if not read_only or self.directory.is_dir():
            options = ocp.CheckpointManagerOptions(
                step_prefix=PREFIX,
                preservation_policy=_preservation(config),
                best_fn=_held_out if config.keep_best else None,
                best_mode="min",
                enable_async_checkpointing=config.asynchronous,
                read_only=read_only,
                create=not read_only,
            )
            self._manager = ocp.CheckpointManager(self.directory, options=options, item_names=_ITEMS)

    def latest(self) -> int | None:
        """The step of the latest whole checkpoint, or None. All processes get the first one's answer: a shared file system may tell each another."""
        step = self._manager.latest_step() if self._manager else None
        if jax.process_count() == 1:
            return step
        from jax.experimental import multihost_utils

        told = int(multihost_utils.broadcast_one_to_all(np.int32(-1 if step is None else step)))
        return None if told < 0 else told

    def save(self, step: int, parameters, optimizer, facts: Mapping[str, Any], held_out: float | None = None) -> None:
        """Saves state trees of jax.Arrays after `step` updates; returns when the arrays may change again. Does nothing if that step is saved.

        held_out: the held-out loss of this state, where it is known.
        """
        if step in self._manager.all_steps():
            return
        sums = {"parameters": checksums.checksums(parameters), "optimizer": checksums.checksums(optimizer)}
        args = self._ocp.args
        content = {
            "parameters": args.StandardSave(parameters),
            "optimizer": args.StandardSave(optimizer),
            "facts": args.JsonSave(
                {
                    **facts,
                    "step": step,
                    "parameters": shapes(parameters),
                    "optimizer": shapes(optimizer),
                    "checksums": sums,
                }
            ),
        }
        with jax.transfer_guard("allow"):  # orbax copies to the host by its own means
            metrics = {"loss": held_out} if self._config.keep_best and held_out is not None else None
            self._manager.save(step, args=args.Composite(**content), metrics=metrics, force=True)

    def facts(self, step: int) -> dict[str, Any]:
        """What checkpoint `step` says of itself."""
        if self._manager is None or step not in self._manager.all_steps():
            have = ", ".join(map(str, self._manager.all_steps())) if self._manager else ""
            raise CheckpointError(
                f"there is no checkpoint {step} in {self.directory}.",
                f"There are: {have}." if have else "There is none at all.",
            )
        try:
            return self._manager.restore(step, args=self._ocp.args.Composite(facts=self._ocp.args.JsonRestore()))[
                "facts"
            ]
        except _UNREADABLE as error:
            raise self._damaged(step, error) from error

    def restore(self, step: int, parameters, optimizer=None, facts: Mapping[str, Any] | None = None):
        """Restores (parameters, optimizer) of checkpoint `step` onto the shardings of the given trees of ShapeDtypeStruct.

        optimizer None: it is neither checked nor read. facts: what this run would save; `mixture` and `vocabulary` are compared.
        Raises CheckpointError naming the first thing that does not agree.
        """
        saved = self.facts(step)
        self.compare_shapes(step, saved["parameters"], shapes(parameters), "parameter")
        if optimizer is not None:
            self.compare_shapes(step, saved["optimizer"], shapes(optimizer), "optimizer state")
        if facts is not None:
            self._compare_data(step, saved, facts)
        args = self._ocp.args
        wanted = {"parameters": args.StandardRestore(parameters)}
        if optimizer is not None:
            wanted["optimizer"] = args.StandardRestore(optimizer)
        try:
            restored = self._manager.restore(step, args=args.Composite(**wanted))
        except Exception as error:
            if type(error) is not Exception and not isinstance(error, _UNREADABLE):
                raise
            raise self._damaged(step, error) from error
        for part in wanted:
            self._compare_checksums(step, saved.get("checksums", {}).get(part), restored[part])
        return restored["parameters"], restored["optimizer"] if optimizer is not None else None

    def set_aside(self, damaged: DamagedCheckpoint, step: int) -> int:
        """Renames checkpoint `step` to checkpoint_<step>.damaged and returns the step of the one before. Raises `damaged` where there is none, and
        in a bucket, which knows no renaming."""
        earlier = [other for other in self._manager.all_steps() if other < step]
        if not earlier or storage.is_remote(self.directory):
            raise damaged
        aside, number = f"{self._path(step)}.damaged", 1
        while os.path.exists(aside):
            aside, number = f"{self._path(step)}.damaged-{number}", number + 1
        with contextlib.suppress(FileNotFoundError):  # another process was first
            os.rename(self._path(step), aside)
        self._manager.reload()
        return max(earlier)

    def wait(self) -> None:
        """Returns when what was saved is on disk."""
        if self._manager:
            self._manager.wait_until_finished()

    def close(self) -> None:
        if self._manager:
            self._manager.close()

    def _path(self, step: int) -> pathlib.Path:
        return self.directory / f"{PREFIX}_{step}"

    def _damaged(self, step: int, error: Exception | str) -> DamagedCheckpoint:
        first = re.split(r"\n|Traceback", str(error))[0][:300]
        return DamagedCheckpoint(
            f"{self._path(step)} cannot be read: {first}.", "Move it away: the run goes on from the one before."
        )

    def _compare_checksums(self, step: int, saved: Mapping[str, str] | None, tree) -> None:
        if saved is None:  # saved before there were any
            return
        for name, found in checksums.checksums(tree).items():
            if found != saved[name]:
                raise self._damaged(step, f"the checksum of {name} is {found} where {saved[name]} was saved")

    def compare_shapes(
        self, step: int, saved: Mapping[str, list], wanted: Mapping[str, list], what: str, remedy: str = _OTHER_MODEL
    ) -> None:
        """Raises CheckpointError, ending with `remedy`, for the first array that is not the same in both (as `shapes` gives them)."""
        for name in sorted(saved.keys() | wanted.keys()):
            if name not in saved:
                raise CheckpointError(f"{self._path(step)} lacks the {what} {name}, which this run has.", remedy)
            if name not in wanted:
                raise CheckpointError(
                    f"{self._path(step)} holds the {what} {name}, which this run does not have.", remedy
                )
            if saved[name] != wanted[name]:
                there, here = (f"{dtype}{shape}" for shape, dtype in (saved[name], wanted[name]))
                raise CheckpointError(
                    f"{self._path(step)} holds the {what} {name} as {there}; this run has {here}.", remedy
                )

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


def _folder(model_dir: str):
    """MODEL_DIR as orbax takes it; that of a bucket is etils' path, which it goes by throughout."""
    if not storage.is_remote(model_dir):
        return pathlib.Path(model_dir).resolve()
    from etils import epath

    return epath.Path(model_dir)


def _remove_unfinished(directory) -> None:
    """Removes what saves that were cut off have left: temporary names; in a bucket, where nothing is renamed, folders without orbax's last file."""
    if storage.is_remote(directory):
        for folder in directory.glob(f"{PREFIX}_*"):
            if not (folder / "commit_success.txt").exists():
                folder.rmtree()
        return
    for leftover in directory.glob(f"{PREFIX}_*.orbax-checkpoint-tmp*"):
        shutil.rmtree(leftover, ignore_errors=True)


def _held_out(metrics: Mapping[str, float]) -> float:
    return metrics["loss"]


def _preservation(config: Checkpoints):
    """Orbax's policy for `config`: a checkpoint stays if one of its wishes wants it; None keeps all."""
    from orbax.checkpoint.checkpoint_managers import preservation_policy as policies

    if config.keep is None:
        return None
    wishes = [policies.LatestN(config.keep)]
    if config.keep_period:
        wishes.append(policies.EveryNSteps(config.keep_period))
    if config.keep_best:
        best = policies.BestN(
            get_metric_fn=_held_out, reverse=True, n=config.keep_best, keep_checkpoints_without_metrics=False
        )
        wishes.append(best)
    return policies.AnyPreservationPolicy(wishes)
