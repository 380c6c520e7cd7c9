"""Plans: only of the blocks that are read, kept beside the shards, made again when they do not fit, never a reason to be wrong."""

import errno
import os
import pathlib

import numpy as np
import pytest
import small_caches as caches

from tasks import packing, storage
from tasks.batches import Batches
from tasks.cache_reader import CacheReader
from tasks.errors import CacheError
from tasks.plans import Plans

LENGTH = 64


@pytest.fixture
def cache(tmp_path):
    return pathlib.Path(caches.make_cache(tmp_path / "toy", caches.make_records(80), name="toy", num_shards=8))


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(packing, "BLOCK_RECORDS", 4)


def plans(cache, **options):
    return Plans(CacheReader(str(cache)), **{"capacities": {"targets": LENGTH}, **options})


def files(cache):
    return sorted(str(path.relative_to(cache / "plans")) for path in (cache / "plans").rglob("*") if path.is_file())


def all_plans(opened):
    return [opened.plan(shard, block) for shard in range(len(opened.shard_rows)) for block in range(len(opened.block_rows(shard)))]


def same(a, b):
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in ("row_starts", "record", "start", "size"))


def test_a_cache_is_opened_without_a_plan_and_only_what_is_read_is_planned(cache):
    opened = plans(cache)
    assert opened.shard_rows.sum() > 0 and not (cache / "plans").exists()
    opened.plan(3, 0)
    assert files(cache) == ["best_fit-targets=64/train-00003-of-00008.0000.plan"]
    batches = Batches(str(cache), 1, {"targets": 128})
    batches.batch(0)
    assert len([name for name in files(cache) if "=128" in name]) == 1


@pytest.mark.parametrize("method", packing.METHODS)
@pytest.mark.parametrize("length", [64, 37])
def test_the_rows_known_at_opening_are_those_of_the_plans(tmp_path, small_blocks, method, length):
    directory = caches.make_cache(tmp_path / "toy", caches.make_records(80), name="toy", num_shards=8)
    opened = plans(directory, method=method, capacities={"targets": length})
    assert [made.num_rows for made in all_plans(opened)] == [
        int(rows) for shard in range(8) for rows in opened.block_rows(shard)
    ]
    records = CacheReader(directory).lengths("targets")
    assert sum(made.values() for made in all_plans(opened)) == int(records.sum())


def test_a_kept_plan_is_the_plan(cache):
    first = all_plans(plans(cache))
    kept = files(cache)
    assert len(kept) == 8
    before = {name: (cache / "plans" / name).stat().st_mtime_ns for name in kept}
    assert all(map(same, all_plans(plans(cache)), first))
    assert {name: (cache / "plans" / name).stat().st_mtime_ns for name in kept} == before


@pytest.mark.parametrize("damage", [lambda data: data[:50], lambda data: data[:60] + bytes([data[60] ^ 1]) + data[61:], lambda data: b""])
def test_a_damaged_plan_is_made_again(cache, damage):
    first = all_plans(plans(cache, capacities={"targets": 37}))
    for name in files(cache):
        path = cache / "plans" / name
        path.write_bytes(damage(path.read_bytes()))
    broken = {name: (cache / "plans" / name).read_bytes() for name in files(cache)}
    assert all(map(same, all_plans(plans(cache, capacities={"targets": 37})), first))
    assert all((cache / "plans" / name).read_bytes() != data for name, data in broken.items())


def test_plans_of_another_cache_are_not_taken(cache, tmp_path):
    all_plans(plans(cache, capacities={"targets": 37}))
    other = pathlib.Path(caches.make_cache(tmp_path / "other", caches.make_records(80, seed=9), name="toy", num_shards=8))
    expected = all_plans(plans(other, capacities={"targets": 37}))
    for name in files(cache):
        (other / "plans" / name).write_bytes((cache / "plans" / name).read_bytes())
    assert all(map(same, all_plans(plans(other, capacities={"targets": 37})), expected))


def test_rows_are_counted_once_where_the_manifest_does_not_tell_them(cache):
    seen = []
    opened = plans(cache, capacities={"targets": 37}, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(i + 1, 8) for i in range(8)] and files(cache) == ["best_fit-targets=37/train.rows"]
    again = plans(cache, capacities={"targets": 37}, progress=lambda done, total: pytest.fail("counted again"))
    assert again.shard_rows.tolist() == opened.shard_rows.tolist()


def test_a_full_disk_is_an_error_that_names_the_file(cache, monkeypatch):
    opened = plans(cache)

    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(storage, "write_bytes_atomic", full)
    with pytest.raises(CacheError, match=r"train-00002-of-00008.0000.plan cannot be written: No space left"):
        opened.plan(2, 0)
    monkeypatch.undo()
    assert opened.plan(2, 0).num_rows == opened.block_rows(2)[0]


def test_a_cache_that_may_not_be_written_to_is_read_all_the_same(cache):
    expected = all_plans(plans(cache))
    storage.remove_tree(cache / "plans")
    (cache / "plans").write_text("in the way")  # as good as a read-only folder, for root too
    assert all(map(same, all_plans(plans(cache)), expected))
    assert (cache / "plans").read_text() == "in the way"


def test_a_sidecar_that_does_not_fit_the_manifest_is_refused(cache):
    path = next(cache.glob("train.tfrecord-00001-of-00008.idx"))
    index = np.load(path)
    index["targets"][0] += 1
    np.lib.format.write_array(open(path, "wb"), index, version=(1, 0))
    with pytest.raises(CacheError, match="00001-of-00008.idx"):
        all_plans(plans(cache))
