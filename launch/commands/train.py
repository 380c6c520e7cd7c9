"""`castor train`: a training run from gin flags, as one process or one of several.

JAX is imported only after the options that say on which devices it runs are known.
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
        help="begin with the parameters of another run, with a new optimizer and at step 0",
    )
    parser.add_argument(
        "--grow_vocabulary",
        action="store_true",
        help="with --warm_start: this vocabulary is that run's with ids added at its end",
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
            f"--{misplaced} trains nothing.", "It goes with --explain_sharding or --plan; to train, leave it out."
        )
    devices.start_jax(arguments)
    from castor.train import loop

    with _exits_alone(arguments):
        config = training_runs.configure(with_warm_start(arguments, flags))
        return 0 if loop.train(config) == config.train_steps else exit_codes.STOPPED


def _inspect(arguments: argparse.Namespace, flags: Flags) -> int:
    """--plan and --explain_sharding. JAX looks for the devices of this machine only where no others are named."""
    if arguments.plan or arguments.topology or arguments.cpu_devices:
        os.environ["JAX_PLATFORMS"] = "cpu"
    else:
        devices.start_jax(arguments)
    return (plan if arguments.plan else explain_sharding).run(arguments, flags)


def with_warm_start(arguments: argparse.Namespace, flags: Flags) -> Flags:
    """The flags with --warm_start and --grow_vocabulary as bindings, so that the configuration kept in MODEL_DIR has them too."""
    if arguments.grow_vocabulary and not arguments.warm_start:
        raise ConfigurationError(
            "--grow_vocabulary without --warm_start.", "Give the MODEL_DIR whose parameters the run begins with."
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
    """Lets one of several processes that fails exit at once: at a regular exit JAX would wait for the others, and they for it."""
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

        # A damaged checkpoint is quarantined: the next start can do better.
        bad_use = isinstance(error, CastorError) and not isinstance(error, DamagedCheckpoint)
        os._exit(exit_codes.BAD_USE if bad_use else exit_codes.FAILED)
