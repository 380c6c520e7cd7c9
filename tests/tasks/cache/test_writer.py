"""The writer: bytes depend on seed and documents alone, and nothing half-written is ever a task."""

import json

import numpy as np
import pytest
from small_caches import DENSE, full_disk, make_cache, make_records

from castor.tasks import hashing
from castor.tasks.cache import layout, writer
from castor.tasks.cache.features import TARGETS, Record
from castor.tasks.cache.manifest import load_manifest
from castor.tasks.errors import CacheError
from castor.tasks.mixing import packing
from castor.tasks.storage import storage


def files_of(directory):
    return {p.relative_to(directory).as_posix(): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


def test_bytes_do_not_depend_on_order_or_on_what_was_there(tmp_path):
    records = make_records(40)
    make_cache(tmp_path / "a", records)
    make_cache(tmp_path / "b", make_records(90, seed=8), num_shards=7)
    make_cache(tmp_path / "b", records[::-1])
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")


def test_seqio_files(tmp_path):
    make_cache(
        tmp_path,
        [
            Record("0" * 32, "s", {"targets": np.array([5, 6, 1])}),
            Record("1" * 32, "s", {"targets": np.array([7, 1])}),
        ],
    )
    info = json.loads((tmp_path / "info.train.json").read_text())
    assert info == {
        "num_shards": 3,
        "features": {"targets": {"shape": [None], "dtype": "int32"}},
        "seqio_version": "0.0.20",
    }
    assert json.loads((tmp_path / "stats.train.json").read_text()) == {
        "examples": 2,
        "targets_tokens": 3,
        "targets_max_tokens": 2,
    }
    assert json.loads((tmp_path / "stats.validation.json").read_text()) == {
        "examples": 0,
        "targets_tokens": 0,
        "targets_max_tokens": 0,
    }
    assert (tmp_path / "COMPLETED").read_bytes() == b""


def test_killed_before_commit_leaves_the_old_cache_or_none(tmp_path, monkeypatch):
    records = make_records(30)
    steps = []
    for name in ("rename", "remove", "write_bytes_atomic", "remove_tree"):
        original = getattr(storage, name)

        def counted(*arguments, original=original):
            steps.append(1)
            if len(steps) == die_at:
                raise KeyboardInterrupt
            return original(*arguments)

        monkeypatch.setattr(storage, name, counted)
    die_at = -1
    reference = make_cache(tmp_path / "reference", records)
    total = len(steps)
    assert total > 15
    for die_at in range(1, total + 1):
        directory = tmp_path / f"c{die_at}"
        steps.clear()
        with pytest.raises(KeyboardInterrupt):
            make_cache(directory, records)
        assert not (directory / "manifest.json").exists()
        with pytest.raises(CacheError, match=str(directory)):
            load_manifest(str(directory))
    die_at = -1
    make_cache(directory, records)
    assert files_of(directory) == files_of(tmp_path / "reference")
    assert reference


def test_extra_files_are_listed_and_replaced(tmp_path):
    directory = str(tmp_path)
    for content in (b"one", b"two"):
        staging = writer.begin(directory)
        storage.write_bytes_atomic(storage.join(staging, "card.html"), content)
        entries = writer.fill_shards(staging, [], {"train": 1}, TARGETS, seed=0)
        manifest = writer.build_manifest(
            name="toy", modality="text", entries=entries, features=TARGETS, seed=0, vocabulary={}
        )
        writer.commit(staging, directory, manifest)
        assert storage.read_bytes(tmp_path / "card.html") == content
        assert load_manifest(directory).data["files"]["card.html"] == storage.sha256(tmp_path / "card.html")


def test_a_shard_that_fails_leaves_nothing_to_commit(tmp_path):
    good, bad = (Record(f"{i:032x}", "s", {"targets": np.array(v)}) for i, v in enumerate(([1, 2], [0.5])))
    with pytest.raises(CacheError):
        writer.write_shard(str(tmp_path), "train", 0, 1, [good, bad], TARGETS, seed=0)
    assert layout.list_paths(str(tmp_path)) == []
    writer.write_shard(str(tmp_path), "train", 0, 1, [good], TARGETS, seed=0)
    assert len(layout.list_paths(str(tmp_path))) == 4 and not list(tmp_path.rglob("*.tmp"))


def test_begin_removes_leftovers(tmp_path):
    first = writer.begin(str(tmp_path))
    second = writer.begin(str(tmp_path))
    assert not storage.exists(first) and storage.exists(second)


@pytest.mark.parametrize(
    "features",
    [
        {"targets": np.array([1.5])},
        {"targets": np.array([[1]])},
        {"targets": np.array([1 << 31])},
        {"targets": np.array(["a"])},
        {},
        {"targets": np.array([1]), "more": np.array([1])},
    ],
)
def test_records_of_another_kind_are_refused(tmp_path, features):
    with pytest.raises(CacheError, match="0000.*where"):
        writer.write_shard(str(tmp_path), "train", 0, 1, [Record("0" * 32, "where", features)], TARGETS, seed=0)


def test_records_twice_or_elsewhere_are_refused(tmp_path):
    record = Record("0" * 32, "where", {"targets": np.array([1])})
    with pytest.raises(CacheError, match="twice"):
        writer.write_shard(str(tmp_path), "train", 0, 1, [record, record], TARGETS, seed=0)
    other = 1 - hashing.shard_of(hashing.record_hash(0, record.id), 2)
    with pytest.raises(CacheError, match="does not belong"):
        writer.write_shard(str(tmp_path), "train", other, 2, [record], TARGETS, seed=0)


def test_incomplete_manifest_is_refused(tmp_path):
    entry = writer.write_shard(str(tmp_path), "train", 0, 2, [], TARGETS, seed=0)
    with pytest.raises(CacheError, match="1 shards of 2"):
        writer.build_manifest(name="toy", modality="text", entries=[entry], features=TARGETS, seed=0, vocabulary={})


def test_rows_and_blocks_are_counted_when_a_shard_is_written(tmp_path):
    """A shard of two blocks, the second of three records."""
    count = packing.BLOCK_RECORDS + 3
    records = [Record(f"{i:032x}", "s", {"targets": np.full(1 + i % 70, 5)}) for i in range(count)]
    order = sorted(records, key=lambda r: (hashing.record_hash(3, r.id), r.id))
    lengths = np.array([len(r.features["targets"]) for r in order])
    blocks = [lengths[: packing.BLOCK_RECORDS], lengths[packing.BLOCK_RECORDS :]]
    directory = make_cache(tmp_path, records, num_shards=1)
    manifest = load_manifest(directory)
    (shard,) = manifest.shards("train")
    assert manifest.data["packing"] == {"version": packing.VERSION, "block_records": packing.BLOCK_RECORDS}
    assert shard["blocks"] == {"targets": [int(b.sum()) for b in blocks]}
    assert sorted(map(int, shard["rows"])) == list(packing.STANDARD_LENGTHS)
    for length in (64, 2048):
        assert shard["rows"][str(length)] == [
            packing.plan({"targets": b}, {"targets": length}).num_rows for b in blocks
        ]
    (empty,) = manifest.shards("validation")
    assert empty["blocks"] == {"targets": []} and set(map(tuple, empty["rows"].values())) == {()}


def test_blocks_of_every_feature_and_rows_of_targets_alone(tmp_path):
    shard = load_manifest(make_cache(tmp_path / "dense", make_records(20, DENSE), DENSE, num_shards=1)).shards("train")[
        0
    ]
    assert shard["blocks"] == {name: [total] for name, total in shard["tokens"].items()} and set(shard["blocks"]) == {
        "targets",
        "mel",
    }
    features = {"inputs": {"dtype": "int32", "rank": 1}}
    records = [Record("0" * 32, "s", {"inputs": np.array([5, 6, 1])})]
    shard = load_manifest(make_cache(tmp_path / "other", records, features, num_shards=1)).shards("train")[0]
    assert shard["rows"] == {} and shard["blocks"] == {"inputs": [3]}


def test_commit_removes_the_plans_of_the_cache_it_replaces(tmp_path):
    directory = make_cache(tmp_path, make_records(5))
    (tmp_path / "plans" / "key").mkdir(parents=True)
    (tmp_path / "plans" / "key" / "train.plan").write_bytes(b"x")
    assert "plans" not in "".join(layout.list_paths(directory))
    make_cache(tmp_path, make_records(5))
    assert not (tmp_path / "plans").exists()


def test_a_full_disk_leaves_no_part_of_a_shard(tmp_path):
    directory = make_cache(tmp_path / "c", make_records(30))
    before = files_of(tmp_path / "c")
    with full_disk(64), pytest.raises(OSError):
        make_cache(tmp_path / "c", make_records(60))
    staging = [name for name in storage.list_files(directory) if name.startswith(layout.STAGING_PREFIX)]
    assert [p.name for s in staging for p in (tmp_path / "c" / s).rglob("*") if p.is_file()] == []
    assert {name: data for name, data in files_of(tmp_path / "c").items() if not name.startswith(".")} == before
