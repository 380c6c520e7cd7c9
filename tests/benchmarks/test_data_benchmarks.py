"""The benchmarks of the data plane run at toy sizes, in their own processes, and print the documented results."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

BENCHMARKS = pathlib.Path(__file__).resolve().parents[2] / "benchmarks"
MEASURED = {"start_s", "reach_s", "tokens_per_cpu_s", "tokens_per_wall_s", "fill", "cut"}


def run(script: str, work: pathlib.Path, *more) -> list[dict]:
    command = [sys.executable, str(BENCHMARKS / script), "--work", str(work), *map(str, more)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONWARNINGS": "ignore"})
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def batches(work: pathlib.Path, contenders: str) -> dict[str, dict]:
    sizes = (
        "--tokens",
        60_000,
        "--shards",
        2,
        "--length",
        256,
        "--batch",
        2,
        "--rounds",
        1,
        "--seconds",
        0.1,
        "--reach",
        3,
        "--far",
        50,
    )
    *lines, summary = run("batches/batches.py", work, *sizes, "--contenders", contenders)
    assert summary["corpus"]["documents"] > 50 and set(summary["machine"]) >= {"cpu", "cores", "versions"}
    measured = {line["contender"]: line for line in lines}
    assert ",".join(measured) == contenders
    assert all(set(line) >= MEASURED for line in lines)
    return measured


def test_batches_with_seqio(tmp_path):
    measured = batches(tmp_path, "castor,seqio")
    assert measured["castor"]["cut"] == 0 and measured["castor"]["fill"] > 0.9
    assert measured["seqio"]["cut"] == 0 and measured["seqio"]["lost"] > 0


def test_batches_with_grain(tmp_path):
    pytest.importorskip("grain")
    measured = batches(tmp_path, "castor_concat_and_split,grain_first_fit")
    assert measured["castor_concat_and_split"]["cut"] > 0
    assert measured["grain_first_fit"]["cut"] == 0


def test_seek(tmp_path):
    sizes = ("--shards", 6, "--records", 50, "--components", 2, "--distinct", 2)
    (line,) = run("batches/seek.py", tmp_path, *sizes, "--length", 256, "--batch", 2, "--step", 1000, "--processes", 1)
    assert line["records"] == 300
    for state in ("cold", "planned", "warm"):
        assert line["batch_2"][state]["occurrences"] > 0 and line["batch_2"][state]["fill"] > 0.9


def test_code_job(tmp_path):
    import importlib.metadata
    import tarfile

    distribution = importlib.metadata.distribution("jinja2")
    (tmp_path / "in").mkdir()
    with tarfile.open(tmp_path / "in" / "jinja2.tar.gz", "w:gz") as archive:
        for file in distribution.files or ():
            if ".." not in file.parts and file.suffix in (".py", ".txt") and file.locate().is_file():
                archive.add(file.locate(), arcname=f"jinja2/{file}", recursive=False)
    command = [
        sys.executable,
        str(BENCHMARKS / "code/code_job.py"),
        f"--corpus={tmp_path / 'in'}",
        "--files=20",
        "--rounds=1",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    result = json.loads(done.stdout)
    assert {"read", "parse", "secrets", "generated", "stack", "licence", "all"} <= set(result["stages"])
    assert (
        all(stage["files_per_cpu_s"] > 0 for stage in result["stages"].values())
        and result["comments"]["same_verdict"] > 0.9
    )
    job = result["job"]
    assert (
        job["languages"]["python"]["kept"] > 10
        and sum(language["kept"] for language in job["languages"].values()) == job["funnel"]["kept"]
    )
