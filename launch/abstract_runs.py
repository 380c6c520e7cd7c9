"""A training run without its data, for commands that only look at it: castor compile, its search, and castor train --plan and --explain_sharding.

The vocabulary's size comes from gin or the command line instead of the task caches; mixture and MODEL_DIR may be unbound.
"""

import dataclasses

from castor.launch import training_runs
from castor.tasks import configuration
from castor.tasks.configuration import Flags
from castor.tasks.errors import ConfigurationError

PLACEHOLDERS = {"MIXTURE_OR_TASK_NAME": "castor-compile", "MODEL_DIR": "castor-compile"}
"""Values of the macros that only training reads, where they are unbound."""


def configure(flags: Flags):
    """The `castor.train.run.RunConfig` of gin flags, with placeholders for what only training reads."""
    configuration.parse(flags)
    unbound = tuple(f"{name} = {value!r}" for name, value in PLACEHOLDERS.items() if configuration.macro(name) is None)
    return training_runs.configure(dataclasses.replace(flags, bindings=(*unbound, *flags.bindings)))


def has_mixture(config) -> bool:
    """Whether the run's mixture is bound."""
    return config.mixture != PLACEHOLDERS["MIXTURE_OR_TASK_NAME"]


def largest_batch(config) -> int:
    """Rows of the largest batch in the run's table of batch sizes."""
    from castor.tasks.mixing.schedule import BatchSizes

    return max(BatchSizes.of(config.batch_size).sizes)


def train_step(config, partitioner, vocab_size: int | None, domains: int):
    """(TrainStep on the partitioner's mesh, tokens per row), with the checks of `castor train`.

    vocab_size: ids, where it is not what gin says. domains: number of domains whose losses are reported.
    """
    config.check_batch_size(partitioner)
    length = config.lengths.get("targets")
    if not length:
        raise ConfigurationError(
            f"TASK_FEATURE_LENGTHS = {dict(config.lengths)} has no 'targets'.",
            "Bind {'targets': L}, the tokens of a row.",
        )
    partitioner.check_divides({"TASK_FEATURE_LENGTHS['targets']": ("residual_length", length)})
    model = with_vocabulary_size(config, vocab_size)
    model.check_mesh(partitioner)
    return config.train_step(model, partitioner, domains), length


def with_vocabulary_size(config, vocab_size: int | None):
    """The run's model with `vocab_size` ids; None takes gin's number, or that of the vocabulary bound to VOCABULARY."""
    return dataclasses.replace(
        config.model, vocab_size=vocab_size or config.model.vocab_size or _size_of_vocabulary(config)
    )


def _size_of_vocabulary(config) -> int:
    if config.vocabulary:
        from castor import tasks

        return tasks.Vocabulary.load(config.vocabulary).vocab_size
    raise ConfigurationError(
        "Transformer.vocab_size is 0, which takes the size of the vocabulary of the task caches, and none are read here.",
        "Give --vocab_size=N, or bind VOCABULARY to the vocabulary's folder.",
    )
