"""A few hundred damaged inputs through the real jobs.

Runs benchmarks/robustness/fuzz.py at a small scale, for one kind of input at a time.
"""

import json
import os
import pathlib
import subprocess
import sys

import pytest

BENCHMARKS = pathlib.Path(__file__).resolve().parents[3] / "benchmarks" / "robustness"


@pytest.mark.parametrize(("kind", "inputs"), [("warc", 100), ("html", 80), ("jsonl", 20), ("tar", 60), ("source", 60)])
def test_every_document_of_damaged_inputs_is_accounted_for(tmp_path, real_data_if_present, kind, inputs):
    share = {"warc": 0.4, "html": 0.25, "jsonl": 0.05, "tar": 0.2, "source": 0.1}[kind]
    command = [
        sys.executable,
        str(BENCHMARKS / "fuzz.py"),
        "--kinds",
        kind,
        "--inputs",
        str(round(inputs / share)),
        "--seed",
        "1",
        "--work",
        str(tmp_path),
    ]
    done = subprocess.run(
        [*command, "--data", real_data_if_present],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout)["kinds"][kind]
    assert result["inputs"] == inputs and result["adds_up"] and not result["failed"]
    assert result["read"] >= inputs and result["dead_letters"] + result["rejected"] > 0
    assert result["neighbours_lost"] == result["members_lost"] == 0
