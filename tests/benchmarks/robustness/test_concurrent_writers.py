"""One pair of concurrent writers: benchmarks/robustness/concurrent_writers.py runs a hundred, of every kind."""

import json
import pathlib
import subprocess
import sys

BENCHMARK = pathlib.Path(__file__).resolve().parents[3] / "benchmarks" / "robustness" / "concurrent_writers.py"


def test_a_pair_of_writers_loses_nothing(tmp_path):
    """With this seed the second writer comes early, the first one is killed half way, and a third one takes over."""
    command = [sys.executable, "-P", str(BENCHMARK), "--pairs=1", "--kinds=web", "--seed=3095", f"--work={tmp_path}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    counts = json.loads(done.stdout.splitlines()[-1])
    assert counts["failed"] == 0 and counts["pairs"] == 1 and counts["done"] + counts["told"] + counts["killed"] == 2
    assert counts["told"] and counts["killed"] and counts["taken_over"], f"these writers did not meet: {counts}"
