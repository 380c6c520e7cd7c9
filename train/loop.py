"""The training run, from a gin configuration to a trained MODEL_DIR, to be read from top to bottom.

`Run` is what gin fills; `train(run)` is the run. What a MODEL_DIR holds:

    checkpoint_<step>/     train/checkpoints/checkpoints.py
    metrics.jsonl          a line a step; evaluation.jsonl a line an evaluation; tensorboard/ the same for the eye
    config/                the operative gin configuration of every start, none overwritten
    model.json             what inference needs: the model's shape and the vocabulary; vocabulary/ a copy of it
    COMPLETED              once the last step is done, with the checksum of the parameters; logs/ of the hosts of castor launch local

The loop never waits for a step: the metrics of step N - 1 are read while step N runs, and the batches of steps to come are made and put on the
devices by a thread. Nothing moves between host and devices inside it but by name (jax.transfer_guard).
"""

import bisect
import contextlib
import dataclasses
import json
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

import gin
from castor import tasks
from castor.tasks import configuration
from castor.tasks.batches.read_ahead import ReadAhead
from castor.tasks.errors import ConfigurationError, VocabularyError
from castor.tasks.mixing.schedule import BatchSizes
from castor.tasks.storage import storage
from castor.train.checkpoints import checksums, initial_state
from castor.train.checkpoints.checkpoints import Checkpoints, CheckpointStore
from castor.train.evaluation.evaluator import Evaluator
from castor.train.model.decoder import Transformer, count_parameters
from castor.train.optimizers import AdamW, Optimizer
from castor.train.partitioning import Mesh, Partitioner
from castor.train.reporter import Listener, Reporter
from castor.train.step import Trainer, TrainState, abstract_batch

MODEL_FILE = "model.json"
CONFIG_FOLDER = "config"
VOCABULARY_FOLDER = "vocabulary"
COMPLETED_FILE = "COMPLETED"


