"""Do the data stages of a recipe write the same bytes with one worker, with two workers, and after a SIGKILL half-way?

    python benchmarks/jobs/byte_identity.py gin/recipes/real.gin --gin.CORPORA='"../shared/data"' \\
        --gin.CODE_ROOT='"/data/code"' --gin.OUTPUT='"out"'

The recipe must have run before: its outputs, written by one worker, are the reference. Each data stage runs again into
a scratch folder: once with `--direct_running_mode=multi_processing --direct_num_workers=2`, and once killed with
SIGKILL after half its usual time and restarted. Every file, including the manifest, is compared by SHA-256. After the
kill, the scratch folder must not pass for a finished output. Prints one JSON line.
"""

import argparse
import contextlib
import hashlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from castor.launch.recipes import recipes
from castor.tasks import configuration

TWO_WORKERS = ("--direct_running_mode=multi_processing", "--direct_num_workers=2")


def checksums(folder: pathlib.Path) -> dict[str, str]:
    """SHA-256 of every file under a folder, hidden ones included."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def start(stage: recipes.Stage, output: pathlib.Path, *beam: str) -> subprocess.Popen:
    """Starts the stage's command, redirected to `output`.

    The process has its own process group, so that a kill also ends its workers.
    """
    line = [argument for argument in recipes.command_line(stage) if not argument.startswith("--gin.OUTPUT=")]
    command = [sys.executable, "-P", "-m", "castor.launch.command", *line, f"--gin.OUTPUT={str(output)!r}", *beam]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True)


def finish(child: subprocess.Popen) -> None:
    error = child.stderr.read().decode(errors="replace")
    if child.wait() != 0:
        sys.exit(f"a stage failed:\n{error[-3000:]}")


def compare(stage: recipes.Stage, scratch: pathlib.Path) -> dict:
    """The result of one stage: seconds, and whether each variation wrote the same files."""
    expected = checksums(pathlib.Path(stage.output))
    if "manifest.json" not in expected:
        sys.exit(f"{stage.output} has no manifest: run the recipe first.")
    again = scratch / stage.name / "two_workers"
    started = time.monotonic()
    finish(start(stage, again, *TWO_WORKERS))
    seconds = time.monotonic() - started

    killed, patience = scratch / stage.name / "killed", seconds / 2
    while True:
        child = start(stage, killed)
        time.sleep(patience)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        visible = (killed / "manifest.json").exists() or (killed / "COMPLETED").exists()
        if not visible or checksums(killed) != expected:
            break
        shutil.rmtree(killed)  # the stage finished before the kill: try again earlier
        patience *= 0.8
    finish(start(stage, killed))
    return {
        "files": len(expected),
        "seconds": round(seconds, 1),
        "killed_after": round(patience, 1),
        "two_workers_identical": checksums(again) == expected,
        "half_written_visible": visible,
        "restarted_identical": checksums(killed) == expected,
        "sha256": hashlib.sha256(json.dumps(expected, sort_keys=True).encode()).hexdigest()[:16],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--only", default="", help="stages to check, separated by commas (default: every data stage)")
    flags, plain = configuration.split_flags(sys.argv[1:])
    arguments = parser.parse_args(plain)
    configuration.parse(configuration.Flags((arguments.recipe, *flags.files), flags.bindings, flags.search_paths))
    only = set(filter(None, arguments.only.split(",")))
    stages = [s for s in recipes.Recipe().resolved() if s.command[0] == "data" and (not only or s.name in only)]
    scratch = pathlib.Path(tempfile.mkdtemp(prefix="byte-identity-"))
    try:
        results = {}
        for stage in stages:
            results[stage.name] = compare(stage, scratch)
            print(stage.name, results[stage.name], file=sys.stderr)
            shutil.rmtree(scratch / stage.name)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    same = all(
        r["two_workers_identical"] and r["restarted_identical"] and not r["half_written_visible"]
        for r in results.values()
    )
    print(json.dumps({"benchmark": "byte_identity", "recipe": arguments.recipe, "identical": same, "stages": results}))
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
