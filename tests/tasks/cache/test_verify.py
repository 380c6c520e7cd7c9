"""Verify: whatever is done to a cache, in any of its files, it is found and the file is named."""

import json

import numpy as np
import pytest
import small_caches as caches

from castor.tasks.cache import records
from castor.tasks.cache.manifest import manifest_checksum
from castor.tasks.cache.verify import Problem, verify
from castor.tasks.storage import storage

SHARD = "train.tfrecord-00001-of-00003"


@pytest.fixture
def directory(tmp_path):
    caches.make_cache(tmp_path / "toy", caches.make_records(40))
    return tmp_path / "toy"


def kinds(directory, **options):
    return {(p.file, p.kind) for p in verify(str(directory), **options)}


def test_a_sound_cache(directory):
    assert verify(str(directory)) == [] == verify(str(directory), deep=False)


def test_a_sound_cache_with_dense_features(tmp_path):
    caches.make_cache(tmp_path, caches.make_records(20, caches.DENSE), caches.DENSE)
    assert verify(str(tmp_path)) == []


def test_a_flipped_bit_anywhere_is_found_and_named(directory):
    for path in sorted(p for p in directory.rglob("*") if p.is_file() and p.stat().st_size):
        data = path.read_bytes()
        for place in {0, len(data) // 3, len(data) // 2, len(data) - 1}:
            path.write_bytes(data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :])
            name = path.relative_to(directory).as_posix()
            assert name in {p.file for p in verify(str(directory))}, (name, place)
        path.write_bytes(data)
    assert verify(str(directory)) == []


def test_a_cut_file_is_found_and_named(directory):
    for path in sorted(p for p in directory.rglob("*") if p.is_file() and p.stat().st_size):
        data = path.read_bytes()
        path.write_bytes(data[:-3])
        assert path.relative_to(directory).as_posix() in {p.file for p in verify(str(directory))}
        path.write_bytes(data)
    (directory / SHARD).write_bytes((directory / SHARD).read_bytes()[:-3])
    assert kinds(directory, deep=False) == {(SHARD, "cut")}


def test_a_missing_file_is_found_and_named(directory):
    for path in sorted(p for p in directory.rglob("*") if p.is_file()):
        name = path.relative_to(directory).as_posix()
        path.rename(directory.parent / "aside")
        assert (name, "manifest" if name == "manifest.json" else "missing") in kinds(directory, deep=False)
        (directory.parent / "aside").rename(path)


@pytest.mark.parametrize(
    "name", ["train.tfrecord-00003-of-00004", "lineage/test-00000-of-00001.parquet", "notes.txt", ".staging-abc"]
)
def test_a_stale_file_is_found_and_named(directory, name):
    (directory / name).write_bytes(b"x")
    assert kinds(directory) == {(name, "stale")}


def test_a_wrong_sidecar_is_found_and_named(directory):
    index = np.load(directory / f"{SHARD}.idx").copy()
    index["offset"][2] += 1
    index["targets"][3] += 1
    with open(directory / f"{SHARD}.idx", "wb") as file:
        np.save(file, index)
    problems = verify(str(directory))
    assert {(p.file, p.kind) for p in problems} == {(f"{SHARD}.idx", "sidecar"), (f"{SHARD}.idx", "checksum")}
    assert any("record 2 starts" in p.message for p in problems) and any("record 3 has" in p.message for p in problems)
    other = (directory / "train.tfrecord-00002-of-00003.idx").read_bytes()
    (directory / f"{SHARD}.idx").write_bytes(other)
    assert (f"{SHARD}.idx", "sidecar") in kinds(directory, deep=False)


def test_swapped_lineage_and_records_out_of_vocabulary(directory):
    manifest = json.loads((directory / "manifest.json").read_text())
    manifest["vocabulary"]["size"] = 100
    (directory / "manifest.json").write_text(json.dumps(manifest))
    found = kinds(directory)
    assert ("manifest.json", "checksum") in found and (SHARD, "vocabulary") in found
    one, two = directory / "lineage/train-00000-of-00003.parquet", directory / "lineage/train-00001-of-00003.parquet"
    one.write_bytes(two.read_bytes())
    assert {("lineage/train-00000-of-00003.parquet", "checksum")} < kinds(directory)


def test_a_whole_shard_of_other_records_under_a_rewritten_manifest(directory):
    """Even where all checksums agree, records that do not say what sidecar and counts say are found."""
    payloads = [p for _, p in records.iterate_records((directory / SHARD).read_bytes(), SHARD)]
    data = b"".join(records.frame(p) for p in payloads[1:])
    (directory / SHARD).write_bytes(data)
    manifest = json.loads((directory / "manifest.json").read_text())
    manifest["splits"]["train"]["shards"][1].update(sha256=storage.sha256(directory / SHARD), bytes=len(data))
    manifest["checksum"] = manifest_checksum(manifest)
    (directory / "manifest.json").write_text(json.dumps(manifest))
    expected = {(f"{SHARD}.idx", "sidecar"), (f"{SHARD}.tokens", "tokens"), (SHARD, "record"), (SHARD, "stats")}
    assert kinds(directory) == expected


def test_plans_are_no_part_of_a_cache(directory):
    (directory / "plans" / "key").mkdir(parents=True)
    (directory / "plans" / "key" / "train-00000.plan").write_bytes(b"x")
    assert verify(str(directory)) == []


@pytest.mark.parametrize(("table", "key"), [("rows", "64"), ("rows", "2048"), ("blocks", "targets")])
def test_wrong_counts_of_blocks_under_a_rewritten_manifest(directory, table, key):
    manifest = json.loads((directory / "manifest.json").read_text())
    manifest["splits"]["train"]["shards"][1][table][key][0] += 1
    manifest["checksum"] = manifest_checksum(manifest)
    (directory / "manifest.json").write_text(json.dumps(manifest))
    (problem,) = verify(str(directory))
    assert (problem.file, problem.kind) == (SHARD, "stats") and f"{table} of {key}" in problem.message
    manifest["packing"] = {"version": 0}  # counted by another packing: nothing to compare with
    manifest["checksum"] = manifest_checksum(manifest)
    (directory / "manifest.json").write_text(json.dumps(manifest))
    assert verify(str(directory)) == []


def test_no_cache_at_all(tmp_path):
    (problem,) = verify(str(tmp_path))
    assert isinstance(problem, Problem) and problem.kind == "manifest" and str(tmp_path) in str(problem)
