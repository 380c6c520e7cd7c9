"""Checkpoints: MODEL_DIR/checkpoint_<step>/{parameters,optimizer,facts}, written by orbax.

`step` counts the updates done. A run that restores a checkpoint continues with batch `step`. A checkpoint holds no data
iterator, because batch(step) is a function. Its metadata (item `facts` on disk) records what the state belongs to: the
shape of every array and the fingerprints of the mixture and the vocabulary. Metadata are compared before arrays are
read, so that an error names the difference. Parameters are stored separately from the optimizer state, because
inference reads only the parameters.

A checkpoint is written under a temporary name, in a background thread while training continues, and renamed when it is
complete. A killed run leaves a temporary folder, which the next start removes. Arrays are stored unsharded, so any mesh
and any number of hosts can restore them. Each array has a checksum (train/checkpoints/checksums.py), computed on the
devices when saving and compared when restoring. A checkpoint damaged in between raises DamagedCheckpoint, and
`quarantine` renames it.
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
_ITEMS = ("parameters", "optimizer", "facts")  # names on disk; facts: the metadata
# orbax also re-raises some of tensorstore's errors as a plain Exception.
_UNREADABLE = (OSError, ValueError, KeyError)
if importlib.util.find_spec("gcsfs"):
    # Without this, etils (and therefore orbax) opens gs:// paths through TensorFlow, which dominates import time. etils
    # decides once per process, at its first use, which may be JAX's cache of compiled programs. The variable is
    # therefore set here, before anything is compiled.
    os.environ.setdefault("EPATH_USE_TF", "false")
_OTHER_MODEL = "Use the model and optimizer from MODEL_DIR/config, or train into another MODEL_DIR."


@gin.configurable("Checkpoints", module="train.checkpoints")
@dataclasses.dataclass(frozen=True)
class CheckpointPolicy:
    """When to save and which checkpoints to keep. Gin name: train.checkpoints.Checkpoints.

    period: updates between two checkpoints; the last update is always saved. 0: only the last.
    keep: number of latest checkpoints to keep; None keeps all. Keep at least 2: with 1, no checkpoint is left if the
        latest is damaged.
    keep_period: also keep every checkpoint whose step is a multiple of this.
    keep_best: also keep the N checkpoints with the lowest held-out loss, among those saved right after an evaluation.
    asynchronous: write while training continues.
    allow_other_data: continue from a checkpoint of another mixture, batch size, length, seed or skip list. The loss
        curve is then no longer that of a single run.
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
    """A checkpoint that was complete once and is no longer readable, or whose arrays differ from what was saved."""


