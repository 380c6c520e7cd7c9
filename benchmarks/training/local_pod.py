"""Do several hosts reproduce the losses of one process, also if mesh and host count change during the run?

    python benchmarks/training/local_pod.py --tasks_dir=real/tasks --output=pods

Trains models/tiny.gin on the five domains of mixtures/five.gin for a few steps: once on one device; then, for each
mesh, as one process with eight devices and as `castor launch local --hosts=4 --devices_per_host=2`; and once in three
phases on 4 hosts x 2 devices, 1 x 1 and 2 x 4, each resumed from the checkpoint of the previous phase.

Prints one JSON line with, for each run, the largest relative difference of a step's loss and whether all losses are
bit-identical.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys

MESHES = (
    {"data": 8},
    {"data": 2, "fsdp": 2, "tensor": 2},
    {"data": 4, "context": 2},
    {"fsdp": 8},
    {"fsdp": 4, "sequence": 2},
    {"data": 4, "tensor": 2},
)


def train(
    arguments: argparse.Namespace, name: str, steps: int, mesh: dict[str, int], hosts: int, devices: int
) -> list[float]:
    """Trains up to `steps` in the folder `name` and returns the losses of all its steps."""
    folder = (arguments.output / name).resolve()
    bindings = {
        "TASKS_DIR": str(pathlib.Path(arguments.tasks_dir).resolve()),
        "MODEL_DIR": str(folder),
        "TRAIN_STEPS": steps,
        "WarmupCosine.total_steps": arguments.steps,
        "BATCH_SIZE": arguments.batch_size,
        "TASK_FEATURE_LENGTHS": {"targets": arguments.length},
        "EVAL_PERIOD": 0,
        "MESH": mesh,
    }
    files = [f"--gin_file={file}" for file in ("models/tiny.gin", "runs/pretrain.gin", "mixtures/five.gin")]
    run = ["train", *files, *(f"--gin.{key}={value!r}" for key, value in bindings.items())]
    pod = (
        ["launch", "local", f"--hosts={hosts}", f"--devices_per_host={devices}", *run]
        if hosts > 1
        else [*run, f"--cpu_devices={devices}"]
    )
    done = subprocess.run(
        [sys.executable, "-P", "-m", "castor.launch.command", *pod],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    if done.returncode:
        sys.exit(f"{name} failed:\n{done.stderr[-2000:]}")
    print(name, file=sys.stderr, flush=True)
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def compared(losses: list[float], reference: list[float]) -> dict:
    assert len(losses) == len(reference)
    return {
        "same_bits": losses == reference,
        "largest_relative_difference": max(abs(a - b) / b for a, b in zip(losses, reference)),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks_dir", required=True)
    parser.add_argument("--output", required=True, type=pathlib.Path)
    parser.add_argument("--steps", type=int, default=9)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--meshes", type=int, default=len(MESHES), help="how many of the meshes")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True)

    one = train(arguments, "one_device", arguments.steps, {}, 1, 1)
    meshes = {}
    for mesh in MESHES[: arguments.meshes]:
        name = "_".join(f"{axis}{size}" for axis, size in mesh.items())
        process = train(arguments, f"{name}_one_process", arguments.steps, mesh, 1, 8)
        pod = train(arguments, f"{name}_four_hosts", arguments.steps, mesh, 4, 2)
        meshes[name] = {
            "hosts_against_one_process": compared(pod, process),
            "hosts_against_one_device": compared(pod, one),
        }
    third = arguments.steps // 3
    train(arguments, "moving", third, {"data": 2, "fsdp": 2, "tensor": 2}, 4, 2)
    train(arguments, "moving", 2 * third, {}, 1, 1)
    moving = train(arguments, "moving", arguments.steps, {"fsdp": 4, "tensor": 2}, 2, 4)
    result = {
        "benchmark": "local_pod",
        "meshes_of_8": meshes,
        "moved_4x2_to_1x1_to_2x4": compared(moving, one),
        "settings": {name: getattr(arguments, name) for name in ("steps", "batch_size", "length")},
        "cores": os.cpu_count(),
    }
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
