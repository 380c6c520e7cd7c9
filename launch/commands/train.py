"""`castor train`: parses the gin configuration into a `train.loop.Run` and runs it.

JAX is imported only here and after the number of virtual CPU devices is set, which it reads once.
"""

import argparse
import contextlib
import dataclasses
import os
import pathlib
import re
import signal
import sys
import traceback

from castor.launch.commands import explain_sharding, plan
from castor.tasks import configuration
from castor.tasks.configuration import Flags
from castor.tasks.errors import CastorError, ConfigurationError

STOPPED = 128 + signal.SIGTERM
"""The exit code of a run that SIGTERM stopped before its last step, after it has saved: the shell's for a process that SIGTERM ended (docs/training.md)."""

GIN_FILES = ("models/tiny.gin", "runs/pretrain.gin")
_REQUIRED = {
    "MODEL": "--gin_file=models/tiny.gin binds it",
    "MIXTURE_OR_TASK_NAME": "a mixture bound in gin, a task in TASKS_DIR, or the directory of a task cache",
    "MODEL_DIR": "where the run is kept: --gin.MODEL_DIR='\"model\"'",
}


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
    add_device_arguments(parser)
    group = parser.add_argument_group("several processes, one a host")
    group.add_argument(
        "--coordinator",
        metavar="HOST:PORT",
        help="address of process 0; 'auto' where the cluster tells it itself (TPU pods, SLURM)",
    )
    group.add_argument("--num_processes", type=int, metavar="N", help="number of processes")
    group.add_argument("--process_id", type=int, metavar="I", help="number of this process, from 0")
    explain_sharding.add_arguments(parser)
    plan.add_arguments(parser)


def add_device_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that say what JAX runs on."""
    parser.add_argument(
        "--cpu_devices",
        type=int,
        metavar="N",
        help="run on N virtual CPU devices (for trying meshes without accelerators)",
    )


def run(arguments: argparse.Namespace, flags: Flags) -> int:
    if arguments.explain_sharding or arguments.plan:
        return _look(arguments, flags.or_files(*GIN_FILES))
    misplaced = next((name for name in ("topology", "vocab_size", "flops", "days") if getattr(arguments, name)), None)
    if misplaced:
        raise ConfigurationError(
            f"--{misplaced} trains nothing.", "It goes with --explain_sharding or --plan; to train, leave it out."
        )
    start_jax(arguments)
    from castor.train import loop

    with _ends_alone(arguments):
        made = make_run(with_warm_start(arguments, flags.or_files(*GIN_FILES)))
        return 0 if loop.train(made) == made.train_steps else STOPPED


def _look(arguments: argparse.Namespace, flags: Flags) -> int:
    """What can be said of a run without running it. The devices of a run are asked for only where no others are named."""
    if arguments.plan or arguments.topology or arguments.cpu_devices:
        os.environ["JAX_PLATFORMS"] = "cpu"
    else:
        start_jax(arguments)
    return (plan if arguments.plan else explain_sharding).run(arguments, flags)


def with_warm_start(arguments: argparse.Namespace, flags: Flags) -> Flags:
    """The flags with what the command line says of a warm start, as bindings, so that the run's kept configuration says it too."""
    if arguments.grow_vocabulary and not arguments.warm_start:
        raise ConfigurationError(
            "--grow_vocabulary without --warm_start.", "Give the MODEL_DIR whose parameters the run begins with."
        )
    said = (
        f"train.loop.Run.warm_start = {arguments.warm_start!r}",
        f"train.loop.Run.grow_vocabulary = {arguments.grow_vocabulary}",
    )
    return dataclasses.replace(flags, bindings=(*flags.bindings, *said)) if arguments.warm_start else flags


@contextlib.contextmanager
def _ends_alone(arguments: argparse.Namespace):
    """One of several processes that fails ends at once: at its exit JAX would wait for the others, and they for it."""
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

        bad_use = isinstance(error, CastorError) and not isinstance(
            error, DamagedCheckpoint
        )  # that one is set aside: the next start can do better
        os._exit(2 if bad_use else 1)


def start_jax(arguments: argparse.Namespace) -> None:
    """Sets what JAX reads when it starts, and joins the other processes where there are some."""
    if arguments.cpu_devices is not None:
        if arguments.cpu_devices < 1:
            raise ConfigurationError(f"--cpu_devices={arguments.cpu_devices}.", "Give a positive number.")
        rest = re.sub(r"--xla_force_host_platform_device_count=\d+", "", os.environ.get("XLA_FLAGS", ""))
        os.environ["XLA_FLAGS"] = f"{rest} --xla_force_host_platform_device_count={arguments.cpu_devices}".strip()
        os.environ["JAX_PLATFORMS"] = "cpu"
    elif not _has_accelerator():
        # Where libtpu is installed for `castor compile`, JAX would load it, print what it does not find and take a second to fall back.
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
    import jax

    coordinator = getattr(arguments, "coordinator", None)
    if (arguments.cpu_devices or 1) > 1 or coordinator:
        # With several CPU devices, collectives of two steps in flight can wait for each other for ever.
        jax.config.update("jax_cpu_enable_async_dispatch", False)
    if coordinator == "auto":
        jax.distributed.initialize()
    elif coordinator:
        if arguments.num_processes is None or arguments.process_id is None:
            raise ConfigurationError("--coordinator needs --num_processes and --process_id.", "Give all three.")
        jax.distributed.initialize(coordinator, arguments.num_processes, arguments.process_id)


def _has_accelerator() -> bool:
    """Whether this machine shows a device file of a TPU (accel, vfio) or a GPU (nvidia, kfd, dxg): nothing can be driven without."""
    return any(
        path
        for pattern in ("accel*", "vfio/[0-9]*", "nvidia*", "kfd", "dxg")
        for path in pathlib.Path("/dev").glob(pattern)
    )


def make_run(flags: Flags):
    """The `train.loop.Run` that gin files and bindings describe. Raises ConfigurationError for what they leave open or misname."""
    from castor.train.loop import Run

    configuration.parse(flags)
    if not any(configuration.macro(name) is None for name in _REQUIRED):
        return Run()
    if not _binds_run(flags):
        raise ConfigurationError(
            f"{', '.join(flags.files)} binds no train.loop.Run.", "Add --gin_file=runs/pretrain.gin."
        )
    missing = next(name for name in _REQUIRED if configuration.macro(name) is None)
    raise ConfigurationError(
        f"gin macro {missing} is not bound in {', '.join(flags.files)} or on the command line.",
        f"It is {_REQUIRED[missing]}.",
    )


def _binds_run(flags: Flags) -> bool:
    return any("train.loop.Run." in text for text in configuration.texts(flags.files, flags.search_paths))
