"""Time to the first batch of a huge mixture: 1e9 records in 10,000 shards, opened at step 10,000,000.

    python benchmarks/batches/seek.py [--work DIR]

Shards, sidecars and lineage are real: 100,000 records with the lengths of synthetic.py. The real writer makes the
manifests. A few distinct shards are hard-linked under all names, so the caches take 1 GB of disk. The distinct shards
come first, at their own positions, and hold the documents that belong there.

Every measurement runs in a fresh process, in one of three states:

cold: the caches' plans are removed and files are dropped from the page cache (posix_fadvise; directory entries stay).
planned: plans are on disk, files are dropped from the page cache.
warm: plans are on disk, files are in memory.

start_s: interpreter and imports.
open_s: tasks.Batches.
batch_ms: the first batch, at step 10,000,000. again_ms: the same batch once more. next_ms: the next batch.
any_step_ms: ten random steps below 10,000,000 in the same process, mostly from shards not read before: median and
    maximum.
lineage_ms: the documents of step 10,000,000, after pyarrow is imported.
occurrences_ms: all steps up to 10,000,000 that use one document.
peak_rss_mb: VmHWM, including mapped pages, after opening and after the batches.

Prints one JSON line with medians over the processes.
"""

import argparse
import dataclasses
import importlib
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

import batches
import numpy as np
import synthetic

STATES = ("cold", "planned", "warm")
ANY_STEPS = 10


# ---------------------------------------------------------------- the mixture


def make_mixture(work: pathlib.Path, components: int, shards: int, records: int, distinct: int) -> list[str]:
    """Directories of the mixture's caches, created if missing: `shards` of `records` each, over all `components`."""
    directories = []
    for component in range(components):
        count = shards // components + (component < shards % components)
        directory = work / f"component_{component}_{count}_{records}_{distinct}"
        if not (directory / "manifest.json").exists():
            donor = (
                directories[0]
                if directories and count == len(list(pathlib.Path(directories[0]).glob("*.idx")))
                else None
            )
            _make_cache(directory, count, records, min(distinct, count), donor)
        directories.append(str(directory))
    return directories


def _make_cache(directory: pathlib.Path, shards: int, records: int, distinct: int, donor: str | None) -> None:
    from castor.tasks.cache import writer
    from castor.tasks.cache.features import TARGETS
    from castor.tasks.cache.manifest import load_manifest

    staging = writer.begin(str(directory))
    if donor:
        entries = [_entry(shard) for shard in load_manifest(donor).data["splits"]["train"]["shards"][:distinct]]
        for entry in entries:
            for name in _files(entry):
                _link(pathlib.Path(donor) / name, pathlib.Path(staging) / name)
    else:
        entries = []
        for shard in range(distinct):
            random = np.random.default_rng(shard)
            made = _records_of_shard(random, records, shard, shards)
            entries.append(
                writer.write_shard(staging, "train", shard, shards, made, TARGETS, seed=synthetic.SHUFFLE_SEED)
            )
    for shard in range(distinct, shards):
        template = entries[shard % distinct]
        entries.append(dataclasses.replace(template, shard=shard))
        for old, new in zip(_files(template), _files(entries[-1])):
            _link(pathlib.Path(staging) / old, pathlib.Path(staging) / new)
    synthetic.commit(str(directory), staging, directory.name, entries)


def _link(source: pathlib.Path, target: pathlib.Path) -> None:
    target.parent.mkdir(exist_ok=True)
    os.link(source, target)


def _files(entry) -> list[str]:
    from castor.tasks.cache.layout import lineage_file

    tokens = [entry.file + ".tokens"] if entry.token_file else []
    return [entry.file, entry.file + ".idx", *tokens, lineage_file(entry.split, entry.shard, entry.num_shards)]


def _entry(shard: dict):
    """The entry of a shard in its manifest's format."""
    from castor.tasks.cache.manifest import ShardEntry

    split, _, numbers = shard["file"].partition(".tfrecord-")
    number, _, count = numbers.partition("-of-")
    facts = {key: value for key, value in shard.items() if key != "file"}
    return ShardEntry(split=split, shard=int(number), num_shards=int(count), **facts)


def _records_of_shard(random: np.random.Generator, count: int, shard: int, num_shards: int):
    """Records whose ids fall into one shard: samples a hash in the shard's range and inverts it to the id."""
    from castor.tasks import hashing
    from castor.tasks.cache.features import Record

    width = (1 << 64) // num_shards
    hashes = np.uint64(shard * width + num_shards) + random.integers(0, width - 2 * num_shards, count, dtype=np.uint64)
    low = random.integers(0, 1 << 64, count, dtype=np.uint64)
    key = np.uint64(hashing.key64("record", synthetic.SHUFFLE_SEED))
    high = _unmix64(hashes) ^ hashing.mix64(low ^ key)
    made = synthetic.records(random, synthetic.lengths(random, count), f"shard/{shard}")
    for record, first, second in zip(made, high.tolist(), low.tolist()):
        yield Record(f"{first:016x}{second:016x}", record.source, record.features)


