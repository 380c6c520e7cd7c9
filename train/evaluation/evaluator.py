"""Evaluation on held-out records: loss by domain, bits per byte of text, and the metrics of SeqIO tasks.

The batches are always the same, so numbers of different steps and runs are comparable. SeqIO (and therefore TensorFlow)
is imported only if SeqIO tasks are configured (train/evaluation/metric_tasks.py).
"""

import contextlib
import math
from collections.abc import Mapping

import jax
import numpy as np

from castor import tasks
from castor.tasks.errors import VocabularyError
from castor.train.checkpoints.checkpoints import CheckpointStore
from castor.train.inference.inference import Model
from castor.train.run import PreparedRun, RunConfig, prepare
from castor.train.step import TrainStep


class Evaluator:
    """Evaluates parameters on the data of a run. The first call compiles the evaluation and opens the data.

    A call returns "loss/DOMAIN" in nats per token and "loss", their mean. For domains that contain only text it returns
    "bits_per_byte/DOMAIN", if the vocabulary is found. For each SeqIO task in the run's EvaluationConfig it returns
    "TASK/METRIC". With several processes, all of them call the evaluator at the same step, and only process 0 gets bits
    per byte.
    """

    def __init__(self, run: PreparedRun, train_step: TrainStep):
        self._run, self._train_step = run, train_step
        self._compiled = None
        self._batches: dict[str, tasks.Batches] = {}
        self._bytes: dict[str, int] = {}
        self._task_metrics = None

    def __call__(self, parameters) -> dict[str, float]:
        if self._compiled is None:
            self._open()
        losses, bits = {}, {}
        for name, batches in self._batches.items():
            nll = tokens = 0.0
            for number in range(self._run.config.evaluation.steps):
                sums = jax.device_get(self._compiled(parameters, self._run.to_devices(batches.batch(number))))
                nll += float(sums["loss"]) * float(sums["tokens"])
                tokens += float(sums["tokens"])
            losses[f"loss/{name}"] = nll / max(tokens, 1.0)
            if self._bytes.get(name):
                bits[f"bits_per_byte/{name}"] = nll / math.log(2) / self._bytes[name]
        mean = {"loss": float(np.mean(list(losses.values())))} if losses else {}
        return {**mean, **losses, **bits, **self._evaluate_tasks(parameters)}

    def _open(self) -> None:
        run = self._run
        self._compiled = self._train_step.compile_evaluate(run.abstract_batch(run.batches.batch_size))
        self._batches = run.domain_batches(run.config.evaluation.split)
        vocabulary = run.vocabulary()
        if vocabulary is not None and jax.process_index() == 0:
            self._bytes = {name: self._text_bytes(name, vocabulary) for name in self._batches}

    def _text_bytes(self, name: str, vocabulary: tasks.Vocabulary) -> int:
        """UTF-8 bytes in the targets of a domain's batches, over all processes; 0 if the targets are not only text."""
        config, shard = self._run.config, self._batches[name]
        batches = tasks.Batches(
            shard.mixture,
            shard.batch_size,
            config.lengths,
            config.seed,
            config.evaluation.split,
            packing=config.packing,
        )
        bytes_V = vocabulary.text_bytes()
        is_text_V = bytes_V > 0
        is_text_V[[vocabulary.pad_id, vocabulary.eos_id]] = True
        total = 0
        for number in range(config.evaluation.steps):
            ids = batches.batch(number)["decoder_target_tokens"]
            if not is_text_V[ids].all():
                return 0
            total += int(bytes_V[ids].sum())
        return total

    def _evaluate_tasks(self, parameters) -> dict[str, float]:
        run, evaluation = self._run, self._run.config.evaluation
        if not evaluation.tasks:
            return {}
        if self._task_metrics is None:
            from castor.train.evaluation import metric_tasks

            self._task_metrics = metric_tasks.TaskMetrics(evaluation.tasks, evaluation.split, evaluation.examples)
        vocabulary = run.vocabulary()
        if vocabulary is None:
            raise VocabularyError(
                "Evaluation.tasks needs the vocabulary of the task caches, whose folder no longer exists.",
                "Bind VOCABULARY to its directory.",
            )
        with jax.transfer_guard("allow"):  # decoding transfers token by token; speed does not matter here
            model = Model(
                run.model,
                parameters,
                vocabulary,
                run.batches.length,
                partitioner=run.partitioner if run.partitioner.mesh.size > 1 else None,
                batch_size=run.batches.batch_size,
            )
            return flatten(self._task_metrics(model))


def evaluate_checkpoint(config: RunConfig, step: int | None = None) -> tuple[int, dict[str, float]]:
    """Evaluates checkpoint `step` of a run (default: the latest). Returns (step, the values of `Evaluator`)."""
    run = prepare(config)
    train_step = run.train_step()
    store = CheckpointStore(config.model_dir, config.checkpoints, read_only=True)
    with contextlib.closing(store):
        step = store.step_or_latest(step)
        parameters, _ = store.restore(step, train_step.abstract_state().parameters)
        return step, Evaluator(run, train_step)(parameters)


def flatten(values: Mapping[str, Mapping[str, float | str]]) -> dict[str, float]:
    """{task: {metric: value}} -> {"task/metric": value}, for numeric values."""
    return {
        f"{task}/{name}": value
        for task, metrics in values.items()
        for name, value in metrics.items()
        if isinstance(value, float)
    }