def shapes(tree: Any) -> dict[str, list]:
    """Array name -> [shape, dtype], as stored in the metadata."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): [list(leaf.shape), str(leaf.dtype)]
        for path, leaf in leaves
    }


class CheckpointStore:
    """The checkpoints of one MODEL_DIR.

    Every process of a run has its own store and calls the same methods in the same order.

    model_dir: a local folder or a bucket path.
    policy: when to save and which checkpoints to keep.
    read_only: create no folder and remove nothing.
    """

    def __init__(self, model_dir: str, policy: CheckpointPolicy = CheckpointPolicy(), read_only: bool = False):
        import orbax.checkpoint as ocp

        logging.getLogger("absl").setLevel(logging.ERROR)
        self._ocp, self._policy = ocp, policy
        self.directory = _folder(model_dir)
        if not read_only:
            self.directory.mkdir(parents=True, exist_ok=True)
            if jax.process_index() == 0:
                _remove_unfinished(self.directory)
        self._manager = None
        if not read_only or self.directory.is_dir():
            options = ocp.CheckpointManagerOptions(
                step_prefix=PREFIX,
                preservation_policy=_preservation(policy),
                best_fn=_held_out if policy.keep_best else None,
                best_mode="min",
                enable_async_checkpointing=policy.asynchronous,
                read_only=read_only,
                create=not read_only,
            )
            self._manager = ocp.CheckpointManager(self.directory, options=options, item_names=_ITEMS)

    def latest(self) -> int | None:
        """The step of the latest complete checkpoint, or None.

        All processes get the answer of process 0, because a shared file system may show them different folders.
        """
        step = self._manager.latest_step() if self._manager else None
        if jax.process_count() == 1:
            return step
        from jax.experimental import multihost_utils

        shared = int(multihost_utils.broadcast_one_to_all(np.int32(-1 if step is None else step)))
        return None if shared < 0 else shared

    def step_or_latest(self, step: int | None) -> int:
        """`step`, or the step of the latest checkpoint if `step` is None.

        Raises CheckpointError if there are no checkpoints.
        """
        step = self.latest() if step is None else step
        if step is None:
            raise CheckpointError(f"{self.directory} has no checkpoint yet.", "Train first: castor train.")
        return step

    def save(
        self, step: int, parameters, optimizer, metadata: Mapping[str, Any], held_out_loss: float | None = None
    ) -> None:
        """Saves the state after `step` updates.

        Returns when the arrays may be changed. Does nothing if the step is already saved.

        parameters, optimizer: trees of jax.Arrays.
        metadata: `mixture`, `vocabulary` and `domains`.
        held_out_loss: of this state in nats per token, if it was just evaluated.
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
                    **metadata,
                    "step": step,
                    "parameters": shapes(parameters),
                    "optimizer": shapes(optimizer),
                    "checksums": sums,
                }
            ),
        }
        with jax.transfer_guard("allow"):  # orbax copies arrays to the host itself
            metrics = {"loss": held_out_loss} if self._policy.keep_best and held_out_loss is not None else None
            self._manager.save(step, args=args.Composite(**content), metrics=metrics, force=True)

    def metadata(self, step: int) -> dict[str, Any]:
        """The metadata of checkpoint `step`, and the step, shapes and checksums of its arrays.

        Raises CheckpointError if the checkpoint does not exist, DamagedCheckpoint if the metadata are unreadable.
        """
        if self._manager is None or step not in self._manager.all_steps():
            have = ", ".join(map(str, self._manager.all_steps())) if self._manager else ""
            raise CheckpointError(
                f"{self.directory} has no checkpoint {step}.",
                f"Available: {have}." if have else "The folder has no checkpoints.",
            )
        try:
            return self._manager.restore(step, args=self._ocp.args.Composite(facts=self._ocp.args.JsonRestore()))[
                "facts"
            ]
        except _UNREADABLE as error:
            raise self._damaged(step, error) from error

    def restore(self, step: int, parameters, optimizer=None, metadata: Mapping[str, Any] | None = None):
        """Restores (parameters, optimizer) of checkpoint `step` onto the shardings of the given trees.

        parameters: tree of ShapeDtypeStruct with shardings.
        optimizer: the same for the optimizer state; None: the optimizer state is neither checked nor read.
        metadata: what this run would save; `mixture` and `vocabulary` are compared.

        Raises CheckpointError for the first difference, DamagedCheckpoint for unreadable or changed arrays.
        """
        saved = self.metadata(step)
        self.compare_shapes(step, saved["parameters"], shapes(parameters), "parameter")
        if optimizer is not None:
            self.compare_shapes(step, saved["optimizer"], shapes(optimizer), "optimizer state")
        if metadata is not None:
            self._compare_data(step, saved, metadata)
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

    def quarantine(self, damaged: DamagedCheckpoint, step: int) -> int:
        """Renames checkpoint `step` to checkpoint_<step>.damaged and returns the step of the previous one.

        Raises `damaged` if no earlier checkpoint exists, and on a bucket, where folders cannot be renamed.
        """
        earlier = [other for other in self._manager.all_steps() if other < step]
        if not earlier or storage.is_remote(self.directory):
            raise damaged
        target, number = f"{self._path(step)}.damaged", 1
        while os.path.exists(target):
            target, number = f"{self._path(step)}.damaged-{number}", number + 1
        with contextlib.suppress(FileNotFoundError):  # another process has renamed it already
            os.rename(self._path(step), target)
        self._manager.reload()
        return max(earlier)

    def wait(self) -> None:
        """Blocks until everything saved is on disk."""
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
            f"{self._path(step)} cannot be read: {first}.",
            "Move it away; the run resumes from the previous checkpoint.",
        )

    def _compare_checksums(self, step: int, saved: Mapping[str, str] | None, tree) -> None:
        if saved is None:  # saved by a version without checksums
            return
        for name, found in checksums.checksums(tree).items():
            if found != saved[name]:
                raise self._damaged(step, f"the checksum of {name} is {found}; {saved[name]} was saved")

    def compare_shapes(
        self, step: int, saved: Mapping[str, list], wanted: Mapping[str, list], what: str, remedy: str = _OTHER_MODEL
    ) -> None:
        """Raises CheckpointError for the first array that differs between `saved` and `wanted`.

        saved, wanted: the results of `shapes`.
        what: kind of array for the message, such as "parameter".
        remedy: last sentence of the message.
        """
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

    def _compare_data(self, step: int, saved: Mapping[str, Any], metadata: Mapping[str, Any]) -> None:
        if saved.get("vocabulary") != metadata.get("vocabulary"):
            raise CheckpointError(
                f"{self._path(step)} was trained with vocabulary {saved.get('vocabulary')}; the task caches of this "
                f"run use {metadata.get('vocabulary')}.",
                "Use caches tokenized with the checkpoint's vocabulary, or train into another MODEL_DIR.",
            )
        if saved.get("mixture") != metadata.get("mixture") and not self._policy.allow_other_data:
            raise CheckpointError(
                f"{self._path(step)} was trained on mixture {saved.get('mixture')}; this run reads "
                f"{metadata.get('mixture')} (tasks, weights, stages, batch size, lengths, seed, skip lists or the "
                "version of the data order differ).",
                "Restore the old data configuration (MODEL_DIR/config) or train into another MODEL_DIR. If the "
                "change is intentional, such as skipping bad documents or steps, pass "
                "--gin.Checkpoints.allow_other_data=True.",
            )


