"""The reader returns what was written.

Whatever happens to the files, an error that names a file comes before a wrong value.
"""

import concurrent.futures
import dataclasses
import os
import pathlib
import sys

import google_crc32c
import numpy as np
import pytest
from small_caches import DENSE, make_cache, make_records

from castor.tasks import hashing
from castor.tasks.cache import reader as cache_reader
from castor.tasks.cache.reader import CacheReader
from castor.tasks.errors import CacheError, ConfigurationError
from castor.tasks.mixing import packing
from castor.tasks.storage import storage

SHARD = "train.tfrecord-00000-of-00003"


def other_tokens(records):
    """The same documents, and files of the same size, with other tokens."""
    return [dataclasses.replace(r, features={"targets": r.features["targets"][::-1]}) for r in records]


def read_all(reader):
    return [(reader[i]["targets"].tolist(), reader.document(i)) for i in range(len(reader))]


def size_and_name(directory):
    return sorted((p.stat().st_size, p.name) for p in directory.rglob("*") if p.is_file() and p.name != "manifest.json")


def test_what_is_written_is_read_back(tmp_path):
    records = make_records(50, DENSE)
    reader = CacheReader(make_cache(tmp_path / "c", records, DENSE))
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
    assert len(CacheReader(str(tmp_path / "c"), "validation")) == 0


def test_reader_refuses_what_disagrees_with_the_manifest(tmp_path):
    directory = make_cache(tmp_path, make_records(30))
    shard = tmp_path / "train.tfrecord-00000-of-00003"
    data = shard.read_bytes()
    shard.write_bytes(data[:-1])
    with pytest.raises(CacheError, match="train.tfrecord-00000-of-00003 has .* the manifest has"):
        CacheReader(directory)
    shard.unlink()
    with pytest.raises(CacheError, match="train.tfrecord-00000-of-00003 of the manifest is missing"):
        CacheReader(directory)
    flipped = bytearray(data)
    flipped[20] ^= 1
    shard.write_bytes(bytes(flipped))
    with pytest.raises(CacheError, match="wrong data checksum"):
        CacheReader(directory)[0]
    shard.write_bytes(data)
    index = tmp_path / "train.tfrecord-00000-of-00003.idx"
    for damaged in (
        b"",
        b"\x93NUMPY garbage",
        index.read_bytes()[:-4],
        (tmp_path / "train.tfrecord-00001-of-00003.idx").read_bytes(),
    ):
        index.write_bytes(damaged)
        with pytest.raises(CacheError, match=r"00000-of-00003.idx"):
            CacheReader(directory).lengths("targets")
    with pytest.raises(CacheError, match="no split 'test'.*train"):
        CacheReader(directory, "test")
    with pytest.raises(CacheError, match="no feature 'inputs'"):
        CacheReader(directory).lengths("inputs")


