"""End-to-end checks of caches, SeqIO and the trainer on a recipe's own caches.

    python benchmarks/jobs/end_to_end.py OUT      # OUT: output of `castor run`, with five caches in OUT/tasks

seqio      unmodified SeqIO, use_cached=True: each task yields exactly the cache's examples, and the mixture yields only
           those
shards     the rows of 2 and 4 data shards, combined, are the rows of one shard
restart    a training run killed with SIGKILL after a third of its steps and restarted writes the same metrics.jsonl as
           an uninterrupted run
mesh       8 virtual devices (2 data x 2 fsdp x 2 tensor) reproduce one device's losses over 20 float32 steps; prints
           the largest relative difference

The reference of each check is the plain way of doing the same. Training uses models/tiny.gin with 256 tokens per row
and 8 rows. Prints one JSON line.
"""

import collections
import json
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

import numpy as np

from castor import tasks
from castor.tasks.batches.catalog import Mixture, find_caches

DOMAINS = ("web", "code", "image", "audio", "video")
STEPS = 60


def check_seqio(tasks_dir: str) -> dict:
    """Counts the examples that SeqIO yields and compares each with the cache's own reader."""
    import seqio

    from castor.tasks.integrations import seqio_tasks

    seqio_tasks.register(tasks_dir)
    counts = {}
    for found in find_caches(tasks_dir):
        for split in found.manifest.splits:
            reader = tasks.CacheReader(found.directory, split)
            expected = [reader[i]["targets"].tobytes() for i in range(len(reader))]
            task = seqio.get_mixture_or_task(found.name)
            dataset = task.get_dataset(None, split=split, use_cached=True, shuffle=False, num_epochs=1)
            yielded = (
                [row["targets"].astype(reader[0]["targets"].dtype).tobytes() for row in dataset.as_numpy_iterator()]
                if expected
                else []
            )
            # As multisets: SeqIO interleaves the shards.
            assert collections.Counter(yielded) == collections.Counter(expected), (
                f"{found.name} {split}: SeqIO yields something else"
            )
            counts[f"{found.name}/{split}"] = len(yielded)
    name = seqio_tasks.register_mixture(tasks.resolve_mixture(Mixture("five", dict.fromkeys(DOMAINS, 1.0)), tasks_dir))
    dataset = seqio.get_mixture_or_task(name).get_dataset(
        None, split="train", use_cached=True, shuffle=False, num_epochs=1
    )
    mixed = collections.Counter(row["targets"].astype(np.int64).tobytes() for row in dataset.as_numpy_iterator())
    known = set()
    for found in find_caches(tasks_dir):
        reader = tasks.CacheReader(found.directory, "train")
        known.update(reader[i]["targets"].astype(np.int64).tobytes() for i in range(len(reader)))
    assert set(mixed) <= known, "the SeqIO mixture yields examples that no cache holds"
    return {**counts, "mixture/train": sum(mixed.values())}


def check_shards(tasks_dir: str) -> int:
    """Compares whole batches with batches combined from shards; returns their number."""
    mixture = tasks.resolve_mixture(dict.fromkeys(DOMAINS, 1.0), tasks_dir)
    lengths, compared = {"targets": 512}, 0
    whole = tasks.Batches(mixture, batch_size=8, lengths=lengths)
    for shards in (2, 4):
        parts = [
            tasks.Batches(mixture, batch_size=8, lengths=lengths, shard=shard, num_shards=shards)
            for shard in range(shards)
        ]
        for step in (0, 1, 17, 1000):
            expected, rows = whole.batch(step), [part.batch(step) for part in parts]
            for name, array in expected.items():
                assert np.array_equal(array, np.concatenate([row[name] for row in rows])), (name, step, shards)
            compared += 1
    return compared


def train(tasks_dir: str, model_dir: pathlib.Path, steps: int, *more: str) -> subprocess.Popen:
    bindings = {
        "MIXTURE_OR_TASK_NAME": "'five'", "TASKS_DIR": repr(tasks_dir), "MODEL_DIR": repr(str(model_dir)),
        "TRAIN_STEPS": steps, "BATCH_SIZE": 8,
        "TASK_FEATURE_LENGTHS": {"targets": 256}, "EVAL_PERIOD": 0, "CHECKPOINT_PERIOD": 10, "WARMUP_STEPS": 5,
    }  # fmt: skip
    files = [f"--gin_file={name}" for name in ("models/tiny.gin", "runs/pretrain.gin", "mixtures/five.gin")]
    command = [
        sys.executable,
        "-P",
        "-m",
        "castor.launch.command",
        "train",
        *files,
        *(f"--gin.{name}={value}" for name, value in bindings.items()),
        *more,
    ]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def finish(child: subprocess.Popen) -> None:
    error = child.stderr.read().decode(errors="replace")
    if child.wait() != 0:
        sys.exit(error[-3000:])


def losses(model_dir: pathlib.Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (model_dir / "metrics.jsonl").read_text().splitlines()]


def check_restart(tasks_dir: str, scratch: pathlib.Path) -> dict:
    finish(train(tasks_dir, scratch / "whole", STEPS))
    child = train(tasks_dir, scratch / "killed", STEPS)
    metrics = scratch / "killed" / "metrics.jsonl"
    while child.poll() is None and (not metrics.exists() or len(metrics.read_text().splitlines()) < STEPS // 3 + 3):
        time.sleep(0.05)
    child.send_signal(signal.SIGKILL)
    child.wait()
    at = len(metrics.read_text().splitlines())
    finish(train(tasks_dir, scratch / "killed", STEPS))
    whole = losses(scratch / "whole")
    return {
        "steps": len(whole),
        "killed_at": at,
        "identical": metrics.read_bytes() == (scratch / "whole" / "metrics.jsonl").read_bytes(),
    }


def check_mesh(tasks_dir: str, scratch: pathlib.Path) -> dict:
    finish(train(tasks_dir, scratch / "one", 20))
    finish(train(tasks_dir, scratch / "eight", 20, "--cpu_devices=8", "--gin.MESH={'data': 2, 'fsdp': 2, 'tensor': 2}"))
    one, eight = np.array(losses(scratch / "one")), np.array(losses(scratch / "eight"))
    return {"steps": len(one), "largest_relative_difference": float(np.max(np.abs(one - eight) / one))}


def main() -> int:
    if len(sys.argv) != 2 or sys.argv[1] in ("-h", "--help"):
        print(__doc__)
        return 2
    tasks_dir = str(pathlib.Path(sys.argv[1]) / "tasks")
    with tempfile.TemporaryDirectory(prefix="joints-") as scratch:
        result = {"benchmark": "joints"}
        for name, check in (
            ("shards", check_shards),
            ("restart", lambda d: check_restart(d, pathlib.Path(scratch))),
            ("mesh", lambda d: check_mesh(d, pathlib.Path(scratch))),
            ("seqio", check_seqio),
        ):
            result[name] = check(tasks_dir)
            print(name, result[name], file=sys.stderr)
    print(json.dumps(result))
    return 0 if result["restart"]["identical"] and result["mesh"]["largest_relative_difference"] < 1e-4 else 1


if __name__ == "__main__":
    sys.exit(main())
