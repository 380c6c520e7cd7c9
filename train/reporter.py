"""What the first process of a run tells while it runs: exact files, TensorBoard, the line on the terminal (train/metrics.py). And, on every process
alike, that it must end: where one alone did, the others would wait for it in the next step.
"""

import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

import jax

from castor.tasks.errors import CastorError
from castor.tasks.storage import storage
from castor.train import metrics

if TYPE_CHECKING:
    from castor.train.loop import Run


class Listener:
    """What the other processes have for a Reporter: says nothing, and ends the run with CastorError when too many updates in a row were skipped."""

    replayed = 0

    def __init__(self, skip_limit: int):
        self._skip_limit = skip_limit
        self._skipped = 0  # updates in a row, up to the last step heard of

    def step(self, step: int, results: Mapping[str, jax.Array]) -> None:
        """Waits for the step's metrics and counts."""
        told = {name: results[name] for name in ("loss", "gradient_norm", "skipped")}
        self._count(step, jax.device_get(told))

    def _count(self, step: int, row: Mapping[str, float]) -> None:
        self._skipped = self._skipped + 1 if row["skipped"] else 0
        if not self._skipped:
            return
        what = f"the loss of step {step} is {row['loss']}, its gradient norm {row['gradient_norm']}"
        if self._skipped < self._skip_limit:
            return self.say(
                f"{what}: the update is skipped ({self._skipped} in a row; the run ends at {self._skip_limit})"
            )
        before = (
            f": that is {self._skipped} skipped updates in a row, from step {step + 1 - self._skipped} on"
            if self._skipped > 1
            else ""
        )
        raise CastorError(
            f"{what}{before}.",
            "See castor tasks lineage for what was in it; start again from a checkpoint with that step in tasks.Mixture.skip_steps "
            "(and --gin.Checkpoints.allow_other_data=True), a lower peak learning rate or a longer warmup. "
            f"Run.skip_limit = {self._skip_limit} (macro SKIP_LIMIT) is how many in a row are borne.",
        )

    def start(self) -> None:
        """Everything is compiled."""

    def evaluation(self, step: int, result: Mapping[str, float]) -> None:
        """Held-out losses and metrics after `step` updates."""

    def say(self, text: str) -> None:
        """A line that stays."""

    def flush(self) -> None:
        """Returns when what was told is where a restart will find it."""

    def close(self) -> None:
        """The run is over."""


class Reporter(Listener):
    """Writes the metrics of steps and evaluations, from `start` on."""

    def __init__(self, run: "Run", start: int, domains: tuple[str, ...]):
        super().__init__(run.skip_limit)
        folder = run.model_dir
        self._run, self._domains = run, domains
        self._train = metrics.JsonLines(storage.join(folder, metrics.TRAIN_FILE), keep_until=start)
        self._evaluation = metrics.JsonLines(storage.join(folder, metrics.EVALUATION_FILE), keep_until=start + 1)
        self._board = (
            metrics.NoBoard()
            if storage.is_remote(folder)
            else metrics.TensorBoard(pathlib.Path(folder, "tensorboard"), start)
        )
        self._line = metrics.ProgressLine(run.train_steps)
        self._speed = metrics.Speed()

    @property
    def replayed(self) -> int:
        """Steps whose metrics were there already, and which are done again."""
        return len(self._train.replayed)

    def start(self) -> None:
        self._speed.take()  # the clock of speeds starts here

    def step(self, step: int, results: Mapping[str, jax.Array]) -> None:
        """Waits for the step's metrics and writes them."""
        row = {"step": step, **metrics.named(jax.device_get(results), self._domains)}
        self._train.write(row)
        self._board.write(step, {f"train/{key}": value for key, value in row.items() if key != "step"})
        self._speed.add(row["tokens"])
        self._count(step, row)
        if self._line.due() or step + 1 == self._run.train_steps:
            tokens, steps = self._speed.take()
            self._line.show(step + 1, row, tokens, steps)
            self._board.write(step, {"speed/tokens_per_second": tokens, "speed/steps_per_second": steps})

    def evaluation(self, step: int, result: Mapping[str, float]) -> None:
        self._evaluation.write({"step": step, **result})
        self._board.write(step, {f"evaluation/{key}": value for key, value in result.items()})
        losses = "  ".join(
            f"{key.removeprefix('loss/')} {value:.3f}" for key, value in result.items() if key.startswith("loss/")
        )
        self.say(f"step {step}  held-out loss  {losses or 'no held-out records'}")
        if metrics_of_tasks := "  ".join(
            f"{key} {value:.4g}" for key, value in result.items() if not key.startswith(("loss", "bits_per_byte/"))
        ):
            self.say(f"step {step}  {metrics_of_tasks}")

    def say(self, text: str) -> None:
        self._line.say(text)

    def flush(self) -> None:
        self._train.flush()
        self._evaluation.flush()

    def close(self) -> None:
        self._line.close()
        self._board.close()
        self._train.close()
        self._evaluation.close()
