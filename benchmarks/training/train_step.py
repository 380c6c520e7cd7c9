"""Overhead of Castor's training loop on a CPU over a plain JAX loop of the same shape: start-up time and step time.

    python benchmarks/training/train_step.py
    python benchmarks/training/train_step.py --rounds=5 --steps=40

By default: width 256, 4 layers, 8 heads of 32, MLP 1024, vocabulary 32128, batch 16 x 256.

bare: benchmarks/training/bare_jax.py, one file of JAX and optax.
castor: `castor train` on a task cache, with packing, metrics, progress line, TensorBoard and asynchronous checkpoints
    (one in the middle of the timed steps, one at the end).

Each contender runs in its own process; the two alternate for --rounds. Nothing is kept between processes, not even a
compilation cache. Castor computes the loss in chunks of --loss_chunk tokens, which a plain loop does not do. With 0,
both hold the logits of the whole batch.

first_step_s: from the start of the process until the first step has finished (for Castor: until its line of metrics is
    on disk).
step_ms: median over the rounds of the median step after the first --warm_up steps. Castor writes a step's metrics as
    soon as they exist, so the times at which lines of metrics.jsonl appear are the times at which steps end.

Prints one JSON line.
"""

import argparse
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time

import numpy as np

HERE = pathlib.Path(__file__).resolve().parent
sys.path.append(str(HERE.parent / "batches"))
import synthetic  # noqa: E402

SHAPE = dict(width=256, layers=4, heads=8, kv_heads=1, head_dim=32, mlp=1024, vocabulary=32128, batch=16, length=256)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in SHAPE.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--warm_up", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--loss_chunk",
        type=int,
        default=1024,
        help="tokens whose logits Castor holds at once; 0: all, as the plain loop does",
    )
    parser.add_argument("--gin", action="append", default=[], help="more bindings for castor train, NAME=VALUE")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        cache = f"{folder}/cache"
        synthetic.VOCABULARY_SIZE = options.vocabulary
        sizes = synthetic.lengths(np.random.default_rng(0), 4000)
        synthetic.write_cache(cache, sizes, 2)
        runs = {"bare": [], "castor": []}
        for number in range(options.rounds):
            runs["bare"].append(bare(options))
            runs["castor"].append(castor(options, cache, f"{folder}/model_{number}"))
    rows = {name: summary(done, options.warm_up) for name, done in runs.items()}
    result = {
        "benchmark": "train_step",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "shape": {name: getattr(options, name) for name in SHAPE},
        **rows,
        "first_step_ratio": round(rows["castor"]["first_step_s"] / rows["bare"]["first_step_s"], 3),
        "step_ratio": round(rows["castor"]["step_ms"] / rows["bare"]["step_ms"], 3),
    }
    print(json.dumps(result))


def summary(runs: list[list[float]], warm_up: int) -> dict[str, float]:
    """runs: for each round the seconds at which its steps were done."""
    steps = [statistics.median(np.diff(done)[warm_up:]) for done in runs]
    return {
        "first_step_s": round(statistics.median(done[0] for done in runs), 2),
        "step_ms": round(statistics.median(steps) * 1e3, 1),
        "mean_step_ms": round(
            statistics.median((done[-1] - done[warm_up]) / (len(done) - 1 - warm_up) for done in runs) * 1e3, 1
        ),
        "rounds_step_ms": [round(step * 1e3, 1) for step in steps],
        "rounds_first_step_s": [round(done[0], 2) for done in runs],
    }


def environment() -> dict[str, str]:
    return {**os.environ, "JAX_PLATFORMS": "cpu", "BENCHMARK_START": repr(time.time())}


def bare(options: argparse.Namespace) -> list[float]:
    shape = [f"--{name}={getattr(options, name)}" for name in (*SHAPE, "steps")]
    run = subprocess.run(
        [sys.executable, str(HERE / "bare_jax.py"), *shape],
        env=environment(),
        check=True,
        capture_output=True,
        text=True,
    )
    return json.loads(run.stdout.splitlines()[-1])["done"]


def castor(options: argparse.Namespace, cache: str, model_dir: str) -> list[float]:
    """The seconds at which the lines of metrics.jsonl appeared."""
    o, model = options, "train.model.Transformer"
    bindings = {
        "MIXTURE_OR_TASK_NAME": f'"{cache}"', "MODEL_DIR": f'"{model_dir}"', "TRAIN_STEPS": o.steps,
        "BATCH_SIZE": o.batch,
        "TASK_FEATURE_LENGTHS": f"{{'targets': {o.length}}}", "EVAL_PERIOD": 0, "CHECKPOINT_PERIOD": o.steps // 2,
        "LEARNING_RATE": 3e-3,
        f"{model}.embed": o.width, f"{model}.layers": o.layers, f"{model}.heads": o.heads,
        f"{model}.kv_heads": o.kv_heads,
        f"{model}.head_dim": o.head_dim, f"{model}.mlp": o.mlp, f"{model}.remat": '"none"',
        f"{model}.loss_chunk": o.loss_chunk,
    }  # fmt: skip
    flags = [f"--gin.{name}={value}" for name, value in bindings.items()] + [f"--gin.{text}" for text in o.gin]
    files = ["--gin_file=models/tiny.gin", "--gin_file=runs/pretrain.gin"]
    found: list[float] = []
    process = None

    def watch(start: float) -> None:
        path = pathlib.Path(model_dir) / "metrics.jsonl"
        while len(found) < o.steps and process.poll() is None:
            time.sleep(0.002)
            lines = path.read_bytes().count(b"\n") if path.exists() else 0
            found.extend([time.time() - start] * (lines - len(found)))

    variables = environment()
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "castor.launch.command", "train", *files, *flags],
        env=variables,
        stderr=subprocess.PIPE,
        cwd=HERE.parents[1],
    )
    watcher = threading.Thread(target=watch, args=(float(variables["BENCHMARK_START"]),))
    watcher.start()
    errors = process.communicate()[1]
    watcher.join()
    if process.returncode or len(found) < o.steps:
        raise SystemExit(
            f"castor train ended with {process.returncode} after {len(found)} steps:\n{errors.decode()[-2000:]}"
        )
    return found


if __name__ == "__main__":
    main()
