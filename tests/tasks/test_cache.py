"""The cache: what is written is read back, bytes depend on seed and documents alone, and nothing half-written is ever a task."""

import json

import numpy as np
import pytest
from small_caches import DENSE, make_cache, make_records

from tasks import cache, cache_reader, cache_writer, hashing, storage
from tasks.errors import CacheError


def files_of(directory):
    return {p.relative_to(directory).as_posix(): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


def test_what_is_written_is_read_back(tmp_path):
    records = make_records(50, DENSE)
    reader = cache_reader.CacheReader(make_cache(tmp_path / "c", records, DENSE))
    expected = sorted(records, key=lambda r: (hashing.record_hash(3, r.id), r.id))
    assert len(reader) == 50
    for number, record in enumerate(expected):
        got = reader[number]
        np.testing.assert_array_equal(got["targets"], record.features["targets"])
        np.testing.assert_array_equal(got["mel"], record.features["mel"])
        assert got["targets"].dtype == np.int32 and got["mel"].dtype == np.float32
        assert reader.document(number) == (record.id, record.source)
    np.testing.assert_array_equal(reader.lengths("targets"), [len(r.features["targets"]) for r in expected])
    assert reader.manifest.tokens("train") == sum(len(r.features["targets"]) for r in records)
    assert len(cache_reader.CacheReader(str(tmp_path / "c"), "validation")) == 0


def test_bytes_do_not_depend_on_order_or_on_what_was_there(tmp_path):
    records = make_records(40)
    make_cache(tmp_path / "a", records)
    make_cache(tmp_path / "b", make_records(90, seed=8), num_shards=7)
    make_cache(tmp_path / "b", records[::-1])
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")


def test_seqio_files(tmp_path):
    make_cache(
        tmp_path,
        [cache.Record("0" * 32, "s", {"targets": np.array([5, 6, 1])}), cache.Record("1" * 32, "s", {"targets": np.array([7, 1])})],
    )
    info = json.loads((tmp_path / "info.train.json").read_text())
    assert info == {"num_shards": 3, "features": {"targets": {"shape": [None], "dtype": "int32"}}, "seqio_version": "0.0.20"}
    assert json.loads((tmp_path / "stats.train.json").read_text()) == {"examples": 2, "targets_tokens": 3, "targets_max_tokens": 2}
    assert json.loads((tmp_path / "stats.validation.json").read_text()) == {"examples": 0, "targets_tokens": 0, "targets_max_tokens": 0}
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
            cache.load_manifest(str(directory))
    die_at = -1
    make_cache(directory, records)
    assert files_of(directory) == files_of(tmp_path / "reference")
    assert reference


def test_extra_files_are_listed_and_replaced(tmp_path):
    directory = str(tmp_path)
    for content in (b"one", b"two"):
        staging = cache_writer.begin(directory)
        storage.write_bytes_atomic(storage.join(staging, "card.html"), content)
        entries = cache_writer.fill_shards(staging, [], {"train": 1}, cache.TARGETS, seed=0)
        manifest = cache_writer.build_manifest(name="toy", modality="text", entries=entries, features=cache.TARGETS, seed=0, vocabulary={})
        cache_writer.commit(staging, directory, manifest)
        assert storage.read_bytes(tmp_path / "card.html") == content
        assert cache.load_manifest(directory).data["files"]["card.html"] == storage.sha256(tmp_path / "card.html")


def test_a_shard_that_fails_leaves_nothing_to_commit(tmp_path):
    good, bad = (cache.Record(f"{i:032x}", "s", {"targets": np.array(v)}) for i, v in enumerate(([1, 2], [0.5])))
    with pytest.raises(CacheError):
        cache_writer.write_shard(str(tmp_path), "train", 0, 1, [good, bad], cache.TARGETS, seed=0)
    assert cache.list_paths(str(tmp_path)) == []
    cache_writer.write_shard(str(tmp_path), "train", 0, 1, [good], cache.TARGETS, seed=0)
    assert len(cache.list_paths(str(tmp_path))) == 3 and not list(tmp_path.rglob("*.tmp"))


def test_begin_removes_leftovers(tmp_path):
    first = cache_writer.begin(str(tmp_path))
    second = cache_writer.begin(str(tmp_path))
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
        cache_writer.write_shard(str(tmp_path), "train", 0, 1, [cache.Record("0" * 32, "where", features)], cache.TARGETS, seed=0)


def test_records_twice_or_elsewhere_are_refused(tmp_path):
    record = cache.Record("0" * 32, "where", {"targets": np.array([1])})
    with pytest.raises(CacheError, match="twice"):
        cache_writer.write_shard(str(tmp_path), "train", 0, 1, [record, record], cache.TARGETS, seed=0)
    other = 1 - hashing.shard_of(hashing.record_hash(0, record.id), 2)
    with pytest.raises(CacheError, match="does not belong"):
        cache_writer.write_shard(str(tmp_path), "train", other, 2, [record], cache.TARGETS, seed=0)


def test_incomplete_manifest_is_refused(tmp_path):
    entry = cache_writer.write_shard(str(tmp_path), "train", 0, 2, [], cache.TARGETS, seed=0)
    with pytest.raises(CacheError, match="1 shards of 2"):
        cache_writer.build_manifest(name="toy", modality="text", entries=[entry], features=cache.TARGETS, seed=0, vocabulary={})


def test_missing_and_half_written_caches_say_so(tmp_path):
    with pytest.raises(CacheError, match="no task cache at"):
        cache.load_manifest(str(tmp_path / "nothing"))
    with pytest.raises(CacheError, match="holds no task cache"):
        cache.load_manifest(str(tmp_path))
    cache_writer.begin(str(tmp_path))
    with pytest.raises(CacheError, match="half-written"):
        cache.load_manifest(str(tmp_path))


@pytest.mark.parametrize(
    "change",
    [
        lambda m: [],
        lambda m: {**m, "format": 2},
        lambda m: {**m, "kind": "corpus"},
        lambda m: {**m, "seed": "0"},
        lambda m: {**m, "splits": {"train": {}}},
        lambda m: {**m, "splits": {"train": {"shards": [{**m["splits"]["train"]["shards"][0], "file": "../../etc/passwd"}], "records": 1}}},
        lambda m: {**m, "splits": {"train": {"shards": m["splits"]["train"]["shards"][:2], "records": 1}}},
        lambda m: {**m, "features": {"targets": {"dtype": "O", "rank": 1}}},
        lambda m: {**m, "features": 7},
        lambda m: {**m, "files": {"../x": ""}},
    ],
)
def test_malformed_manifests_are_refused(tmp_path, change):
    directory = make_cache(tmp_path, make_records(5))
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(CacheError, match=str(tmp_path)):
        cache_reader.CacheReader(directory)


@pytest.mark.parametrize("garbage", [b"", b"{", b"\xff\xfe", b"[" * 200_000])
def test_unreadable_manifests_are_refused(tmp_path, garbage):
    directory = make_cache(tmp_path, make_records(5))
    (tmp_path / "manifest.json").write_bytes(garbage)
    with pytest.raises(CacheError, match="manifest.json"):
        cache_reader.CacheReader(directory)


def test_reader_refuses_what_disagrees_with_the_manifest(tmp_path):
    directory = make_cache(tmp_path, make_records(30))
    shard = tmp_path / "train.tfrecord-00000-of-00003"
    data = shard.read_bytes()
    shard.write_bytes(data[:-1])
    with pytest.raises(CacheError, match="train.tfrecord-00000-of-00003 has .* the manifest says"):
        cache_reader.CacheReader(directory)
    shard.unlink()
    with pytest.raises(CacheError, match="train.tfrecord-00000-of-00003 of the manifest is missing"):
        cache_reader.CacheReader(directory)
    flipped = bytearray(data)
    flipped[20] ^= 1
    shard.write_bytes(bytes(flipped))
    with pytest.raises(CacheError, match="wrong data checksum"):
        cache_reader.CacheReader(directory)[0]
    shard.write_bytes(data)
    index = tmp_path / "train.tfrecord-00000-of-00003.idx"
    for damaged in (b"", b"\x93NUMPY garbage", index.read_bytes()[:-4], (tmp_path / "train.tfrecord-00001-of-00003.idx").read_bytes()):
        index.write_bytes(damaged)
        with pytest.raises(CacheError, match=r"00000-of-00003.idx"):
            cache_reader.CacheReader(directory).lengths("targets")
    with pytest.raises(CacheError, match="no split 'test'.*train"):
        cache_reader.CacheReader(directory, "test")
    with pytest.raises(CacheError, match="no feature 'inputs'"):
        cache_reader.CacheReader(directory).lengths("inputs")