@pytest.mark.parametrize("name", [SHARD, SHARD + ".idx", "lineage/train-00000-of-00003.parquet"])
def test_a_flipped_bit_anywhere_and_a_cut_are_found_and_named(tmp_path, name):
    directory = make_cache(tmp_path, make_records(12))
    path = tmp_path / name
    data = path.read_bytes()
    damaged = [
        data[:place] + bytes([data[place] ^ (1 << place % 8)]) + data[place + 1 :] for place in range(0, len(data), 3)
    ]
    for content in (*damaged, data[:-1], data[: len(data) // 2], b"", data + b"\0"):
        path.write_bytes(content)
        with pytest.raises(CacheError, match=name):
            read_all(CacheReader(directory))
    path.unlink()
    with pytest.raises(CacheError, match=name):
        read_all(CacheReader(directory))


def test_a_shard_of_another_cache_of_the_same_size_is_no_shard_of_this(tmp_path):
    """Records with valid CRCs that differ from .idx file and lineage."""
    one = make_records(30)
    two = [dataclasses.replace(a, id=b.id) for a, b in zip(one, one[::-1])]
    make_cache(tmp_path / "a", one, num_shards=1)
    make_cache(tmp_path / "b", two, num_shards=1)
    for name in ("train.tfrecord-00000-of-00001.idx", "lineage/train-00000-of-00001.parquet"):
        directory = make_cache(tmp_path / "c", one, num_shards=1)
        (tmp_path / "c" / name).write_bytes((tmp_path / "b" / name).read_bytes())
        with pytest.raises(CacheError, match=f"{name} is damaged or of another cache"):
            read_all(CacheReader(directory))


def test_a_cache_replaced_under_an_open_reader(tmp_path):
    records = make_records(30)
    directory = make_cache(tmp_path / "c", records)
    before = size_and_name(tmp_path / "c")
    reader, fresh = CacheReader(directory), CacheReader(directory)
    expected = read_all(reader)
    reader.check(0)
    make_cache(tmp_path / "c", other_tokens(records))
    assert size_and_name(tmp_path / "c") == before
    reads = (
        lambda r: r[0],
        lambda r: r.tokens(0),
        lambda r: r.payload(29),
        lambda r: r.check(0),
        lambda r: r.check(2),
    )
    for read in reads:
        with pytest.raises(
            CacheError,
            match="tfrecord-0000[02]-of-00003 was changed or replaced while in use. Restart on the new cache",
        ):
            read(reader)
    first_touches = (
        lambda r: r.data(0),
        lambda r: r.index(0),
        lambda r: r.document(0),
        lambda r: r.find(records[0].id),
    )
    for read in (*reads, *first_touches):
        with pytest.raises(CacheError, match="was changed or replaced while in use|is damaged or of another cache"):
            read(fresh)
    assert read_all(CacheReader(directory)) != expected


def test_the_old_file_put_back_is_the_old_file(tmp_path):
    reader = CacheReader(make_cache(tmp_path, make_records(30)))
    expected = read_all(reader)
    (tmp_path / SHARD).rename(tmp_path / "aside")
    with pytest.raises(CacheError, match=f"{SHARD} was removed while in use"):
        reader[0]
    (tmp_path / "aside").rename(tmp_path / SHARD)
    assert read_all(reader) == expected


@pytest.mark.parametrize("suffix", ["", ".idx"])
def test_a_file_cut_under_a_reader_that_has_it_mapped(tmp_path, suffix):
    """To read on would be a bus error, not an exception."""
    reader = CacheReader(make_cache(tmp_path, make_records(4000), num_shards=3))
    last = int(reader.starts[1]) - 1
    assert len(reader.data(0)) > 10 * 4096 and len(reader.index(0)) and reader[last]
    os.truncate(tmp_path / (SHARD + suffix), 4096)
    for read in (reader.payload, reader.tokens, reader.__getitem__):
        with pytest.raises(CacheError, match=f"{SHARD}{suffix} was changed or replaced while in use"):
            read(last)


def test_a_file_touched_or_written_to_in_place(tmp_path):
    reader = CacheReader(make_cache(tmp_path, make_records(30)))
    reader.check(0)
    os.utime(tmp_path / SHARD, (1e9, 1e9))
    with pytest.raises(CacheError, match=f"{SHARD} was changed"):
        reader.check(0)
    reader.check(1)


def test_a_cache_replaced_while_it_is_opened(tmp_path, monkeypatch):
    records = make_records(30)
    directory = make_cache(tmp_path, records)

    def load_then_replace(path):
        manifest = original(path)
        make_cache(tmp_path, other_tokens(records))
        return manifest

    original = cache_reader.load_manifest
    monkeypatch.setattr(cache_reader, "load_manifest", load_then_replace)
    with pytest.raises(CacheError, match="manifest.json was changed or replaced while the cache was opened"):
        CacheReader(directory)


def test_data_is_the_file_mapped(tmp_path):
    reader = CacheReader(make_cache(tmp_path, make_records(40)))
    content = (tmp_path / SHARD).read_bytes()
    data = reader.data(0)
    assert reader.path(0) == str(tmp_path / SHARD) and data.dtype == np.uint8 and data.tobytes() == content
    assert not data.flags.writeable and not data.flags.owndata and reader.data(0) is data
    assert google_crc32c.value(data[3:77]) == google_crc32c.value(content[3:77])
    for first, last in ((0, 1), (0, len(reader.index(0))), (3, 3), (len(reader.index(0)) - 1, len(reader.index(0)))):
        reader.will_need(0, first, last)
    assert data.tobytes() == content
    index = reader.index(0)
    assert not index.flags.writeable and index.tolist() == np.load(tmp_path / (SHARD + ".idx")).tolist()
    kept = data[10:20]
    del reader, data
    assert kept.tobytes() == content[10:20]  # a part keeps the mapping


def test_an_empty_shard_has_no_bytes_and_no_records(tmp_path):
    reader = CacheReader(make_cache(tmp_path, []))
    assert len(reader.data(0)) == 0 and len(reader.index(0)) == 0 and reader.find("0" * 32) is None
    reader.will_need(0, 0, 0)
    assert [len(blocks) for blocks in reader.rows(64)] == [0, 0, 0]


def test_mapped_files_hold_no_file_descriptors(tmp_path):
    """A cache may have more shards than a process may open files."""
    descriptors = pathlib.Path("/proc/self/fd")
    if not descriptors.exists():
        pytest.skip("no /proc")
    reader = CacheReader(make_cache(tmp_path, make_records(40), num_shards=20))
    before = len(list(descriptors.iterdir()))
    for shard in range(20):
        reader.data(shard), reader.index(shard)
    assert len(list(descriptors.iterdir())) == before


def test_find_is_the_inverse_of_document(tmp_path):
    records = make_records(60)
    reader = CacheReader(make_cache(tmp_path, records))
    assert sorted(reader.find(r.id) for r in records) == list(range(60))
    for record in records:
        assert reader.document(reader.find(record.id)) == (record.id, record.source)
    assert reader.find(records[0].id.upper()) == reader.find(records[0].id)
    assert reader.find("0" * 32) is None and CacheReader(str(tmp_path), "validation").find(records[0].id) is None
    for bad in ("", "0" * 31, "g" * 32, "0" * 32 + "\n", 7):
        with pytest.raises(ConfigurationError, match="not a document id"):
            reader.find(bad)


def test_find_reads_one_lineage_file(tmp_path):
    records = make_records(60)
    directory = make_cache(tmp_path, records)
    record = next(r for r in records if hashing.shard_of(hashing.record_hash(3, r.id), 3) == 1)
    for shard in (0, 2):
        (tmp_path / f"lineage/train-{shard:05d}-of-00003.parquet").unlink()
    assert CacheReader(directory).find(record.id) is not None


def test_lineages_of_many_shards_are_not_all_kept(tmp_path):
    reader = CacheReader(make_cache(tmp_path, make_records(200), num_shards=40))
    assert len({reader.document(i) for i in range(200)}) == 200
    assert len(reader._lineages) <= 16


def test_rows_and_block_tokens(tmp_path):
    reader = CacheReader(make_cache(tmp_path, make_records(60, DENSE), DENSE))
    for length in packing.STANDARD_LENGTHS:
        rows = reader.rows(length)
        assert [r.tolist() for r in rows] == [
            [packing.count_rows(reader.lengths("targets", s), length)] for s in range(3)
        ]
        assert {r.dtype for r in rows} == {np.dtype(np.int64)}
    for feature in ("targets", "mel"):
        assert [b.tolist() for b in reader.block_tokens(feature)] == [
            [int(reader.lengths(feature, s).sum())] for s in range(3)
        ]
    assert reader.rows(100) is None and reader.block_tokens("inputs") is None


def test_an_unreadable_shard_is_named(tmp_path, monkeypatch):
    reader = CacheReader(make_cache(tmp_path, make_records(30)))

    def fail(path):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(storage, "map_bytes", fail)
    for read in (reader.data, reader.index):
        with pytest.raises(CacheError, match=f"{SHARD}.* cannot be read"):
            read(0)


def test_maps_do_not_pile_up(tmp_path, monkeypatch):
    monkeypatch.setattr(cache_reader, "_MAPS_KEPT", 2)
    monkeypatch.setattr(cache_reader, "_LINEAGES_KEPT", 2)
    make_cache(tmp_path / "toy", make_records(60), name="toy", num_shards=6)
    reader = cache_reader.CacheReader(str(tmp_path / "toy"))
    for _ in range(2):
        for record in range(len(reader)):
            assert reader.find(reader.document(record)[0]) == record
            assert len(reader[record]["targets"]) == len(reader.tokens(record))
    assert [len(table) for table in (reader._data, reader._indexes, reader._lineages)] == [2, 2, 2]


def test_threads_share_a_reader(tmp_path, monkeypatch):
    """As the threads of a ReadAhead do, with so little room that each throws out what the others have opened."""
    monkeypatch.setattr(cache_reader, "_MAPS_KEPT", 6)
    monkeypatch.setattr(cache_reader, "_TOKEN_RECORDS_KEPT", 20)
    make_cache(tmp_path / "toy", make_records(120), name="toy", num_shards=40, splits=("train",))
    expected = cache_reader.CacheReader(str(tmp_path / "toy"))
    expected = [expected.tokens(record).tolist() for record in range(len(expected))]
    reader = cache_reader.CacheReader(str(tmp_path / "toy"))

    def read(start):
        for record in [*range(start, len(reader)), *range(start)]:
            shard, row = reader.locate(record)
            assert reader.stored_tokens(shard, row, 0, len(expected[record])).tolist() == expected[record]

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            list(pool.map(read, range(0, 120, 5)))
    finally:
        sys.setswitchinterval(interval)
    assert (
        len(reader._tokens) <= 6
        and sum(len(reader._tokens.get(shard)[3]) for shard in list(reader._tokens._entries)) <= 20
    )
