"""SeqIO's evaluation with Castor's decoder: `seqio.Evaluator` calls a task's targets, postprocess_fn and metric_fns.

    metrics = TaskMetrics(["my_task"], "validation", examples=500)
    metrics(model)      # {"my_task": {"accuracy": 0.61, ...}}

A task has "targets" and optionally "inputs", in the model's vocabulary. Predict metrics get the most likely
continuation of the inputs up to eos. Score metrics get the log-probability of the targets given the inputs, summed over
tokens as in T5X. Imports SeqIO (and therefore TensorFlow) only when such tasks are evaluated.
"""

import importlib
import logging
from collections.abc import Mapping, Sequence

import numpy as np

from castor import tasks
from castor.tasks.errors import ConfigurationError, VocabularyError
from castor.train.inference.decode import Request
from castor.train.inference.grammar import Grammar
from castor.train.inference.inference import Model
from castor.train.inference.sampling import Sampling


def import_module(name: str) -> None:
    """Imports the module that registers tasks. Raises ConfigurationError if the import fails."""
    try:
        importlib.import_module(name)
    except ImportError as error:
        raise ConfigurationError(
            f"the module {name} cannot be imported: {error}.", "Install it, or put its folder on PYTHONPATH."
        ) from error


class TaskMetrics:
    """The metrics of SeqIO tasks and mixtures. Data are read once.

    names: names of registered tasks or mixtures.
    split: split to evaluate.
    examples: at most this many records of each task; None: all.
    max_tokens: length of a prediction; None: as long as the longest targets.
    sampling: how predictions are sampled; default: greedy.
    log_dir: folder in which SeqIO's JSONLogger writes metrics and predictions.
    use_cached: read the task's SeqIO cache.

    Raises ConfigurationError for tasks that cannot be evaluated.
    """

    def __init__(
        self,
        names: Sequence[str],
        split: str,
        examples: int | None = None,
        max_tokens: int | None = None,
        sampling: Sampling = Sampling(0),
        log_dir: str | None = None,
        use_cached: bool = False,
    ):
        if isinstance(names, str):
            raise ConfigurationError(f"tasks = {names!r} is a string.", "Give a list of names.")
        self._max_tokens, self._sampling = max_tokens, sampling
        self._evaluators = [_evaluator(name, split, examples, log_dir, use_cached) for name in names]
        self.prompts_cut = 0

    def __call__(self, model: Model, step: int | None = None) -> dict[str, dict[str, float | str]]:
        """{task: {metric: value}}.

        Afterwards `prompts_cut` is the number of prompts truncated from the left to fit the model.
        """
        self.prompts_cut = 0
        found: dict[str, dict[str, float | str]] = {}
        for evaluator in self._evaluators:
            for task in evaluator.eval_tasks:
                _check_vocabulary(task, model.vocabulary)
            answers = _PredictFunctions(model, self._sampling, self._max_tokens)
            metrics, _ = evaluator.evaluate(
                compute_metrics=True,
                step=model.step if step is None else step,
                predict_fn=answers.predict,
                score_fn=answers.score,
                predict_with_aux_fn=answers.predict_with_scores,
            )
            self.prompts_cut += answers.cut
            found |= {
                task: {name: _plain(value) for name, value in values.items()}
                for task, values in metrics.result().items()
            }
        return found


