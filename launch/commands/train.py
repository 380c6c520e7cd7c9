"""`castor train`: a training run from gin flags, in one process or as one of several.

JAX is imported only after the options that select its devices are parsed.
"""

import argparse
import contextlib
import os
import sys
import traceback

from castor.launch import devices, exit_codes, training_runs
from castor.launch.commands import explain_sharding, plan
from castor.tasks.configuration import Flags
from castor.tasks.errors import CastorError, ConfigurationError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--warm_start",
        metavar="MODEL_DIR[@STEP]",
        help="start from another run's parameters, with a fresh optimizer, at step 0",
    )
    parser.add_argument(
        "--grow_vocabulary",
        action="store_true",
        help="with --warm_start: the vocabulary is the other run's plus ids appended at the end",
    )
    devices.add_arguments(parser)
    devices.add_process_arguments(parser)
    explain_sharding.add_arguments(parser)
    plan.add_arguments(parser)


def run(arguments: argparse.Namespace, flags: Flags) -> int:
    flags = flags.or_files(*training_runs.GIN_FILES)
    if arguments.explain_sharding or arguments.plan:
        return _inspect(arguments, flags)
    misplaced = next((name for name in ("topology", "vocab_size", "flops", "days") if getattr(arguments, name)), None)
    if misplaced:
        raise ConfigurationError(
            f"--{misplaced} is not an option of training.", "Add --explain_sharding or --plan, or leave it out."
        )
    devices.start_jax(arguments)
    from castor.train import loop

    with _exits_alone(arguments):
        config = training_runs.configure(with_warm_start(arguments, flags))
        return 0 if loop.train(config) == config.train_steps else exit_codes.STOPPED


def _inspect(arguments: argparse.Namespace, flags: Flags) -> int:
    """Runs --plan or --explain_sharding. JAX starts on this machine's devices only if no other devices are given."""
    if arguments.plan or arguments.topology or arguments.cpu_devices:
        os.environ["JAX_PLATFORMS"] = "cpu"
    else:
        devices.start_jax(arguments)
    return (plan if arguments.plan else explain_sharding).run(arguments, flags)


def with_warm_start(arguments: argparse.Namespace, flags: Flags) -> Flags:
    """Turns --warm_start and --grow_vocabulary into bindings, so that the configuration kept in MODEL_DIR has them."""
    if arguments.grow_vocabulary and not arguments.warm_start:
        raise ConfigurationError(
            "--grow_vocabulary needs --warm_start.", "Give --warm_start=MODEL_DIR of the run to start from."
        )
    if not arguments.warm_start:
        return flags
    return training_runs.with_bindings(
        flags,
        f"train.loop.Run.warm_start = {arguments.warm_start!r}",
        f"train.loop.Run.grow_vocabulary = {arguments.grow_vocabulary}",
    )


@contextlib.contextmanager
def _exits_alone(arguments: argparse.Namespace):
    """Makes one of several processes exit at once when it fails.

    At a regular exit JAX would wait for the other processes, while they wait for this one in a collective.
    """
    try:
        yield
    except BaseException as error:
        if not arguments.coordinator:
            raise
        if isinstance(error, CastorError):
            print(f"castor: error: {' '.join(str(error).split())}", file=sys.stderr)
        else:
            traceback.print_exception(error)
        sys.stdout.flush()
        sys.stderr.flush()
        from castor.train.checkpoints.checkpoints import DamagedCheckpoint

        # A damaged checkpoint has been quarantined, so the next start resumes from an earlier one.
        bad_use = isinstance(error, CastorError) and not isinstance(error, DamagedCheckpoint)
        os._exit(exit_codes.BAD_USE if bad_use else exit_codes.FAILED)
