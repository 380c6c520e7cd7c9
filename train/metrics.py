"""Where the metrics of a run go: exact JSON lines, TensorBoard, and one progress line on the terminal.

`metrics.jsonl` has one line per step. It depends only on the data, the configuration and the seed, so it holds no times
or speeds. Floats are written so that they read back to the same bits. A run that restarts from a checkpoint drops the
later lines and writes them again, so a run that was killed any number of times leaves the same file as one that never
was. If new lines differ from the dropped ones (another mesh, another compiler, a faulty chip), the run prints one
warning.
"""

import dataclasses
import json
import math
import pathlib
import sys
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from castor.tasks.storage import storage


def step_row(results: Mapping[str, np.ndarray], domains: Sequence[str]) -> dict[str, float | int]:
    """The metrics.jsonl row for the results of `TrainStep.step`, without the step.

    results: metrics by name, as host arrays. Scalars keep their names.
    domains: names of the C domains. The sums `domain_nll` and `domain_tokens` [C] become loss/NAME (nats per token) and
        tokens/NAME for each domain with tokens in the batch.
    """
    row: dict[str, float | int] = {key: float(value) for key, value in results.items() if not key.startswith("domain_")}
    row["tokens"], row["skipped"] = int(row["tokens"]), int(row["skipped"])
    for name, nll, tokens in zip(domains, results["domain_nll"], results["domain_tokens"]):
        if tokens > 0:
            row[f"loss/{name}"] = float(nll) / float(tokens)
            row[f"tokens/{name}"] = int(tokens)
    return row


class JsonLines:
    """An append-only file of rows with a `step`.

    Opening the file drops the rows from `keep_until` on; each is compared with the row that replaces it. Bucket objects
    cannot be appended to, so there `flush` writes the whole object. A local file is replaced when it is opened. If
    another run takes over the MODEL_DIR, lines appended by the first run therefore go to an unlinked file.

    path: the file.
    keep_until: the first step whose rows are dropped.
    check_lock: raises LockError if this run may not write any more; called before the whole object is written.
    """

    def __init__(self, path: storage.Path, keep_until: int, check_lock: Callable[[], None] = lambda: None):
        """Keeps the rows with step < keep_until. Drops an incomplete last line left by a killed run."""
        self.path = path
        self._check_lock = check_lock
        self.replayed: dict[int, str] = {}
        self.differs_at: int | None = None
        self._lines = []
        for line in storage.read_bytes(path).decode("utf-8").splitlines() if storage.exists(path) else ():
            try:
                step = json.loads(line)["step"]
            except (ValueError, KeyError, TypeError):
                continue
            if step < keep_until:
                self._lines.append(line)
            else:
                self.replayed[step] = line
        self._write_whole()
        self._file = None
        if not storage.is_remote(path):
            self._file, self._lines = open(path, "a", encoding="utf-8"), []

    def write(self, row: Mapping[str, float | int | str]) -> None:
        line = json.dumps(row)
        before = self.replayed.pop(row["step"], line)
        if before != line and self.differs_at is None:
            self.differs_at = row["step"]
            print(
                f"castor: {self.path}: the metrics of step {row['step']} differ from those before the restart "
                "(another mesh, version or machine?)",
                file=sys.stderr,
            )
        if self._file is None:
            self._lines.append(line)
        else:
            self._file.write(line + "\n")
            self._file.flush()

    def flush(self) -> None:
        """Blocks until every row is where a restart will find it."""
        if self._file is None:
            self._write_whole()

    def close(self) -> None:
        self.flush()
        if self._file is not None:
            self._file.close()

    def _write_whole(self) -> None:
        self._check_lock()
        storage.write_bytes_atomic(self.path, "".join(line + "\n" for line in self._lines).encode("utf-8"))


class TensorBoard:
    """Writes scalars for TensorBoard with tensorboardX (no TensorFlow)."""

    def __init__(self, directory: pathlib.Path, start: int):
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(str(directory), purge_step=start, flush_secs=20)

    def write(self, step: int, row: Mapping[str, float]) -> None:
        for key, value in row.items():
            if key != "step" and isinstance(value, (int, float)) and math.isfinite(value):
                self._writer.add_scalar(key, value, step)

    def close(self) -> None:
        self._writer.close()


class NoBoard:
    """Replaces TensorBoard if MODEL_DIR cannot be appended to (a bucket)."""

    def write(self, step: int, row: Mapping[str, float]) -> None:
        pass

    def close(self) -> None:
        pass


@dataclasses.dataclass
class Throughput:
    """Tokens and steps per second since the last `take`, by the host's clock."""

    tokens: float = 0.0
    steps: int = 0
    since: float = dataclasses.field(default_factory=time.monotonic)

    def add(self, tokens: float) -> None:
        self.tokens += tokens
        self.steps += 1

    def take(self) -> tuple[float, float]:
        """Returns (tokens per second, steps per second) and starts over."""
        seconds = max(time.monotonic() - self.since, 1e-9)
        result = self.tokens / seconds, self.steps / seconds
        self.tokens, self.steps, self.since = 0.0, 0, time.monotonic()
        return result


class ProgressLine:
    """One line, updated in place on a terminal and printed every `period_s` seconds elsewhere.

    total: number of steps of the run.
    period_s: seconds between lines if the output is not a terminal.
    """

    def __init__(self, total: int, period_s: float = 10.0):
        import rich.console

        self._console = rich.console.Console(stderr=True, highlight=False)
        self._total, self._period = total, 0.5 if self._console.is_terminal else period_s
        self._shown = time.monotonic()
        self._live = None
        if self._console.is_terminal:
            import rich.live

            self._live = rich.live.Live("", console=self._console, auto_refresh=False)
            self._live.start()

    def due(self) -> bool:
        return time.monotonic() - self._shown >= self._period

    def show(self, step: int, row: Mapping[str, float], tokens_per_second: float, steps_per_second: float) -> None:
        self._shown = time.monotonic()
        left = (self._total - step) / steps_per_second if steps_per_second else math.inf
        domains = "  ".join(
            f"{key.removeprefix('loss/')} {value:.2f}" for key, value in row.items() if key.startswith("loss/")
        )
        line = (
            f"step {step}/{self._total}  loss {row['loss']:.3f}  {tokens_per_second:,.0f} tokens/s  {_clock(left)} "
            f"left  {domains}"
        )
        if self._live:
            self._live.update(line, refresh=True)
        else:
            self._console.print(line, soft_wrap=True, markup=False)

    def print(self, text: str) -> None:
        """Prints a line above the progress line."""
        self._console.print(text, soft_wrap=True, markup=False)

    def close(self) -> None:
        if self._live:
            self._live.stop()


def _clock(seconds: float) -> str:
    if not math.isfinite(seconds):
        return "-:--"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
