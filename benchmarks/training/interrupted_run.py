"""Is a run that SIGKILL interrupted three times bit-identical to an uninterrupted run?

    # the caches
    castor run gin/recipes/real.gin --gin.CORPORA='"../shared/data"' --gin.CODE_ROOT='"/data/code"' \\
        --gin.OUTPUT='"real"' --jobs=1
    python benchmarks/training/interrupted_run.py --tasks_dir=real/tasks --output=runs

Trains models/tiny.gin on the five domains of mixtures/five.gin twice, side by side: once from start to end, and once
killed and restarted by the same command. Kills happen at a random step of each third of the run, at a random moment of
the step. The second kill waits for the write of a checkpoint. Compared are the bytes of metrics.jsonl and
evaluation.jsonl, and the checksums of all parameters and optimizer state after the last step.

Prints one JSON line, with the held-out loss by domain. An existing --output is an error, so that nothing is compared
with files of an earlier call.
"""

import argparse
import importlib.metadata
import json
import os
import pathlib
import platform
import random
import signal
import subprocess
import sys
import time

from castor.train.checkpoints.checkpoints import PREFIX, CheckpointStore

_KILLS = (("random", 0.05, 0.3), ("checkpoint write", 0.35, 0.6), ("random", 0.65, 0.95))


def command(arguments: argparse.Namespace, model_dir: pathlib.Path) -> list[str]:
    bindings = {
        "TASKS_DIR": str(pathlib.Path(arguments.tasks_dir).resolve()),
        "MODEL_DIR": str(model_dir),
        "TRAIN_STEPS": arguments.steps,
        "BATCH_SIZE": arguments.batch_size,
        "TASK_FEATURE_LENGTHS": {"targets": arguments.length},
        "CHECKPOINT_PERIOD": arguments.checkpoint_period,
        "EVAL_PERIOD": arguments.evaluation_period,
        "EVAL_STEPS": arguments.evaluation_steps,
    }
    files = [f"--gin_file={name}" for name in ("models/tiny.gin", "runs/pretrain.gin", "mixtures/five.gin")]
    return [
        sys.executable,
        "-P",
        "-m",
        "castor.launch.command",
        "train",
        *files,
        *(f"--gin.{name}={value!r}" for name, value in bindings.items()),
        *arguments.gin,
    ]


def start(arguments: argparse.Namespace, model_dir: pathlib.Path) -> subprocess.Popen:
    log = open(model_dir.with_suffix(".log"), "ab")
    return subprocess.Popen(command(arguments, model_dir), stdout=log, stderr=log)


def steps_done(model_dir: pathlib.Path) -> int:
    path = model_dir / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def unfinished(model_dir: pathlib.Path) -> list[pathlib.Path]:
    return list(model_dir.glob(f"{PREFIX}_*.orbax-checkpoint-tmp*"))


def kill_at(child: subprocess.Popen, model_dir: pathlib.Path, moment: str, step: int, chance: random.Random) -> dict:
    """Kills the run some time after `step` steps, and reports what the run left."""
    while steps_done(model_dir) < step:
        if child.poll() is not None:
            sys.exit(f"the run ended by itself: see {model_dir.with_suffix('.log')}")
        time.sleep(0.02)
    if moment == "random":
        time.sleep(chance.uniform(0, 2))
    else:
        while not unfinished(model_dir):
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.05))
    child.send_signal(signal.SIGKILL)
    child.wait()
    whole = sorted(
        int(path.name.rpartition("_")[2])
        for path in model_dir.glob(f"{PREFIX}_*")
        if path.name.rpartition("_")[2].isdigit()
    )
    reached = steps_done(model_dir)
    return {
        "moment": moment,
        "steps_done": reached,
        "left_unfinished": [path.name.partition(".")[0] for path in unfinished(model_dir)],
        "goes_on_from": whole[-1] if whole else 0,
        "steps_done_again": reached - (whole[-1] if whole else 0),
    }


def state_checksums(model_dir: pathlib.Path, step: int) -> dict:
    store = CheckpointStore(str(model_dir), read_only=True)
    try:
        return store.metadata(step)["checksums"]
    finally:
        store.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks_dir", required=True)
    parser.add_argument("--output", required=True, type=pathlib.Path)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch_size", type=int, default=4)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--checkpoint_period", type=int, default=50)
    parser.add_argument("--evaluation_period", type=int, default=200)
    parser.add_argument("--evaluation_steps", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills")
    arguments, arguments.gin = parser.parse_known_args()
    arguments.output.mkdir(parents=True)
    chance = random.Random(arguments.seed)
    begun = time.monotonic()
    whole_dir, cut_dir = arguments.output.resolve() / "whole", arguments.output.resolve() / "interrupted"

    whole = start(arguments, whole_dir)
    kills = []
    for moment, early, late in _KILLS:
        step = chance.randint(int(early * arguments.steps), int(late * arguments.steps))
        kills.append(kill_at(start(arguments, cut_dir), cut_dir, moment, step, chance))
        print(kills[-1], file=sys.stderr, flush=True)
    last = start(arguments, cut_dir)
    if last.wait() or whole.wait():
        sys.exit(f"a run failed: see {arguments.output}/*.log")

    sums = [state_checksums(folder, arguments.steps) for folder in (whole_dir, cut_dir)]
    completed = json.loads((whole_dir / "COMPLETED").read_bytes())
    files = ("metrics.jsonl", "evaluation.jsonl", "COMPLETED")
    identical = {name: (whole_dir / name).read_bytes() == (cut_dir / name).read_bytes() for name in files}
    identical["parameters and optimizer state"] = sums[0] == sums[1]
    held_out = [json.loads(line) for line in (whole_dir / "evaluation.jsonl").read_text().splitlines()]
    tokens = [json.loads(line) for line in (whole_dir / "metrics.jsonl").read_text().splitlines()]
    result = {
        "benchmark": "interrupted_run",
        "identical": all(identical.values()),
        "compared": identical,
        "kills": kills,
        "parameters_checksum": completed["parameters"],
        "settings": {name: value for name, value in vars(arguments).items() if isinstance(value, int)},
        "tokens": {
            key: sum(row.get(key, 0) for row in tokens)
            for key in sorted({key for row in tokens for key in row if key.startswith("tokens")})
        },
        "held_out": [
            {key: value if key == "step" else round(value, 4) for key, value in row.items()} for row in held_out
        ],
        "minutes_side_by_side": round((time.monotonic() - begun) / 60, 1),
        "machine": {
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "versions": {name: importlib.metadata.version(name) for name in ("jax", "flax", "orbax-checkpoint")},
        },
    }
    print(json.dumps(result))
    return 0 if result["identical"] else 1


if __name__ == "__main__":
    sys.exit(main())
