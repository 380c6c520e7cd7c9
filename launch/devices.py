"""Command-line options that select devices, and the start of JAX on those devices.

JAX reads its environment once, at import. `start_jax` sets the environment and then imports JAX; no other function here
imports JAX.
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
    """Adds the options of a command that can run as several processes."""
    group = parser.add_argument_group("several processes, one per host")
    group.add_argument(
        "--coordinator",
        metavar="HOST:PORT",
        help="address of process 0, or 'auto' if the cluster provides the address (TPU pods, SLURM)",
    )
    group.add_argument("--num_processes", type=int, metavar="N", help="number of processes")
    group.add_argument("--process_id", type=int, metavar="I", help="index of this process, from 0")


def start_jax(arguments: argparse.Namespace) -> None:
    """Starts JAX on the selected devices and, with --coordinator, joins the other processes.

    arguments: parsed options of `add_arguments` and, optionally, of `add_process_arguments`.

    Raises ConfigurationError for --cpu_devices below 1 or an incomplete set of process options.
    """
    if arguments.cpu_devices is not None:
        if arguments.cpu_devices < 1:
            raise ConfigurationError(f"--cpu_devices={arguments.cpu_devices}.", "Give a positive number.")
        others = re.sub(r"--xla_force_host_platform_device_count=\d+", "", os.environ.get("XLA_FLAGS", ""))
        os.environ["XLA_FLAGS"] = f"{others} --xla_force_host_platform_device_count={arguments.cpu_devices}".strip()
        os.environ["JAX_PLATFORMS"] = "cpu"
    elif not has_accelerator():
        # With libtpu installed (for `castor compile`), JAX would try to load it, print warnings and take a second to
        # fall back to the CPU.
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
    import jax

    coordinator = getattr(arguments, "coordinator", None)
    if (arguments.cpu_devices or 1) > 1 or coordinator:
        # On several CPU devices, collectives of two steps in flight at once can deadlock.
        jax.config.update("jax_cpu_enable_async_dispatch", False)
    if coordinator == "auto":
        jax.distributed.initialize()
    elif coordinator:
        if arguments.num_processes is None or arguments.process_id is None:
            raise ConfigurationError("--coordinator needs --num_processes and --process_id.", "Give all three.")
        jax.distributed.initialize(coordinator, arguments.num_processes, arguments.process_id)


def start_jax_on_host() -> None:
    """Starts JAX on one CPU device, because host memory holds larger models than one accelerator does."""
    start_jax(argparse.Namespace(cpu_devices=1))


def has_accelerator() -> bool:
    """Whether this machine has the device file of a TPU driver (accel, vfio) or a GPU driver (nvidia, kfd, dxg)."""
    return any(
        path
        for pattern in ("accel*", "vfio/[0-9]*", "nvidia*", "kfd", "dxg")
        for path in pathlib.Path("/dev").glob(pattern)
    )
