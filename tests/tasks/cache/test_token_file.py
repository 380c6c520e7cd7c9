"""The token file: the same tokens as in the shard's records, checked when read, and not required to read a cache."""

import json

import numpy as np
import pytest
import small_caches as caches
from hypothesis import given, settings
from hypothesis import strategies as st

from castor import tasks
from castor.tasks.cache import records, verify
from castor.tasks.cache.features import Record
from castor.tasks.cache.manifest import manifest_checksum
from castor.tasks.cache.reader import CacheReader
from castor.tasks.cache.token_file import (
    CRC_BYTES,
    TOKEN_DTYPES,
    TOKENS_PER_CRC,
    encode_tokens,
    encoded_tokens_bytes,
    token_dtype,
)
from castor.tasks.errors import CacheError

SHARD = "train.tfrecord-00000-of-00001"
LONG = 3 * TOKENS_PER_CRC + 5


@pytest.fixture
def directory(tmp_path):
    """Thirty short records and a long one, ids below 2**16."""
    small = caches.make_records(30)
    small = [Record(r.id, r.source, {"targets": r.features["targets"] % 60000 + 2}) for r in small]
    long = Record("0" * 32, "long", {"targets": np.arange(LONG) % 60000 + 2})
    caches.make_cache(tmp_path / "toy", [*small, long], name="toy", num_shards=1)
    return tmp_path / "toy"


def without_token_files(directory):
    """Turns a cache into one that was made before there were such files."""
    manifest = json.loads((directory / "manifest.json").read_text())
    for split in manifest["splits"].values():
        for shard in split["shards"]:
            del shard["token_file"]
            (directory / (shard["file"] + ".tokens")).unlink(missing_ok=True)
    manifest["checksum"] = manifest_checksum(manifest)
    (directory / "manifest.json").write_text(json.dumps(manifest))


def batches(directory, length=64):
    return tasks.Batches(str(directory), 4, {"targets": length}, seed=1)


@settings(derandomize=True, deadline=None)
@given(st.lists(st.integers(0, 2**32 - 1), max_size=50), st.sampled_from(TOKEN_DTYPES))
def test_the_bytes_of_a_record(ids, dtype):
    ids = np.array(ids, dtype=np.int64) % (np.iinfo(dtype).max + 1)
    data = encode_tokens(ids, dtype)
    assert len(data) == encoded_tokens_bytes([len(ids)], dtype)[0]
    if len(ids):
        assert int.from_bytes(data[:4], "little") == records.crc32c(data[4:])
        assert np.frombuffer(data[4:], "<" + np.dtype(dtype).str[1:]).tolist() == ids.tolist()


def test_golden_bytes():
    assert encode_tokens(np.array([1, 2, 515]), "uint16").hex() == "7ceca1d2010002000302"
    assert encode_tokens(np.array([70000]), "uint32").hex() == "15c6c11b70110100"
    assert [token_dtype(n) for n in (0, 65535, 65536, 2**32 - 1, 2**32)] == [
        "uint16",
        "uint16",
        "uint32",
        "uint32",
        None,
    ]


def test_it_holds_the_tokens_of_the_records(directory):
    reader = CacheReader(str(directory))
    assert reader.manifest.shards("train")[0]["token_file"]["dtype"] == "uint16"
    for record in range(len(reader)):
        tokens = reader[record]["targets"]
        assert reader.stored_tokens(0, record, 0, len(tokens)).tolist() == tokens.tolist()
    longest = int(np.argmax(reader.lengths()))
    for start, stop in ((0, 1), (4095, 4097), (4096, 8192), (LONG - 1, LONG), (100, LONG)):
        assert reader.stored_tokens(0, longest, start, stop).tolist() == reader.tokens(longest, start, stop).tolist()


@pytest.mark.parametrize("length", [64, 2048])
def test_batches_are_the_same_without_it(directory, length):
    expected = [batches(directory, length).batch(step) for step in range(12)]
    without_token_files(directory)
    assert not verify.verify(str(directory))
    opened = batches(directory, length)
    assert not opened.components[0].reader.has_tokens(0)
    for step, batch in enumerate(expected):
        for name, array in opened.batch(step).items():
            np.testing.assert_array_equal(array, batch[name])


def test_a_flipped_bit_is_found_where_it_is_read(directory):
    path = directory / (SHARD + ".tokens")
    data = path.read_bytes()
    reader = CacheReader(str(directory))
    lengths = reader.lengths().astype(int)
    longest = int(np.argmax(lengths))
    begin = int(encoded_tokens_bytes(lengths[:longest], "uint16").sum()) + 4 * CRC_BYTES
    flipped = begin + 2 * (TOKENS_PER_CRC + 7)
    path.write_bytes(data[:flipped] + bytes([data[flipped] ^ 4]) + data[flipped + 1 :])
    reader = CacheReader(str(directory))
    assert len(reader.stored_tokens(0, longest, 0, TOKENS_PER_CRC)) == TOKENS_PER_CRC
    with pytest.raises(CacheError, match=f"{SHARD}.tokens record {longest} has a wrong checksum"):
        reader.stored_tokens(0, longest, 0, TOKENS_PER_CRC + 1)
    with pytest.raises(CacheError, match=f"{SHARD}.tokens"):
        for step in range(200):
            batches(directory).batch(step)
    kinds = {(problem.file, problem.kind) for problem in verify.verify(str(directory))}
    assert kinds == {(SHARD + ".tokens", "checksum"), (SHARD + ".tokens", "tokens")}


@pytest.mark.parametrize("place", [3, 14, -2])
def test_a_flipped_bit_in_the_shard_is_found_too(directory, place):
    """In the length, in the payload and in the checksum of a record."""
    path = directory / SHARD
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
    with pytest.raises(CacheError, match=f"{SHARD}: "):
        for step in range(60):
            batches(directory).batch(step)


def test_a_cut_missing_or_changed_file_is_refused(directory):
    path = directory / (SHARD + ".tokens")
    data = path.read_bytes()
    opened = batches(directory)
    opened.batch(0)
    path.write_bytes(data[:-2])
    with pytest.raises(CacheError, match=f"{SHARD}.tokens was changed or replaced while in use"):
        opened.batch(1)
    with pytest.raises(CacheError, match=f"{SHARD}.tokens has {len(data) - 2} bytes; the manifest has {len(data)}"):
        batches(directory)
    assert {problem.kind for problem in verify.verify(str(directory))} == {"cut", "checksum", "tokens"}
    path.unlink()
    with pytest.raises(CacheError, match=f"{SHARD}.tokens of the manifest is missing"):
        batches(directory)
    assert {problem.kind for problem in verify.verify(str(directory))} == {"missing"}


def test_tokens_that_are_no_ids_have_none(tmp_path):
    odd = Record("0" * 32, "odd", {"targets": np.array([-1, 5])})
    caches.make_cache(tmp_path / "toy", [odd], name="toy", num_shards=1)
    reader = CacheReader(str(tmp_path / "toy"))
    assert not reader.has_tokens(0) and reader.tokens(0).tolist() == [-1, 5]
    assert not (tmp_path / "toy" / (SHARD + ".tokens")).exists()
    assert {problem.kind for problem in verify.verify(str(tmp_path / "toy"))} == {"vocabulary"}
