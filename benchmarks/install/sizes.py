"""Size of every way to install Castor, and what the core alone can do.

    python benchmarks/install/sizes.py [--extras=,data,train,seqio,all] [--python=3.11] [--steps=200]

For every list of extras (the empty one is the core), uv installs a wheel of this checkout with the locked versions into
a fresh environment. Reported for each: the number of packages, including Castor; their size on disk before bytecode
compilation; the time of `import castor.tasks` and of importing `tasks.Batches` (median of five processes, without the
interpreter's start). In the core, a plain loop then writes a cache, reads the cache through `tasks.Batches` and
measures tokens per second. If PyTorch is installed (--extras=torch), the loop runs through
castor.tasks.integrations.torch.

Prints one JSON line per environment, then the table of docs/dependencies.md. Sizes are in MB of 10^6 bytes. Needs uv
and, for packages missing from uv's cache, a package registry.
"""

import argparse
import json
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
IMPORTS = {"import_ms": "import castor.tasks", "batches_ms": "from castor.tasks import Batches, Mixture"}
LOOP = """
import hashlib, json, sys, tempfile, time
import numpy as np
from castor import tasks
from castor.tasks.cache import layout, writer
from castor.tasks.errors import CastorError

folder, steps = tempfile.mkdtemp(dir=sys.argv[1]) + "/toy", int(sys.argv[2])
staging = writer.begin(folder)
records = []
for number in range(2000):
    document = hashlib.sha256(b"%d" % number).hexdigest()[:32]
    tokens = (np.arange(1 + number * 7919 % 600, dtype=np.int64) * 31 + number) % 30_000 + 2
    records.append(layout.Record(document, f"made://{number}", {"targets": tokens}))
entries = [writer.write_shard(staging, "train", 0, 1, records, layout.TARGETS, seed=0)]
vocabulary = {"path": "none", "fingerprint": "f", "size": 32_768}
facts = dict(name="toy", modality="text", vocabulary=vocabulary)
writer.commit(staging, folder, writer.build_manifest(entries=entries, features=layout.TARGETS, seed=0, **facts))

mixture = tasks.Mixture("toy", {"toy": 1.0}, cache_dirs=(folder.rpartition("/")[0],))
options = dict(batch_size=16, lengths={"targets": 1024}, seed=0)
try:
    from castor.tasks.integrations.torch import BatchDataset
    import torch.utils.data
    loop, kind = torch.utils.data.DataLoader(BatchDataset(mixture, steps, **options), batch_size=None), "torch"
except CastorError:
    batches = tasks.Batches(mixture, **options)
    loop, kind = (batches.batch(step) for step in range(steps)), "plain"
started, tokens = time.perf_counter(), 0
for batch in loop:
    tokens += int((batch["decoder_loss_weights"] > 0).sum())
seconds = time.perf_counter() - started
print(json.dumps({"loop": kind, "steps": steps, "tokens": tokens, "tokens_per_s": round(tokens / seconds)}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--extras", default=",data,train,seqio,all", help="comma-separated; a plus joins several")
    parser.add_argument("--python", default=f"{sys.version_info.major}.{sys.version_info.minor}")
    parser.add_argument("--steps", type=int, default=200)
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        work = pathlib.Path(scratch)
        checkout = copy_of_checkout(work / "checkout")
        for extras in arguments.extras.split(","):
            rows.append(measure(checkout, extras.replace("+", ","), arguments.python, work, arguments.steps))
            print(json.dumps(rows[-1]), flush=True)
            shutil.rmtree(work / "environment")
    print("\n| installed | packages | MB | `import castor.tasks` | with `Batches` |\n|---|--:|--:|--:|--:|")
    for row in rows:
        print(
            f"| `{row['installed']}` | {row['packages']} | {row['mb']:,} "
            f"| {row['import_ms']} ms | {row['batches_ms']} ms |"
        )


def copy_of_checkout(folder: pathlib.Path) -> pathlib.Path:
    """Copies the files that a wheel is built from, because a build leaves files in its source folder."""
    folder.mkdir()
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    for room in ("gin", "launch", "train", "pipelines", "tasks"):
        shutil.copytree(ROOT / room, folder / room, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def measure(checkout: pathlib.Path, extras: str, python: str, work: pathlib.Path, steps: int) -> dict:
    """Installs into a fresh environment and returns one row."""
    environment = work / "environment"
    interpreter = environment / "bin" / "python"
    wanted = f"castor[{extras}]" if extras else "castor"
    uv("venv", "--python", python, str(environment))
    constraints = ("--constraint", str(ROOT / "constraints.txt"))
    uv("pip", "install", "--python", str(interpreter), *constraints, f"{wanted} @ {checkout.as_uri()}")
    (site,) = environment.glob("lib/python*/site-packages")
    sizes = {path: path.stat().st_size for path in site.rglob("*") if path.is_file()}
    row = {
        "installed": wanted,
        "python": python,
        "packages": len(list(site.glob("*.dist-info"))),
        "mb": round(sum(sizes.values()) / 1e6),
        "castor_mb": round(sum(n for p, n in sizes.items() if p.relative_to(site).parts[0] == "castor") / 1e6, 1),
    }
    for name, program in IMPORTS.items():
        subprocess.run([interpreter, "-P", "-c", program], check=True, cwd=work)  # compiles to bytecode
        row[name] = round(statistics.median(import_ms(interpreter, program, work) for _ in range(5)))
    if not extras or "torch" in extras:
        command = [interpreter, "-P", "-c", LOOP, str(work), str(steps)]
        row |= json.loads(subprocess.run(command, check=True, cwd=work, capture_output=True, text=True).stdout)
    return row


def import_ms(interpreter: pathlib.Path, program: str, work: pathlib.Path) -> float:
    """Milliseconds of a program's imports, as reported by the interpreter (-X importtime)."""
    command = [interpreter, "-P", "-X", "importtime", "-c", program]
    log = subprocess.run(command, check=True, cwd=work, capture_output=True, text=True).stderr
    lines = re.findall(
        r"^import time:\s+\d+ \|\s+(\d+) \| (\S+)$", log, re.MULTILINE
    )  # not indented: imported by the program
    after_start = [name for _, name in lines].index("site") + 1
    return sum(int(microseconds) for microseconds, _ in lines[after_start:]) / 1000


def uv(*arguments: str) -> None:
    """Runs uv quietly; on failure, shows uv's own output."""
    done = subprocess.run(["uv", arguments[0], "--quiet", *arguments[1:]], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"uv {' '.join(arguments)} failed:\n{done.stderr}")


if __name__ == "__main__":
    main()
