"""The training run, from a gin configuration to a trained MODEL_DIR. Read it from top to bottom.

The host never waits for a step it has just dispatched: the metrics of step N - 1 are read while step N runs. A thread
prepares the next batches and transfers them to the devices. Inside the loop, jax.transfer_guard forbids implicit
transfers between host and devices.
"""

import contextlib
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax

from castor.tasks import configuration
from castor.tasks.batches.read_ahead import ReadAhead
from castor.tasks.errors import ConfigurationError
from castor.tasks.storage import lock
from castor.train import model_dir
from castor.train.checkpoints import checksums, initial_state
from castor.train.checkpoints.checkpoints import CheckpointStore
from castor.train.checkpoints.model_dir_lock import only_writer
from castor.train.evaluation.evaluator import Evaluator
from castor.train.model.decoder import count_parameters
from castor.train.preemption import StopSignals
from castor.train.reporter import Reporter, SkippedUpdateMonitor
from castor.train.run import PreparedRun, RunConfig, prepare
from castor.train.step import TrainState, TrainStep


def train(config: RunConfig, on_step: Callable[[int], None] | None = None) -> int:
    """Trains up to `config.train_steps`, from the latest checkpoint in MODEL_DIR if there is one.

    Returns the number of steps done.

    config: the run's configuration.
    on_step: called on the host after each dispatched step, with the number of steps done.

    SIGTERM and SIGINT end the run after the current step with a checkpoint, so fewer steps are done than configured.
    After SIGINT, KeyboardInterrupt is raised. Raises LockError, before anything is touched, if another run writes this
    MODEL_DIR.
    """
    with only_writer(config.model_dir) as held:
        return _train(config, held, on_step)


def _train(config: RunConfig, held: lock.Held | None, on_step: Callable[[int], None] | None) -> int:
    # ---- Devices, data, model.
    run = prepare(config)
    train_step, batches = run.train_step(), run.batches
    metadata = {
        "mixture": batches.fingerprint,
        "vocabulary": batches.vocabulary_fingerprint,
        "domains": list(batches.domains),
    }
    is_main = jax.process_index() == 0

    # ---- Where to start.
    store = CheckpointStore(config.model_dir, config.checkpoints)
    state = _start_state(run, store, train_step, metadata)
    start = int(state.step)
    batch_sizes = run.batch_sizes(start, config.train_steps)
    if is_main:
        run.write_model_files()
        model_dir.write_configuration(config.model_dir, configuration.operative_config(), start)
        model_dir.remove_completed(config.model_dir)
        reporter = Reporter(config, start, batches.domains, held.check)
        _print_summary(run, reporter, start, batch_sizes)
    else:
        reporter = SkippedUpdateMonitor(config.skip_limit)

    # ---- The loop.
    with contextlib.ExitStack() as stack:
        stack.callback(store.close)
        stack.callback(reporter.close)
        if start == config.train_steps:
            _complete(config, start, state)
            return start
        signals = stack.enter_context(StopSignals())
        feed = stack.enter_context(ReadAhead(run.device_batch, range(start, config.train_steps), config.prefetch))
        compiled_steps = {size: train_step.compile_step(run.abstract_batch(size)) for size in batch_sizes}
        evaluator = Evaluator(run, train_step) if config.evaluation.period else None
        reporter.start()
        done, pending = start, None
        stack.enter_context(jax.transfer_guard("disallow"))
        for step in range(start, config.train_steps):
            state, results = compiled_steps[batches.batch_size_at(step)](state, feed.take(step))
            if pending is not None:
                reporter.log_step(*pending)
            pending, done = (step, results), step + 1
            if on_step:
                on_step(done)
            stopping = signals.should_stop(done)
            saving = stopping or config.checkpoints.due(done, config.train_steps)
            evaluating = evaluator is not None and config.evaluation.due(done, config.train_steps)
            if held and (saving or evaluating):
                held.check()
            if saving or evaluating:
                # Flush metrics before saving: a restart truncates metrics.jsonl at the checkpoint's step and must find
                # every earlier line on disk.
                reporter.log_step(*pending)
                pending = None
                values = {}
                if evaluating:
                    values = evaluator(state.parameters)
                    reporter.log_evaluation(done, values)
                if saving:
                    reporter.flush()
                    store.save(done, state.parameters, state.optimizer, metadata, values.get("loss"))
            if stopping:
                break
        if pending is not None:
            reporter.log_step(*pending)
        store.wait()
        if done == config.train_steps:
            _complete(config, done, state)
    if done < config.train_steps:
        if is_main:
            print(
                f"castor: stopped by a signal after step {done} and saved. Run the same command again to continue.",
                file=sys.stderr,
            )
        if signal.SIGINT in signals.received:
            raise KeyboardInterrupt
    return done


def _start_state(
    run: PreparedRun, store: CheckpointStore, train_step: TrainStep, metadata: dict[str, Any]
) -> TrainState:
    """The state to start from: the latest checkpoint, new parameters, or those of another run (warm start)."""
    config = run.config
    latest = store.latest() or 0
    if latest > config.train_steps:
        raise ConfigurationError(
            f"{config.model_dir} has a checkpoint of step {latest}, beyond TRAIN_STEPS = {config.train_steps}.",
            "Increase TRAIN_STEPS.",
        )
    state = initial_state.resume(store, train_step, metadata)
    if state is not None:
        return state
    state = train_step.init()
    if not config.warm_start:
        return state
    warm_start = initial_state.WarmStart.parse(config.warm_start, config.grow_vocabulary)
    return warm_start.apply(state, train_step, run.batches.vocabulary_fingerprint)


def _print_summary(run: PreparedRun, reporter: Reporter, start: int, batch_sizes: Sequence[int]) -> None:
    """Prints a summary of the run before the first step is compiled."""
    config = run.config
    axes = [f"{axis} {size}" for axis, size in run.partitioner.mesh.shape.items() if size > 1]
    reporter.print(
        f"{count_parameters(run.model):,} parameters on {' x '.join(axes) or '1 device'}; steps {start} to "
        f"{config.train_steps}; domains {', '.join(run.batches.domains)}"
    )
    if config.warm_start and start == 0:
        reporter.print(f"parameters of {config.warm_start}; the optimizer state is new")
    elif config.warm_start:
        reporter.print(f"--warm_start={config.warm_start} is ignored: this run continues from its own step {start}")
    if reporter.replayed:
        reporter.print(f"replaying {reporter.replayed} steps done after the last checkpoint")
    microbatches = f", each in {config.accumulate} microbatches" if config.accumulate > 1 else ""
    if len(batch_sizes) > 1 or microbatches:
        sizes = ", ".join(map(str, batch_sizes))
        reporter.print(f"batches of {sizes} rows{microbatches}; compiling one step per size")


def _complete(config: RunConfig, step: int, state: TrainState) -> None:
    """Marks the run as finished. All processes compute the checksum; only process 0 writes."""
    checksum = checksums.digest(checksums.checksums(state.parameters))
    if jax.process_index() == 0:
        model_dir.write_completed(config.model_dir, step, checksum)
