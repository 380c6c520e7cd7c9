"""Manifests: accepted only as written, parsed once, and if one is missing, the error says what is missing."""

import json
import os

import pytest
from small_caches import make_cache, make_records

from castor.tasks.cache import layout, writer
from castor.tasks.cache import reader as cache_reader
from castor.tasks.cache.manifest import load_manifest, manifest_checksum
from castor.tasks.errors import CacheError


def test_missing_and_half_written_caches_say_so(tmp_path):
    with pytest.raises(CacheError, match="no task cache at"):
        load_manifest(str(tmp_path / "nothing"))
    with pytest.raises(CacheError, match="is not a task cache"):
        load_manifest(str(tmp_path))
    writer.begin(str(tmp_path))
    with pytest.raises(CacheError, match="half-written"):
        load_manifest(str(tmp_path))


@pytest.mark.parametrize(
    "change",
    [
        lambda m: [],
        lambda m: {**m, "format": 2},
        lambda m: {**m, "kind": "corpus"},
        lambda m: {**m, "seed": "0"},
        lambda m: {**m, "splits": {"train": {}}},
        lambda m: {
            **m,
            "splits": {
                "train": {"shards": [{**m["splits"]["train"]["shards"][0], "file": "../../etc/passwd"}], "records": 1}
            },
        },
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


@pytest.mark.parametrize(
    "change",
    [
        lambda shard: shard.update(records=-1),
        lambda shard: shard.update(records=True),
        lambda shard: shard.update(bytes="9"),
        lambda shard: shard.update(idx_sha256=None),
        lambda shard: shard["tokens"].update(targets=1.5),
        lambda shard: shard.update(longest={}),
        lambda shard: shard.update(rows=[]),
        lambda shard: shard["rows"].update({"64": 7}),
        lambda shard: shard["rows"].update({"64": [1, 1]}),
        lambda shard: shard["rows"].update({"64": [-1]}),
        lambda shard: shard["rows"].update({"64": [1 << 63]}),
        lambda shard: shard["rows"].update({"64": ["1"]}),
        lambda shard: shard["blocks"].update(targets=[True]),
        lambda shard: shard["blocks"].update(inputs=[1]),
    ],
)
def test_malformed_shards_are_refused(tmp_path, change):
    """Also where the checksum agrees."""
    directory = make_cache(tmp_path, make_records(20))
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    change(manifest["splits"]["train"]["shards"][1])
    manifest["checksum"] = manifest_checksum(manifest)
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CacheError, match="manifest.json is malformed"):
        load_manifest(directory)


def test_a_flipped_bit_anywhere_in_the_manifest_is_found(tmp_path):
    directory = make_cache(tmp_path, make_records(20), splits=("train",))
    path = tmp_path / "manifest.json"
    data = path.read_bytes()
    for place in range(0, len(data), 23):
        path.write_bytes(data[:place] + bytes([data[place] ^ (1 << place % 8)]) + data[place + 1 :])
        with pytest.raises(CacheError, match=str(tmp_path)):
            load_manifest(directory)
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(CacheError, match="manifest.json cannot be read"):
        load_manifest(directory)
    path.write_bytes(data)
    manifest = json.loads(data)
    del manifest["checksum"]
    path.write_text(json.dumps(manifest))
    with pytest.raises(CacheError, match="manifest.json was modified after it was written"):
        load_manifest(directory)


def test_a_manifest_that_has_not_changed_is_parsed_once(tmp_path):
    directory = make_cache(tmp_path, make_records(20))
    path = tmp_path / "manifest.json"
    assert load_manifest(directory) is not load_manifest(directory)  # just written: it could change and look the same
    os.utime(path, (1e9, 1e9))
    loaded = load_manifest(directory)
    assert load_manifest(directory) is loaded and cache_reader.CacheReader(directory).manifest is loaded
    data = path.read_bytes()
    path.write_bytes(data.replace(b'"toy"', b'"tox"'))
    with pytest.raises(CacheError, match="its own checksum differs"):
        load_manifest(directory)
    path.unlink()
    with pytest.raises(CacheError, match="half-written"):
        load_manifest(directory)
    make_cache(tmp_path, make_records(30))
    assert load_manifest(directory).records("train") == 30


def test_caches_that_count_no_rows_are_caches(tmp_path):
    """Made before rows were counted, or by another packing."""
    directory = make_cache(tmp_path, make_records(20))
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    for packing in ({"version": 0, "block_records": 7}, None):
        manifest["packing"] = packing
        for shard in manifest["splits"]["train"]["shards"]:
            if packing is None:
                del shard["rows"], shard["blocks"]
            else:
                shard["rows"]["64"] = shard["blocks"]["targets"] = [1, 2, 3, 4]
        manifest["checksum"] = manifest_checksum(manifest)
        (tmp_path / "manifest.json").write_text(json.dumps(manifest))
        reader = cache_reader.CacheReader(directory)
        assert reader.rows(64) is None and reader.block_tokens() is None and len(reader) == 20


def test_names_of_files():
    assert layout.shard_file("train", 3, 10) == "train.tfrecord-00003-of-00010"
    assert layout.lineage_file("train", 3, 10) == "lineage/train-00003-of-00010.parquet"
    assert layout.is_own_file("lineage/train-00003-of-00010.parquet") and layout.is_own_file("info.train.json")
    assert not layout.is_own_file("card.html") and not layout.is_own_file("lineage/card.html")
    assert layout.looks_like_cache(["train.tfrecord-00003-of-00010"]) and not layout.looks_like_cache(
        ["manifest.json", "plans"]
    )
