"""Plans: made only for blocks that are read, stored next to the shards, rebuilt if they do not fit, and never wrong."""

import pathlib

import numpy as np
import pytest
import small_caches as caches

from castor.tasks.batches.batches import Batches
from castor.tasks.batches.plans import Plans
from castor.tasks.cache.reader import CacheReader
from castor.tasks.errors import CacheError
from castor.tasks.mixing import packing
from castor.tasks.storage import storage

LENGTH = 64


@pytest.fixture
def cache(tmp_path, small_blocks):
    """Eight shards of some ten records each, packed in blocks of four."""
    return pathlib.Path(caches.make_cache(tmp_path / "toy", caches.make_records(80), name="toy", num_shards=8))


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(packing, "BLOCK_RECORDS", 4)


def plans(cache, **options):
    return Plans(CacheReader(str(cache)), **{"capacities": {"targets": LENGTH}, **options})


def files(cache):
    return sorted(str(path.relative_to(cache / "plans")) for path in (cache / "plans").rglob("*") if path.is_file())


def all_plans(opened):
    return [
        opened.plan(group, block)
        for group in range(len(opened.groups))
        for block in range(len(opened.block_rows(group)))
    ]


def same(a, b):
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in ("row_starts", "record", "start", "size"))


def test_a_cache_is_opened_without_a_plan_and_only_what_is_read_is_planned(cache):
    opened = plans(cache)
    assert opened.group_rows.sum() > 0 and not (cache / "plans").exists()
    opened.plan(3, 0)
    assert files(cache) == ["best_fit-targets=64/train-00003-of-00008.0000.plan"]
    batches = Batches(str(cache), 1, {"targets": 128})
    batches.batch(0)
    assert len([name for name in files(cache) if "=128" in name]) == 1


def test_small_shards_are_packed_together(cache, tmp_path, monkeypatch):
    alone = plans(cache)
    assert alone.groups == [(shard, shard + 1) for shard in range(8)]
    monkeypatch.setattr(packing, "BLOCK_RECORDS", 16384)
    together = plans(caches.make_cache(tmp_path / "same", caches.make_records(80), name="toy", num_shards=8))
    assert together.groups == [(0, 8)] and len(together.block_rows(0)) == 1
    assert together.group_rows.sum() < alone.group_rows.sum()
    assert together.plan(0, 0).values() == int(CacheReader(str(tmp_path / "same")).lengths().sum())
    assert packing.groups([10000, 6000, 385, 16384, 0, 1, 40000, 2, 3]) == [
        (0, 2),
        (2, 3),
        (3, 5),
        (5, 6),
        (6, 7),
        (7, 9),
    ]
    assert packing.groups([]) == []


@pytest.mark.parametrize("method", packing.METHODS)
@pytest.mark.parametrize("length", [64, 37])
@pytest.mark.parametrize("block_records", [4, 15, 16384])
def test_the_rows_known_at_opening_are_those_of_the_plans(tmp_path, monkeypatch, method, length, block_records):
    monkeypatch.setattr(packing, "BLOCK_RECORDS", block_records)
    directory = caches.make_cache(tmp_path / "toy", caches.make_records(80), name="toy", num_shards=8)
    opened = plans(directory, method=method, capacities={"targets": length})
    counted = [int(rows) for group in range(len(opened.groups)) for rows in opened.block_rows(group)]
    assert [made.num_rows for made in all_plans(opened)] == counted
    assert sum(made.values() for made in all_plans(opened)) == int(CacheReader(directory).lengths("targets").sum())


def test_a_kept_plan_is_the_plan(cache):
    first = all_plans(plans(cache))
    kept = files(cache)
    assert len(kept) == len(first) > 16
    before = {name: (cache / "plans" / name).stat().st_mtime_ns for name in kept}
    assert all(map(same, all_plans(plans(cache)), first))
    assert {name: (cache / "plans" / name).stat().st_mtime_ns for name in kept} == before


@pytest.mark.parametrize(
    "damage", [lambda data: data[:50], lambda data: data[:40] + bytes([data[40] ^ 1]) + data[41:], lambda data: b""]
)
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
    other = pathlib.Path(
        caches.make_cache(tmp_path / "other", caches.make_records(80, seed=9), name="toy", num_shards=8)
    )
    expected = all_plans(plans(other, capacities={"targets": 37}))
    for name in files(cache):
        (other / "plans" / name).write_bytes((cache / "plans" / name).read_bytes())
    assert all(map(same, all_plans(plans(other, capacities={"targets": 37})), expected))


def test_plans_of_another_packing_are_not_taken(cache):
    for method in ("best_fit", "first_fit"):
        all_plans(plans(cache, capacities={"targets": 37}, method=method))
    expected = all_plans(plans(cache, capacities={"targets": 37}))
    for path in (cache / "plans" / "first_fit-targets=37").iterdir():
        (cache / "plans" / "best_fit-targets=37" / path.name).write_bytes(path.read_bytes())
    assert all(map(same, all_plans(plans(cache, capacities={"targets": 37})), expected))


def test_rows_are_counted_once_where_the_manifest_does_not_tell_them(cache):
    seen = []
    opened = plans(cache, capacities={"targets": 37}, progress=lambda done, total: seen.append((done, total)))
    assert len(seen) == 8 and seen[-1][0] == seen[-1][1] > 16 and files(cache) == ["best_fit-targets=37/train.rows"]
    again = plans(cache, capacities={"targets": 37}, progress=lambda done, total: pytest.fail("counted again"))
    assert again.group_rows.tolist() == opened.group_rows.tolist()


def test_a_full_disk_is_an_error_that_names_the_file(cache):
    opened = plans(cache)
    with (
        caches.full_disk(64),
        pytest.raises(CacheError, match=r"00002-of-00008.0000.plan cannot be written: File too large"),
    ):
        opened.plan(2, 0)
    assert not files(cache), "and nothing is left of it"
    assert opened.plan(2, 0).num_rows == opened.block_rows(2)[0] and len(files(cache)) == 1


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