class _PredictFunctions:
    """The model functions that `seqio.Evaluator` calls: each takes an enumerated dataset of task features."""

    def __init__(self, model: Model, sampling: Sampling, max_tokens: int | None):
        self._model, self._sampling, self._max_tokens = model, sampling, max_tokens
        self.cut = 0

    def predict(self, dataset, model_feature_shapes=None) -> list[tuple[int, list[int]]]:
        return self._predict(list(dataset.as_numpy_iterator()))

    def score(self, dataset, model_feature_shapes=None) -> list[tuple[int, float]]:
        numbered = list(dataset.as_numpy_iterator())
        targets = [_ids(example, "targets") for _, example in numbered]
        return self._score(numbered, targets)

    def predict_with_scores(self, dataset, model_feature_shapes=None):
        """Predictions, and the log-probability of each as aux value "scores", as in T5X."""
        numbered = list(dataset.as_numpy_iterator())
        predicted = self._predict(numbered)
        continuations = [[i for i in ids if i != self._model.vocabulary.pad_id] for _, ids in predicted]
        return predicted, {"scores": [score for _, score in self._score(numbered, continuations)]}

    def _predict(self, numbered) -> list[tuple[int, list[int]]]:
        longest = max((len(_ids(example, "targets")) for _, example in numbered), default=0)
        limit = min(max(self._max_tokens or longest, 1), self._model.max_length)
        prompts = [self._prompt(example, limit) for _, example in numbered]
        requests = [Request(prompt, Grammar.anything(), self._sampling, limit) for prompt in prompts]
        answers = self._model.generate(requests)
        width = max(map(len, answers), default=0)
        pad = self._model.vocabulary.pad_id  # pad to one length, since SeqIO stacks them; decoding ends at eos
        return [(int(index), [*ids, *[pad] * (width - len(ids))]) for (index, _), ids in zip(numbered, answers)]

    def _score(self, numbered, continuations) -> list[tuple[int, float]]:
        prompts = [self._prompt(example, len(ids)) for (_, example), ids in zip(numbered, continuations)]
        scores = self._model.scorer(list(zip(prompts, continuations)))
        return [(int(index), score.total) for (index, _), score in zip(numbered, scores)]

    def _prompt(self, example: Mapping[str, np.ndarray], room: int) -> list[int]:
        """The inputs, truncated from the left if they leave less than `room` tokens."""
        ids = _ids(example, "inputs")
        most = max(self._model.max_length - room, 0)
        self.cut += len(ids) > most
        return ids[len(ids) - most :] if len(ids) > most else ids


def _evaluator(name: str, split: str, examples: int | None, log_dir: str | None, use_cached: bool):
    import seqio
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")  # the accelerators are JAX's
    logging.getLogger("absl").setLevel(logging.ERROR)

    class TaskFeatures(seqio.PassThroughFeatureConverter):
        """Keeps examples as the task gives them: inputs and targets separate, neither padded nor packed."""

        TASK_FEATURES = {}
        pack = False

    known = [*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()]
    if name not in known:
        import difflib

        close = difflib.get_close_matches(name, known, n=3)
        remedy = (
            f"Did you mean {' or '.join(close)}?"
            if close
            else "Import the module that registers the task: --module_import, or import in gin."
        )
        raise ConfigurationError(f"no SeqIO task or mixture is registered as {name!r}.", remedy)
    loggers = [seqio.loggers.JSONLogger] if log_dir else []
    try:
        made = seqio.Evaluator(
            name,
            TaskFeatures(),
            split,
            use_cached,
            num_examples=examples,
            logger_cls=loggers,
            log_dir=log_dir,
            async_compute_metrics=False,
        )
    except (ValueError, AssertionError, OSError) as error:
        first = str(error).splitlines()[0] if str(error) else repr(error)
        raise ConfigurationError(
            f"SeqIO cannot evaluate {name}: {first}", "Check the task's source and preprocessors."
        ) from error
    if not made.eval_tasks:
        raise ConfigurationError(
            f"{name} has no metric functions, or no split {split!r}.", "Give a task with metric_fns, and --split."
        )
    return made


def _check_vocabulary(task, vocabulary: tasks.Vocabulary) -> None:
    """Raises VocabularyError unless the task's ids are the model's ids."""
    for name in ("inputs", "targets"):
        feature = task.output_features.get(name)
        task_vocabulary = getattr(feature, "vocabulary", None)
        if task_vocabulary is not None and getattr(task_vocabulary, "fingerprint", None) != vocabulary.fingerprint:
            raise VocabularyError(
                f"task {task.name}: the {name} use {task_vocabulary!r}, not the model's vocabulary "
                f"{vocabulary.fingerprint}.",
                "Set the vocabulary of its features to "
                "tasks.seqio_vocabulary.SeqIOVocabulary.load(MODEL_DIR/vocabulary).",
            )


def _ids(example: Mapping[str, np.ndarray], feature: str) -> list[int]:
    return np.asarray(example[feature]).ravel().tolist() if feature in example else []


def _plain(value) -> float | str:
    """A metric's value for JSON: a number if possible, else the text that SeqIO's loggers would show."""
    value = getattr(value, "value", value)
    try:
        return float(value)
    except (TypeError, ValueError):
        return str(getattr(value, "textdata", value))
