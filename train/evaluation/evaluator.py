"""What a model is worth on held-out records: loss by domain, bits a byte of text, and the metrics of SeqIO tasks (train/evaluation/metric_tasks.py).

The batches are always the same, so that numbers of different steps and runs compare. SeqIO, hence TensorFlow, is imported only where tasks of
it are asked for.
"""

import math
from typing import TYPE_CHECKING

import jax
import numpy as np

from castor import tasks
from castor.tasks.errors import VocabularyError
from castor.train.step import Trainer

if TYPE_CHECKING:
    from castor.train.loop import Opened


class Evaluator:
    """Measures parameters. Compiled, and its data opened, at its first call.

    What it returns: "loss/DOMAIN", nats a token, and "loss", their mean; "bits_per_byte/DOMAIN" for domains of text alone, where the
    vocabulary is at hand; "TASK/METRIC" for each SeqIO task that the run's Evaluation names. Several processes call it in step; those but the
    first are told no bits per byte.
    """

    def __init__(self, opened: "Opened", trainer: Trainer):
        self._opened, self._trainer = opened, trainer
        self._function = None
        self._batches: dict[str, tasks.Batches] = {}
        self._bytes: dict[str, int] = {}
        self._tasks = None

    def __call__(self, parameters) -> dict[str, float]:
        if self._function is None:
            self._open()
        losses, bits = {}, {}
        for name, batches in self._batches.items():
            nll = tokens = 0.0
            for number in range(self._opened.run.evaluation.steps):
                sums = jax.device_get(self._function(parameters, self._opened.place(batches.batch(number))))
                nll += float(sums["loss"]) * float(sums["tokens"])
                tokens += float(sums["tokens"])
            losses[f"loss/{name}"] = nll / max(tokens, 1.0)
            if self._bytes.get(name):
                bits[f"bits_per_byte/{name}"] = nll / math.log(2) / self._bytes[name]
        mean = {"loss": float(np.mean(list(losses.values())))} if losses else {}
        return {**mean, **losses, **bits, **self._of_tasks(parameters)}

    def _open(self) -> None:
        opened = self._opened
        self._function = self._trainer.compile_evaluate(opened.abstract_batch(opened.batches.batch_size))
        self._batches = opened.domain_batches(opened.run.evaluation.split)
        vocabulary = vocabulary_of(opened)
        if vocabulary is not None and jax.process_index() == 0:
            self._bytes = {name: self._text_bytes(name, vocabulary) for name in self._batches}

    def _text_bytes(self, name: str, vocabulary: tasks.Vocabulary) -> int:
        """Bytes of UTF-8 in the targets of a domain's batches, of all processes; 0 where they hold anything but text."""
        run, mine = self._opened.run, self._batches[name]
        whole = tasks.Batches(
            mine.mixture, mine.batch_size, run.lengths, run.seed, run.evaluation.split, packing=run.packing
        )
        bytes_V = vocabulary.text_bytes()
        is_text_V = bytes_V > 0
        is_text_V[[vocabulary.pad_id, vocabulary.eos_id]] = True
        total = 0
        for number in range(run.evaluation.steps):
            ids = whole.batch(number)["decoder_target_tokens"]
            if not is_text_V[ids].all():
                return 0
            total += int(bytes_V[ids].sum())
        return total

    def _of_tasks(self, parameters) -> dict[str, float]:
        evaluation = self._opened.run.evaluation
        if not evaluation.tasks:
            return {}
        if self._tasks is None:
            from castor.train.evaluation import metric_tasks

            self._tasks = metric_tasks.TaskMetrics(evaluation.tasks, evaluation.split, evaluation.examples)
        vocabulary = vocabulary_of(self._opened)
        if vocabulary is None:
            raise VocabularyError(
                "Evaluation.tasks needs the vocabulary of the task caches, which is nowhere.",
                "Bind VOCABULARY to its directory.",
            )
        from castor.train.inference.inference import Model

        with jax.transfer_guard("allow"):  # a token at a time, nothing here hurries
            opened = self._opened
            place = opened.partitioner if opened.partitioner.mesh.size > 1 else None
            model = Model(
                opened.model,
                parameters,
                vocabulary,
                opened.batches.length,
                partitioner=place,
                batch_size=opened.batches.batch_size,
            )
            return flat(self._tasks(model))


def flat(found) -> dict[str, float]:
    """{task: {metric: value}} -> {"task/metric": value}, of values that are numbers."""
    return {
        f"{task}/{name}": value
        for task, values in found.items()
        for name, value in values.items()
        if isinstance(value, float)
    }


def vocabulary_of(opened: "Opened") -> tasks.Vocabulary | None:
    """The vocabulary that a run's caches were made with, where it is still to be found."""
    (manifest, *_) = opened.batches.mixture.manifests().values()
    try:
        return tasks.Vocabulary.load(opened.run.vocabulary or tasks.find_vocabulary(manifest))
    except VocabularyError:
        return None