def _unmix64(values: np.ndarray) -> np.ndarray:
    """The inverse of hashing.mix64."""
    inverse_1, inverse_2 = (np.uint64(pow(m, -1, 1 << 64)) for m in (0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
    z = values ^ (values >> np.uint64(31)) ^ (values >> np.uint64(62))
    z = z * inverse_2
    z = z ^ (z >> np.uint64(27)) ^ (z >> np.uint64(54))
    z = z * inverse_1
    z = z ^ (z >> np.uint64(30)) ^ (z >> np.uint64(60))
    return z - np.uint64(0x9E3779B97F4A7C15)


def drop_from_memory(directories: list[str]) -> None:
    """Drops every file from the page cache, once for all names of the file."""
    seen = set()
    for directory in directories:
        for folder, _, names in os.walk(directory):
            for name in names:
                path = os.path.join(folder, name)
                inode = os.stat(path).st_ino
                if inode not in seen:
                    seen.add(inode)
                    descriptor = os.open(path, os.O_RDONLY)
                    os.fsync(descriptor)
                    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
                    os.close(descriptor)


# ---------------------------------------------------------------- one process


def measure(directories: list[str], length: int, batch: int, step: int, started: float) -> dict:
    """Measures opening and batches in a fresh process."""
    from castor import tasks

    result = {"start_s": round(time.time() - started, 3)}
    mixture = tasks.Mixture("huge", {directory: 1.0 + number for number, directory in enumerate(directories)})
    opened, milliseconds = timed(lambda: tasks.Batches(mixture, batch_size=batch, lengths={"targets": length}))
    result |= {"open_s": round(milliseconds / 1000, 3), "start_and_open_s": round(time.time() - started, 3)}
    result["peak_rss_mb_open"] = batches.peak_rss_mb()
    arrays, result["batch_ms"] = timed(lambda: opened.batch(step))
    result["fill"] = round(float((arrays["decoder_segment_ids"] > 0).mean()), 5)
    _, result["again_ms"] = timed(lambda: opened.batch(step))
    _, result["next_ms"] = timed(lambda: opened.batch(step + 1))
    others = np.random.default_rng(batch).integers(0, step, ANY_STEPS).tolist()
    times = [timed(lambda other=other: opened.batch(other))[1] for other in others]
    result |= {
        "any_step_ms": statistics.median(times),
        "any_step_ms_max": max(times),
        "peak_rss_mb": batches.peak_rss_mb(),
    }
    importlib.import_module("pyarrow.parquet")  # reads lineage; its import is not timed
    _, result["lineage_ms"] = timed(lambda: opened.lineage(step))
    document, _ = opened.components[0].reader.document(records_before(opened) + 17)
    found, result["occurrences_ms"] = timed(lambda: list(opened.occurrences(document, step)))
    result["occurrences"] = len(found)
    return result


def records_before(opened) -> int:
    """First record of the second shard, whose lineage has most likely not been read by an earlier measurement."""
    return int(opened.components[0].reader.starts[1]) if opened.components[0].reader.num_shards > 1 else 0


def timed(function):
    """(value, milliseconds)."""
    begin = time.perf_counter()
    value = function()
    return value, round(1000 * (time.perf_counter() - begin), 3)


# ---------------------------------------------------------------- all of them


def run_child(directories: list[str], length: int, batch: int, step: int) -> dict:
    own = {"directories": directories, "length": length, "batch": batch, "step": step, "started": time.time()}
    command = [sys.executable, __file__, "--measure", json.dumps(own)]
    done = subprocess.run(command, capture_output=True, text=True, env=batches.environment())
    if done.returncode:
        sys.exit(done.stderr[-3000:])
    return json.loads(done.stdout.splitlines()[-1])


def medians(measured: list[dict]) -> dict:
    """Median of each number over the processes."""
    return {key: round(statistics.median(found[key] for found in measured), 3) for key in measured[0]}


def forget_plans(directories: list[str]) -> None:
    """Removes the plans stored next to the shards."""
    for directory in directories:
        shutil.rmtree(pathlib.Path(directory) / "plans", ignore_errors=True)


def main() -> int:
    if sys.argv[1:2] == ["--measure"]:
        print(json.dumps(measure(**json.loads(sys.argv[2]))))
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--work", default=os.path.join(tempfile.gettempdir(), "castor-benchmarks"), help="kept for the next run"
    )
    parser.add_argument("--shards", type=int, default=10_000)
    parser.add_argument("--records", type=int, default=100_000, help="of a shard")
    parser.add_argument("--components", type=int, default=5)
    parser.add_argument("--distinct", type=int, default=4, help="shards written; the others are links to them")
    parser.add_argument("--length", type=int, default=2048, help="tokens of a row")
    parser.add_argument("--batch", type=int, nargs="+", default=[8, 256], help="rows of a batch")
    parser.add_argument("--step", type=int, default=10**7)
    parser.add_argument("--processes", type=int, default=5, help="of each measurement")
    arguments = parser.parse_args()

    work = pathlib.Path(arguments.work)
    work.mkdir(parents=True, exist_ok=True)
    directories = make_mixture(work, arguments.components, arguments.shards, arguments.records, arguments.distinct)
    run_child(directories, arguments.length, arguments.batch[0], arguments.step)  # compiles the modules
    results: dict = {}
    for batch in arguments.batch:
        rounds: dict[str, list[dict]] = {state: [] for state in STATES}
        for _ in range(arguments.processes):
            forget_plans(directories)
            for state in STATES:
                if state != "warm":
                    drop_from_memory(directories)
                rounds[state].append(run_child(directories, arguments.length, batch, arguments.step))
                print(batch, state, rounds[state][-1], file=sys.stderr, flush=True)
        results[f"batch_{batch}"] = {state: medians(measured) for state, measured in rounds.items()}
    settings = {
        key: getattr(arguments, key)
        for key in ("shards", "records", "components", "distinct", "length", "step", "processes")
    }
    total = {"records": arguments.shards * arguments.records}
    print(json.dumps({"benchmark": "seek", **total, **results, "settings": settings, "machine": batches.machine()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
