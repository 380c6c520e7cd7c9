"""A training run's configuration without its data, for commands that inspect a run instead of training.

These are castor compile, castor compile --search, castor train --plan and castor train --explain_sharding. The
vocabulary size comes from gin or the command line instead of the task caches. MIXTURE_OR_TASK_NAME and MODEL_DIR may be
unbound.
"""

import dataclasses

from castor.launch import training_runs
from castor.tasks import configuration
from castor.tasks.configuration import Flags
from castor.tasks.errors import ConfigurationError

PLACEHOLDERS = {"MIXTURE_OR_TASK_NAME": "castor-compile", "MODEL_DIR": "castor-compile"}
"""Placeholder values of unbound macros that only training reads."""


def configure(flags: Flags):
    """Parses gin flags and returns the `castor.train.run.RunConfig`, with `PLACEHOLDERS` for unbound macros."""
    configuration.parse(flags)
    unbound = tuple(f"{name} = {value!r}" for name, value in PLACEHOLDERS.items() if configuration.macro(name) is None)
    return training_runs.configure(dataclasses.replace(flags, bindings=(*unbound, *flags.bindings)))


def has_mixture(config) -> bool:
    """Whether the run's mixture is bound."""
    return config.mixture != PLACEHOLDERS["MIXTURE_OR_TASK_NAME"]


def largest_batch(config) -> int:
    """Rows of the largest batch in the run's batch size schedule."""
    from castor.tasks.mixing.schedule import BatchSizes

    return max(BatchSizes.of(config.batch_size).sizes)


def train_step(config, partitioner, vocab_size: int | None, domains: int):
    """Builds the run's TrainStep with the checks of `castor train`. Returns (TrainStep, tokens per row).

    config: the run's RunConfig.
    partitioner: mesh to build the step for.
    vocab_size: number of ids; None to take the number from gin or VOCABULARY.
    domains: number of domains whose losses are reported.

    Raises ConfigurationError if batch size, row length or model do not fit the mesh.
    """
    config.check_batch_size(partitioner)
    length = config.lengths.get("targets")
    if not length:
        raise ConfigurationError(
            f"TASK_FEATURE_LENGTHS = {dict(config.lengths)} has no 'targets'.",
            "Bind {'targets': L}, with L tokens per row.",
        )
    partitioner.check_divides({"TASK_FEATURE_LENGTHS['targets']": ("residual_length", length)})
    model = with_vocabulary_size(config, vocab_size)
    model.check_mesh(partitioner)
    return config.train_step(model, partitioner, domains), length


def with_vocabulary_size(config, vocab_size: int | None):
    """The run's model config with `vocab_size` ids; None takes the size from gin, or else from VOCABULARY."""
    return dataclasses.replace(
        config.model, vocab_size=vocab_size or config.model.vocab_size or _size_of_vocabulary(config)
    )


def _size_of_vocabulary(config) -> int:
    if config.vocabulary:
        from castor import tasks

        return tasks.Vocabulary.load(config.vocabulary).vocab_size
    raise ConfigurationError(
        "Transformer.vocab_size = 0 means the vocabulary size of the task caches, which this command does not read.",
        "Give --vocab_size=N, or bind VOCABULARY to the vocabulary's folder.",
    )
