"""A few pairs of concurrent writers: benchmarks/robustness/concurrent_writers.py runs a hundred of every kind."""

import json
import pathlib
import subprocess
import sys

BENCHMARK = pathlib.Path(__file__).resolve().parents[3] / "benchmarks" / "robustness" / "concurrent_writers.py"


def test_pairs_of_writers_lose_nothing(tmp_path):
    command = [sys.executable, "-P", str(BENCHMARK), "--pairs=2", "--kinds=web", "--seed=6", f"--work={tmp_path}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["failed"] == 0 and told["pairs"] == 2 and told["done"] + told["told"] + told["killed"] == 4
    assert told["told"] and told["killed"], "these pairs show nothing: take another seed"