def _folder(model_dir: str):
    """MODEL_DIR in the form orbax expects: a pathlib.Path, or an etils path for a bucket."""
    if not storage.is_remote(model_dir):
        return pathlib.Path(model_dir).resolve()
    from etils import epath

    return epath.Path(model_dir)


def _remove_unfinished(directory) -> None:
    """Removes the remains of interrupted saves.

    Local saves leave folders with temporary names. Buckets cannot rename, so there an unfinished save is a folder
    without the file that orbax writes last.
    """
    if storage.is_remote(directory):
        for folder in directory.glob(f"{PREFIX}_*"):
            if not (folder / "commit_success.txt").exists():
                folder.rmtree()
        return
    for leftover in directory.glob(f"{PREFIX}_*.orbax-checkpoint-tmp*"):
        shutil.rmtree(leftover, ignore_errors=True)


def _held_out(metrics: Mapping[str, float]) -> float:
    return metrics["loss"]


def _preservation(policy: CheckpointPolicy):
    """Orbax's preservation policy: a checkpoint is kept if any of the rules keeps it. None keeps all."""
    from orbax.checkpoint.checkpoint_managers import preservation_policy as policies

    if policy.keep is None:
        return None
    kept = [policies.LatestN(policy.keep)]
    if policy.keep_period:
        kept.append(policies.EveryNSteps(policy.keep_period))
    if policy.keep_best:
        best = policies.BestN(
            get_metric_fn=_held_out, reverse=True, n=policy.keep_best, keep_checkpoints_without_metrics=False
        )
        kept.append(best)
    return policies.AnyPreservationPolicy(kept)