@gin.configurable(module="train.loop")
@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What is measured on held-out records, every `period` updates and after the last one (0: never).

    Loss, domain by domain: `steps` batches of each from `split`. Besides, the metrics of SeqIO tasks or mixtures by name, on at most `examples`
    of each (None: all) of their own `split`; the gin file that names `tasks` imports the module that registers them.
    """

    period: int = 500
    steps: int = 4
    split: str = "validation"
    tasks: Sequence[str] = ()
    examples: int | None = None

    def due(self, step: int, total: int) -> bool:
        return self.period > 0 and (step == total or step % self.period == 0)


@gin.configurable(module="train.loop")
@dataclasses.dataclass(frozen=True)
class Run:
    """One training run; runs/pretrain.gin binds each field to a macro of T5X's name.

    mixture: a tasks.Mixture, the name of one bound in gin, a task name or a cache directory; names are looked up in `tasks_dir`.
    lengths: {"targets": L}, tokens of a row. batch_size: rows of the global batch, or a table of them by the step from which they hold.
    accumulate: parts that a batch is taken in, one after the other, for want of memory.
    seed: of the data order, the initial weights and dropout.
    vocabulary: directory that the caches' vocabulary must equal; None takes the one that they name.
    mesh: a train.partitioning.Mesh or a dict of mesh axis -> size. prefetch: batches made ahead.
    packing: how documents are laid into rows: best_fit, first_fit or concat_and_split (tasks/mixing/packing.py).
    skip_limit: an update whose loss or gradient is not finite is skipped; so many in a row end the run. 1: the first one does.
    compiler_options: of the TPU compiler (gin/compiler/*.gin); on other devices they are left out.
    warm_start: MODEL_DIR or MODEL_DIR@STEP of another run whose parameters this one begins with; grow_vocabulary: train/checkpoints/initial_state.py.
    """

    mixture: tasks.Mixture | str
    model: Transformer
    model_dir: str
    lengths: Mapping[str, int]
    train_steps: int
    batch_size: int | Mapping[int, int]
    tasks_dir: str | None = None
    vocabulary: str | None = None
    optimizer: Optimizer = AdamW()
    mesh: Mesh | Mapping[str, int] = Mesh()
    seed: int = 0
    checkpoints: Checkpoints = Checkpoints()
    evaluation: Evaluation = Evaluation()
    prefetch: int = 2
    accumulate: int = 1
    packing: str = "best_fit"
    skip_limit: int = 10
    compiler_options: Mapping[str, Any] | None = None
    warm_start: str | None = None
    grow_vocabulary: bool = False

    def __post_init__(self):
        for name, least in (("train_steps", 0), ("prefetch", 1), ("accumulate", 1), ("skip_limit", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ConfigurationError(f"Run.{name} = {value!r}.", f"It is a whole number, at least {least}.")
        try:
            BatchSizes.of(self.batch_size)
        except ConfigurationError as error:
            raise ConfigurationError(f"Run.batch_size = {self.batch_size!r}: {error.what}", error.remedy) from error
        if not isinstance(self.model, Transformer):
            raise ConfigurationError(
                f"MODEL is {self.model!r}.", "Bind MODEL = @train.model.Transformer(), as models/tiny.gin does."
            )
        if not self.model_dir:
            raise ConfigurationError("MODEL_DIR is empty.", "Bind it: --gin.MODEL_DIR='\"model\"'.")

    def trainer(self, model: Transformer, partitioner: Partitioner, num_domains: int) -> Trainer:
        """The step of this run for a model whose vocabulary is known: what `castor train` runs and `castor compile` compiles."""
        return Trainer(
            model, self.optimizer, partitioner, num_domains, self.seed, self.accumulate, self.compiler_options
        )

    def check_rows(self, partitioner: Partitioner) -> None:
        """Raises ConfigurationError unless the devices and the parts of every batch share its rows evenly."""
        for size in BatchSizes.of(self.batch_size).sizes:
            partitioner.check_divides({"BATCH_SIZE": ("batch", size)})
            if size % (partitioner.size("batch") * self.accumulate):
                raise ConfigurationError(
                    f"BATCH_SIZE = {size} does not divide into ACCUMULATE = {self.accumulate} parts of whole rows for each of the "
                    f"{partitioner.size('batch')} device(s) that share it.",
                    f"Make BATCH_SIZE a multiple of {partitioner.size('batch') * self.accumulate}, or ACCUMULATE smaller.",
                )


@dataclasses.dataclass(frozen=True)
class Opened:
    """A run with its devices and data found, checked and fitted to each other."""

    run: Run
    model: Transformer
    partitioner: Partitioner
    batches: tasks.Batches
    shard: int
    num_shards: int

    def trainer(self) -> Trainer:
        return self.run.trainer(self.model, self.partitioner, len(self.batches.domains))

    def place(self, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
        """This process's rows of a batch of any size, put on its devices."""
        return self.partitioner.place_batch(batch, len(batch["domain"]) * self.num_shards)

    def placed_batch(self, step: int) -> dict[str, jax.Array]:
        """The batch of a training step, on the devices."""
        return self.place(self.batches.batch(step))

    def abstract_batch(self, rows: int) -> dict[str, jax.ShapeDtypeStruct]:
        """A global batch of so many rows as the compiler sees it."""
        return abstract_batch(self.partitioner, rows, self.batches.length)

    def sizes_to_come(self, start: int, stop: int) -> list[int]:
        """The batch sizes of steps start, start + 1, ... up to stop, each once, from small to large."""
        sizes, steps = self.batches.batch_sizes, range(start, stop)
        found = set()
        for first, size in zip(sizes.starts, sizes.sizes):
            index = bisect.bisect_left(steps, first, key=self.batches.data_step)
            if index < len(steps) and self.batches.batch_size_at(steps[index]) == size:
                found.add(size)
        return sorted(found)

    def domain_batches(self, split: str) -> dict[str, tasks.Batches]:
        """The held-out batches of each domain alone, of the size of step 0; domains without records in `split` are left out."""
        found = {}
        for name, component in zip(self.batches.domains, self.batches.mixture.components):
            alone = tasks.Mixture(name, {component: 1}, self.batches.mixture.cache_dirs)
            (manifest,) = alone.manifests().values()
            if split in manifest.splits and manifest.tokens(split) > 0:
                size, run = self.batches.batch_size, self.run
                found[name] = tasks.Batches(
                    alone, size, run.lengths, run.seed, split, self.shard, self.num_shards, packing=run.packing
                )
        return found


def open_run(run: Run) -> Opened:
    """Finds devices and caches and checks that mesh, model, batch and vocabulary fit. Raises the CastorError that says what does not."""
    partitioner = Partitioner.create(run.mesh)
    sizes = BatchSizes.of(run.batch_size)
    run.check_rows(partitioner)
    ((shard, num_shards),) = {
        partitioner.data_layout(size) for size in sizes.sizes
    }  # one for all: each is cut into equal parts
    vocabulary = tasks.Vocabulary.load(run.vocabulary) if run.vocabulary else None
    mixture = tasks.resolve_mixture(run.mixture, run.tasks_dir)
    # By name: gin writes dictionaries sorted, and a run must equal the one that its kept configuration describes.
    mixture = dataclasses.replace(mixture, components=dict(sorted(mixture.components.items())))
    batches = tasks.Batches(
        mixture,
        run.batch_size,
        run.lengths,
        run.seed,
        shard=shard,
        num_shards=num_shards,
        vocabulary=vocabulary,
        packing=run.packing,
    )
    partitioner.check_divides({"TASK_FEATURE_LENGTHS['targets']": ("residual_length", batches.length)})
    model = run.model if run.model.vocab_size else dataclasses.replace(run.model, vocab_size=batches.vocab_size)
    if model.vocab_size < max(batches.vocab_size, 1):
        raise VocabularyError(
            f"Transformer.vocab_size = {model.vocab_size} is smaller than the vocabulary of the task caches ({batches.vocab_size}).",
            "Leave Transformer.vocab_size at 0 to take theirs.",
        )
    model.check_mesh(partitioner)
    return Opened(run, model, partitioner, batches, shard, num_shards)


# ---------------------------------------------------------------------------------------------------------------- the run


def train(run: Run, on_step: Callable[[int], None] | None = None) -> int:
    """Trains up to `run.train_steps`, from the latest checkpoint in MODEL_DIR if there is one. Returns the step reached.

    SIGTERM and SIGINT end the run after the step at hand with a checkpoint: then the step reached is less than asked, and after SIGINT
    KeyboardInterrupt is raised. `on_step` is called on the host after each dispatched step, with the number of steps done.
    """
    # ---- Devices, data, model.
    opened = open_run(run)
    trainer, batches = opened.trainer(), opened.batches
    facts = {
        "mixture": batches.fingerprint,
        "vocabulary": batches.vocabulary_fingerprint,
        "domains": list(batches.domains),
    }
    main = jax.process_index() == 0

    # ---- Where to start.
    store = CheckpointStore(run.model_dir, run.checkpoints)
    latest = store.latest() or 0
    if latest > run.train_steps:
        raise ConfigurationError(
            f"{run.model_dir} has a checkpoint of step {latest}, beyond TRAIN_STEPS = {run.train_steps}.",
            "Ask for more steps.",
        )
    state = initial_state.resume(store, trainer, facts)
    start = 0 if state is None else int(state.step)
    if state is None:
        state = trainer.init()
        if run.warm_start:
            warm = initial_state.WarmStart.of(run.warm_start, run.grow_vocabulary)
            state = warm.apply(state, trainer, batches.vocabulary_fingerprint)
    sizes = opened.sizes_to_come(start, run.train_steps)
    if main:
        _keep_for_inference(opened)
        _keep_configuration(run.model_dir, start)
    reporter = Reporter(run, start, batches.domains) if main else Listener(run.skip_limit)
    if main:
        mesh = (
            " x ".join(f"{axis} {size}" for axis, size in opened.partitioner.mesh.shape.items() if size > 1)
            or "1 device"
        )
        storage.remove(storage.join(run.model_dir, COMPLETED_FILE))
        reporter.say(
            f"{count_parameters(opened.model):,} parameters on {mesh}; steps {start} to {run.train_steps}; domains {', '.join(batches.domains)}"
        )
        if run.warm_start:
            begun = "the optimizer is fresh" if start == 0 else f"long ago: this run goes on from its own step {start}"
            reporter.say(f"parameters of {run.warm_start}; {begun}")
        if reporter.replayed:
            reporter.say(f"{reporter.replayed} steps that no checkpoint holds are done again")
        parts = f", each in {run.accumulate} parts" if run.accumulate > 1 else ""
        if len(sizes) > 1 or parts:
            reporter.say(f"batches of {', '.join(map(str, sizes))} rows{parts}; the step of each size is compiled now")

    # ---- The loop.
    with contextlib.ExitStack() as stack:
        stack.callback(store.close)
        stack.callback(reporter.close)
        if start == run.train_steps:
            _complete(run, start, state)
            return start
        stop = stack.enter_context(_Stop())
        feed = stack.enter_context(ReadAhead(opened.placed_batch, range(start, run.train_steps), run.prefetch))
        step_functions = {size: trainer.compile_step(opened.abstract_batch(size)) for size in sizes}
        evaluator = Evaluator(opened, trainer) if run.evaluation.period else None
        reporter.start()
        reached, pending = start, None
        stack.enter_context(jax.transfer_guard("disallow"))
        for step in range(start, run.train_steps):
            state, results = step_functions[batches.batch_size_at(step)](state, feed.take(step))
            if pending is not None:
                reporter.step(*pending)
            pending, reached = (step, results), step + 1
            if on_step:
                on_step(reached)
            stopping = stop.agreed(reached)
            saving = stopping or run.checkpoints.due(reached, run.train_steps)
            evaluating = evaluator is not None and run.evaluation.due(reached, run.train_steps)
            if saving or evaluating:
                # What a checkpoint follows from must be on disk before it: a restart keeps the lines before its step.
                reporter.step(*pending)
                pending = None
                result = {}
                if evaluating:
                    result = evaluator(state.parameters)
                    reporter.evaluation(reached, result)
                if saving:
                    reporter.flush()
                    store.save(reached, state.parameters, state.optimizer, facts, result.get("loss"))
            if stopping:
                break
        if pending is not None:
            reporter.step(*pending)
        store.wait()
        if reached == run.train_steps:
            _complete(run, reached, state)
    if reached < run.train_steps:
        if main:
            print(
                f"castor: stopped by a signal after step {reached}, saved; run the same command again to go on.",
                file=sys.stderr,
            )
        if signal.SIGINT in stop.signals:
            raise KeyboardInterrupt
    return reached


def evaluate(run: Run, step: int | None = None) -> tuple[int, dict[str, float]]:
    """What `Evaluator` measures at checkpoint `step` (default: the latest). Returns (step, {"loss/NAME": nats a token, ...})."""
    opened = open_run(run)
    trainer = opened.trainer()
    store = CheckpointStore(run.model_dir, run.checkpoints, read_only=True)
    with contextlib.closing(store):
        step = store.latest() if step is None else step
        if step is None:
            store.facts(0)  # raises: there is none
        parameters, _ = store.restore(step, trainer.abstract_state().parameters)
        return step, Evaluator(opened, trainer)(parameters)


# ---------------------------------------------------------------------------------------------------------------- small parts


def _keep_configuration(model_dir: str, start: int) -> None:
    """Writes the operative gin configuration as config/NNN_step_S.gin, after those of earlier starts."""
    folder = storage.join(model_dir, CONFIG_FOLDER)
    storage.makedirs(folder)
    number = 1 + max((int(name[:3]) for name in storage.list_files(folder) if name[:3].isdigit()), default=-1)
    storage.write_bytes_atomic(
        storage.join(folder, f"{number:03d}_step_{start}.gin"), configuration.operative_config().encode()
    )


def _keep_for_inference(opened: Opened) -> None:
    """Writes model.json, and a copy of the vocabulary where the path that the caches name is still there."""
    batches, model_dir = opened.batches, opened.run.model_dir
    manifests = tuple(batches.mixture.manifests().values())
    path = opened.run.vocabulary or manifests[0].vocabulary.get("path", "")
    copy = storage.join(model_dir, VOCABULARY_FOLDER)
    try:
        vocabulary = tasks.Vocabulary.load(path)
        if vocabulary.fingerprint == batches.vocabulary_fingerprint:
            vocabulary.save(copy)
    except VocabularyError:
        pass  # training needs only ids; inference will ask for --vocabulary
    storage.write_json_atomic(
        storage.join(model_dir, MODEL_FILE),
        {
            "model": dataclasses.asdict(opened.model),
            "image_token_budget": max(
                (m.data.get("config", {}).get("image_token_budget", 0) for m in manifests), default=0
            ),
            "vocabulary": {
                "path": str(path),
                "fingerprint": batches.vocabulary_fingerprint,
                "size": batches.vocab_size,
            },
            "lengths": dict(opened.run.lengths),
            "domains": list(batches.domains),
            "mixture": batches.fingerprint,
        },
    )


def _complete(run: Run, step: int, state: TrainState) -> None:
    """Writes COMPLETED: the last step, and the checksum of the parameters, by which runs can be compared."""
    checksum = checksums.digest(checksums.checksums(state.parameters))
    if jax.process_index() == 0:
        storage.write_json_atomic(storage.join(run.model_dir, COMPLETED_FILE), {"step": step, "parameters": checksum})


class _Stop:
    """Takes SIGTERM and the first SIGINT as a wish to stop after the step at hand; a second SIGINT interrupts at once.

    Signals reach only the main thread of a process; elsewhere this never says stop. With several processes JAX itself takes SIGTERM, as the
    notice of a preemption, and all of them stop after the same step.
    """

    def __init__(self):
        self.signals: list[int] = []

    def __enter__(self) -> "_Stop":
        self._before = {}
        if threading.current_thread() is threading.main_thread() and jax.process_count() == 1:
            self._before = {
                number: signal.signal(number, self._on_signal) for number in (signal.SIGTERM, signal.SIGINT)
            }
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def agreed(self, step: int) -> bool:
        """Whether to stop after this step."""
        if jax.process_count() == 1:
            return bool(self.signals)
        from jax.experimental import multihost_utils

        return multihost_utils.reached_preemption_sync_point(step)

    def _on_signal(self, number, frame) -> None:
        if number == signal.SIGINT and signal.SIGINT in self.signals:
            raise KeyboardInterrupt
        self.signals.append(number)


def read_model_file(model_dir: str) -> dict[str, Any]:
    """The content of model.json. Raises CastorError where there is none."""
    path = storage.join(model_dir, MODEL_FILE)
    try:
        return json.loads(storage.read_bytes(path))
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"{model_dir} holds no model: {path} cannot be read.", "Give the MODEL_DIR of a castor train run."
        ) from error
