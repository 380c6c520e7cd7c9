"""Reports metrics from process 0: metrics.jsonl, evaluation.jsonl, TensorBoard and a progress line (train/metrics.py).

Every process also runs the skip-limit check, so that all of them stop at the same step instead of deadlocking in the
next collective.
"""

import pathlib
from collections.abc import Callable, Mapping

import jax

from castor.tasks.errors import CastorError
from castor.tasks.storage import storage
from castor.train import metrics, model_dir
from castor.train.run import RunConfig


class SkippedUpdateMonitor:
    """Ends the run with CastorError after `skip_limit` consecutive skipped updates (non-finite loss or gradient).

    Writes nothing.
    """

    replayed = 0

    def __init__(self, skip_limit: int):
        self._skip_limit = skip_limit
        self._skipped = 0  # consecutive skipped updates up to the latest step

    def log_step(self, step: int, results: Mapping[str, jax.Array]) -> None:
        """Waits for the step's metrics and counts skipped updates."""
        self._count(step, jax.device_get({name: results[name] for name in ("loss", "gradient_norm", "skipped")}))

    def _count(self, step: int, row: Mapping[str, float]) -> None:
        self._skipped = self._skipped + 1 if row["skipped"] else 0
        if not self._skipped:
            return
        values = f"the loss of step {step} is {row['loss']}, its gradient norm {row['gradient_norm']}"
        if self._skipped < self._skip_limit:
            self.print(
                f"{values}: the update is skipped ({self._skipped} in a row; the run ends at {self._skip_limit})"
            )
            return
        first = step + 1 - self._skipped
        in_a_row = f": {self._skipped} skipped updates in a row, from step {first} on" if self._skipped > 1 else ""
        raise CastorError(
            f"{values}{in_a_row}.",
            "Run castor tasks lineage to see the documents of that step. Start again from a checkpoint with that "
            "step in tasks.Mixture.skip_steps (and --gin.Checkpoints.allow_other_data=True), a lower peak learning "
            f"rate or a longer warmup. SKIP_LIMIT (Run.skip_limit = {self._skip_limit}) sets how many consecutive "
            "skipped updates end a run.",
        )

    def start(self) -> None:
        """Called after compilation."""

    def log_evaluation(self, step: int, values: Mapping[str, float]) -> None:
        """Held-out losses and metrics after `step` updates."""

    def print(self, text: str) -> None:
        """Prints a line above the progress line."""

    def flush(self) -> None:
        """Blocks until every row logged is where a restart will find it."""

    def close(self) -> None:
        """Called when the run ends."""


class Reporter(SkippedUpdateMonitor):
    """Writes the metrics of steps and evaluations, from step `start` on.

    config: the run's configuration.
    start: the step that the run starts from.
    domains: names of the mixture's components.
    check_lock: raises LockError if this run may not write any more.
    """

    def __init__(
        self, config: RunConfig, start: int, domains: tuple[str, ...], check_lock: Callable[[], None] = lambda: None
    ):
        super().__init__(config.skip_limit)
        folder = config.model_dir
        self._total, self._domains = config.train_steps, domains
        self._metrics = metrics.JsonLines(storage.join(folder, model_dir.METRICS_FILE), start, check_lock)
        self._evaluations = metrics.JsonLines(storage.join(folder, model_dir.EVALUATION_FILE), start + 1, check_lock)
        self._board = (
            metrics.NoBoard()
            if storage.is_remote(folder)
            else metrics.TensorBoard(pathlib.Path(folder, model_dir.TENSORBOARD_FOLDER), start)
        )
        self._progress = metrics.ProgressLine(config.train_steps)
        self._throughput = metrics.Throughput()

    @property
    def replayed(self) -> int:
        """Number of steps that are replayed because their metrics were on disk already."""
        return len(self._metrics.replayed)

    def start(self) -> None:
        self._throughput.take()  # excludes compilation

    def log_step(self, step: int, results: Mapping[str, jax.Array]) -> None:
        """Waits for the step's metrics and writes them."""
        row = {"step": step, **metrics.step_row(jax.device_get(results), self._domains)}
        self._metrics.write(row)
        self._board.write(step, {f"train/{key}": value for key, value in row.items() if key != "step"})
        self._throughput.add(row["tokens"])
        self._count(step, row)
        if self._progress.due() or step + 1 == self._total:
            tokens, steps = self._throughput.take()
            self._progress.show(step + 1, row, tokens, steps)
            self._board.write(step, {"speed/tokens_per_second": tokens, "speed/steps_per_second": steps})

    def log_evaluation(self, step: int, values: Mapping[str, float]) -> None:
        self._evaluations.write({"step": step, **values})
        self._board.write(step, {f"evaluation/{key}": value for key, value in values.items()})
        losses = "  ".join(
            f"{key.removeprefix('loss/')} {value:.3f}" for key, value in values.items() if key.startswith("loss/")
        )
        self.print(f"step {step}  held-out loss  {losses or 'no held-out records'}")
        if task_metrics := "  ".join(
            f"{key} {value:.4g}" for key, value in values.items() if not key.startswith(("loss", "bits_per_byte/"))
        ):
            self.print(f"step {step}  {task_metrics}")

    def print(self, text: str) -> None:
        self._progress.print(text)

    def flush(self) -> None:
        self._metrics.flush()
        self._evaluations.flush()

    def close(self) -> None:
        self._progress.close()
        self._board.close()
        self._metrics.close()
        self._evaluations.close()
