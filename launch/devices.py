"""The devices of a command: the options that name them, and JAX started on them.

JAX reads its environment once, when it is imported: `start_jax` sets the environment and imports JAX. Nothing else here does.
"""

import argparse
import os
import pathlib
import re

from castor.tasks.errors import ConfigurationError


def add_arguments(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--cpu_devices",
        type=int,
        metavar="N",
        help="run on N virtual CPU devices (for trying meshes without accelerators)",
    )


def add_process_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of a command that can run as several processes."""
    group = parser.add_argument_group("several processes, one per host")
    group.add_argument(
        "--coordinator",
        metavar="HOST:PORT",
        help="address of process 0; 'auto' where the cluster provides it (TPU pods, SLURM)",
    )
    group.add_argument("--num_processes", type=int, metavar="N", help="number of processes")
    group.add_argument("--process_id", type=int, metavar="I", help="number of this process, from 0")


def start_jax(arguments: argparse.Namespace) -> None:
    """Starts JAX on the devices that the arguments name, and joins the other processes if --coordinator is given."""
    if arguments.cpu_devices is not None:
        if arguments.cpu_devices < 1:
            raise ConfigurationError(f"--cpu_devices={arguments.cpu_devices}.", "Give a positive number.")
        rest = re.sub(r"--xla_force_host_platform_device_count=\d+", "", os.environ.get("XLA_FLAGS", ""))
        os.environ["XLA_FLAGS"] = f"{rest} --xla_force_host_platform_device_count={arguments.cpu_devices}".strip()
        os.environ["JAX_PLATFORMS"] = "cpu"
    elif not has_accelerator():
        # Where libtpu is installed for `castor compile`, JAX would load it, print what it does not find and take a second to fall back.
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
    import jax

    coordinator = getattr(arguments, "coordinator", None)
    if (arguments.cpu_devices or 1) > 1 or coordinator:
        # With several CPU devices, collectives of two steps in flight can deadlock.
        jax.config.update("jax_cpu_enable_async_dispatch", False)
    if coordinator == "auto":
        jax.distributed.initialize()
    elif coordinator:
        if arguments.num_processes is None or arguments.process_id is None:
            raise ConfigurationError("--coordinator needs --num_processes and --process_id.", "Give all three.")
        jax.distributed.initialize(coordinator, arguments.num_processes, arguments.process_id)


def start_jax_on_host() -> None:
    """Starts JAX on one CPU device: host memory holds larger models than the memory of one accelerator."""
    start_jax(argparse.Namespace(cpu_devices=1))


def has_accelerator() -> bool:
    """Whether this machine has a device file of a TPU (accel, vfio) or a GPU (nvidia, kfd, dxg), which every driver needs."""
    return any(
        path
        for pattern in ("accel*", "vfio/[0-9]*", "nvidia*", "kfd", "dxg")
        for path in pathlib.Path("/dev").glob(pattern)
    )
