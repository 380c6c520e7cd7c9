"""Exports: other libraries read back the cache in its order.

Exports are byte-identical each time, and no partial or wrong file is ever left.
"""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from small_caches import DENSE, make_cache, make_records

from castor import tasks
from castor.tasks.cache.features import TARGETS, Record
from castor.tasks.cache.manifest import load_manifest
from castor.tasks.errors import CacheError, ConfigurationError
from castor.tasks.integrations import export as exports
from castor.tasks.storage import storage

WIDE = {
    "targets": {"dtype": "int64", "rank": 1},
    "patches": {"dtype": "float32", "rank": 4, "shape": [None, 2, 3, 1]},
    "codes": {"dtype": "int32", "rank": 2, "shape": [None, 5]},
}


def wide_records(count):
    result = []
    for record in make_records(count):
        n = int(record.id[:4], 16) % 7
        patches = np.arange(n * 6, dtype=np.float32).reshape(n, 2, 3, 1) / 7
        codes = -np.arange(n * 5).reshape(n, 5)
        result.append(Record(record.id, record.source, {**record.features, "patches": patches, "codes": codes}))
    return result


CACHES = {
    "tokens": (make_records, TARGETS),
    "dense": (lambda n: make_records(n, DENSE), DENSE),
    "wide": (wide_records, WIDE),
}


@pytest.fixture(scope="module")
def caches(tmp_path_factory):
    directory = tmp_path_factory.mktemp("caches")
    return {
        name: make_cache(directory / name, make(60), features, name=name) for name, (make, features) in CACHES.items()
    }


def files_of(directory):
    return {p.relative_to(directory).as_posix(): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


def same(got, expected):
    """A nested list or array of a reader against the cache's array."""
    got = np.array(
        got.tolist() if isinstance(got, np.ndarray) and got.dtype != object else nested(got), dtype=expected.dtype
    )
    np.testing.assert_array_equal(got.reshape(expected.shape), expected)
    assert got.size == expected.size


def nested(value):
    return [nested(v) for v in value] if isinstance(value, (list, tuple, np.ndarray)) else value


@pytest.mark.parametrize("name", CACHES)
def test_parquet_in_pandas_and_duckdb(caches, tmp_path, name):
    import duckdb
    import pandas

    done = exports.export(caches[name], tmp_path / "out", "parquet")
    reader = tasks.CacheReader(caches[name])
    assert done.written == 6 and done.manifest["splits"]["train"]["records"] == len(reader) == 60
    paths = sorted((tmp_path / "out").glob("train-*.parquet"))
    assert [p.name for p in paths] == [f"train-{s:05d}-of-00003.parquet" for s in range(3)]
    frame = pandas.concat([pandas.read_parquet(p) for p in paths], ignore_index=True)
    assert list(frame.columns) == ["id", "source", *sorted(reader.manifest.features)]
    rows = [row for p in paths for row in duckdb.sql(f"from '{p}'").fetchall()]
    assert len(frame) == len(rows) == 60
    for record in range(60):
        arrays = reader[record]
        assert (frame["id"][record], frame["source"][record]) == reader.document(record) == rows[record][:2]
        for column, feature in enumerate(sorted(arrays), start=2):
            same(frame[feature][record], arrays[feature])
            same(rows[record][column], arrays[feature])
    assert duckdb.sql(f"select sum(len(targets)) from '{tmp_path / 'out'}/*.parquet'").fetchall() == [
        (reader.manifest.tokens("train"),)
    ]


def test_parquet_schema_says_shape_and_type(caches, tmp_path):
    import pyarrow.parquet

    exports.export(caches["wide"], tmp_path, "parquet", ["train"])
    file = pyarrow.parquet.ParquetFile(tmp_path / "train-00000-of-00003.parquet")
    kinds = {field.name: str(field.type).replace("element: ", "").replace("item: ", "") for field in file.schema_arrow}
    assert kinds == {
        "id": "string",
        "source": "string",
        "codes": "list<fixed_size_list<int32>[5]>",
        "patches": "list<fixed_size_list<fixed_size_list<fixed_size_list<float>[1]>[3]>[2]>",
        "targets": "list<int64>",
    }
    assert file.metadata.row_group(0).column(0).compression == "ZSTD"


def test_row_groups_are_bounded(caches, tmp_path, monkeypatch):
    import pyarrow.parquet

    monkeypatch.setattr(exports, "ROW_GROUP_BYTES", 500)
    monkeypatch.setattr(exports, "ROW_GROUP_RECORDS", 5)
    exports.export(caches["tokens"], tmp_path, "parquet", ["train"])
    reader, start, ends = tasks.CacheReader(caches["tokens"]), 0, set()
    for path in sorted(tmp_path.glob("*.parquet")):
        metadata = pyarrow.parquet.ParquetFile(path).metadata
        for group in range(metadata.num_row_groups):
            rows = range(start, start + metadata.row_group(group).num_rows)
            size, last = sum(4 * len(reader[r]["targets"]) for r in rows), 4 * len(reader[rows[-1]]["targets"])
            assert len(rows) <= 5 and size - last < 500
            assert len(rows) == 5 or size >= 500 or group == metadata.num_row_groups - 1
            ends.add((len(rows) == 5, size >= 500))
            start = rows.stop
    assert start == len(reader) and {(True, False), (False, True)} <= ends


@pytest.mark.parametrize("name", CACHES)
def test_arrayrecord_holds_the_examples_as_stored(caches, tmp_path, name):
    module = pytest.importorskip("array_record.python.array_record_module")
    exports.export(caches[name], tmp_path, "arrayrecord")
    source = tasks.CacheReader(caches[name])
    stored = []
    for shard in range(3):
        reader = module.ArrayRecordReader(str(tmp_path / f"train-{shard:05d}-of-00003.arrayrecord"))
        assert "group_size:1," in reader.writer_options_string()
        stored += reader.read_all() if reader.num_records() else []
    assert stored == [source.payload(record) for record in range(len(source))]
    assert module.ArrayRecordReader(str(tmp_path / "validation-00002-of-00003.arrayrecord")).num_records() == 0


def test_arrayrecord_in_grain(caches, tmp_path):
    grain = pytest.importorskip("grain.sources")
    exports.export(caches["tokens"], tmp_path, "arrayrecord", ["train"])
    data = grain.ArrayRecordDataSource(sorted(map(str, tmp_path.glob("train-*.arrayrecord"))))
    source = tasks.CacheReader(caches["tokens"])
    assert len(data) == len(source)
    for record in (41, 0, 59, 7):
        assert data[record] == source.payload(record)


@pytest.mark.parametrize("to", exports.FORMATS)
def test_same_bytes_and_the_manifest_knows_them(caches, tmp_path, to):
    first, second = (exports.export(caches["dense"], tmp_path / out, to) for out in "ab")
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b") and first.manifest == second.manifest
    manifest = json.loads((tmp_path / "a" / "manifest.json").read_text())
    source = load_manifest(caches["dense"])
    assert (manifest["kind"], manifest["format"], manifest["content_fingerprint"]) == (
        "export",
        to,
        source.content_fingerprint,
    )
    listed = [file for split in manifest["splits"].values() for file in split["files"]]
    assert sorted([f["file"] for f in listed] + ["manifest.json"]) == sorted(files_of(tmp_path / "a")), (
        "and nothing else is left there"
    )
    for file in listed:
        path = tmp_path / "a" / file["file"]
        assert (path.stat().st_size, storage.sha256(path)) == (file["bytes"], file["sha256"])
    for split in source.splits:
        assert manifest["splits"][split]["records"] == source.records(split)
        assert manifest["splits"][split]["tokens"] == {name: source.tokens(split, name) for name in source.features}


class Stop(BaseException):
    """As KeyboardInterrupt, which pytest would take for its own."""


@pytest.mark.parametrize("to", exports.FORMATS)
def test_stopped_anywhere_it_shows_nothing_and_goes_on(caches, tmp_path, monkeypatch, to):
    """Stopped before each of its changes to the disk in turn, and run again.

    The bytes are the same, and nothing finished is written twice.
    """
    exports.export(caches["dense"], tmp_path / "whole", to)
    expected = files_of(tmp_path / "whole")
    for stop in range(1000):
        output, steps = tmp_path / f"stopped{stop}", []
        with monkeypatch.context() as patch:
            for name in ("rename", "write_bytes_atomic", "remove_tree", "makedirs"):

                def counted(*arguments, original=getattr(storage, name), steps=steps, stop=stop):
                    steps.append(1)
                    if len(steps) > stop:
                        raise Stop
                    return original(*arguments)

                patch.setattr(storage, name, counted)
            try:
                done = exports.export(caches["dense"], output, to)
                assert done.written == 6
                break
            except Stop:
                pass
        finished = len(list(output.glob(".export/*-of-*.json"))) if output.exists() else 0
        visible = [name for name in storage.list_files(output) if not name.startswith(".")]
        assert not visible or finished == 6 or (output / "manifest.json").exists()
        done = exports.export(caches["dense"], output, to)
        assert done.kept == (6 if (output / "manifest.json").exists() and finished == 0 and visible else finished)
        assert files_of(output) == expected
    assert 12 < stop < 100


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_killed_it_goes_on(tmp_path, how):
    directory = make_cache(tmp_path / "cache", make_records(400), num_shards=40, splits=("train",))
    program = (
        "import signal, sys, time; signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background jobs ignore it
        "from castor.tasks.integrations import export; write = export._write_parquet; left = [None] * 5\n"
        "def slow(*a): print('shard', flush=True); left.pop() if left else time.sleep(600); write(*a)\n"
        "export._write_parquet = slow\n"
        "export.export(sys.argv[1], sys.argv[2], 'parquet')"
    )
    command = [sys.executable, "-P", "-c", program, directory, str(tmp_path / "out")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    for _ in range(6):
        process.stdout.readline()
    process.send_signal(how)
    process.communicate()
    left = [".export", ".lock"] if how == signal.SIGKILL else [".export"]
    assert storage.list_files(tmp_path / "out") == left
    done = exports.export(directory, tmp_path / "out", "parquet")
    exports.export(directory, tmp_path / "whole", "parquet")
    assert done.kept == 5 and files_of(tmp_path / "out") == files_of(tmp_path / "whole")


def test_what_is_right_is_kept_and_what_is_damaged_written_again(caches, tmp_path):
    exports.export(caches["tokens"], tmp_path, "parquet")
    expected = files_of(tmp_path)
    again = exports.export(caches["tokens"], tmp_path, "parquet")
    assert (again.written, again.kept) == (0, 6)
    damaged = bytearray(expected["train-00001-of-00003.parquet"])
    damaged[len(damaged) // 2] ^= 1
    (tmp_path / "train-00001-of-00003.parquet").write_bytes(bytes(damaged))
    (tmp_path / "train-00002-of-00003.parquet").unlink()
    again = exports.export(caches["tokens"], tmp_path, "parquet")
    assert (again.written, again.kept) == (2, 4) and files_of(tmp_path) == expected


def test_splits_one_after_the_other(caches, tmp_path):
    exports.export(caches["tokens"], tmp_path / "a", "parquet", ["validation"])
    assert len(storage.list_files(tmp_path / "a")) == 4
    assert exports.export(caches["tokens"], tmp_path / "a", "parquet", ["train", "train"]).written == 3
    exports.export(caches["tokens"], tmp_path / "b", "parquet")
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")


def test_progress_adds_up(caches, tmp_path):
    for to in exports.FORMATS:
        for _ in range(2):
            told = []
            exports.export(caches["tokens"], tmp_path / to, to, advance=told.append)
            assert sum(told) == 60


@pytest.mark.parametrize(
    "prepare, match",
    [
        (
            lambda caches, out: exports.export(caches["dense"], out, "parquet"),
            "has an export of dense, and the content of .*tokens is different now",
        ),
        (
            lambda caches, out: exports.export(caches["tokens"], out, "arrayrecord"),
            "has an export with format arrayrecord",
        ),
        (lambda caches, out: make_cache(out, make_records(3)), "has a cache, not an export"),
        (
            lambda caches, out: storage.write_bytes_atomic(out / "notes.txt", b"mine"),
            "is not empty and has no export",
        ),
        (
            lambda caches, out: storage.write_bytes_atomic(out / "manifest.json", b"[1]"),
            "has a manifest.json, not an export",
        ),
        (
            lambda caches, out: storage.write_bytes_atomic(out / "manifest.json", b"\xff{"),
            "has a manifest.json, not an export",
        ),
        (
            lambda caches, out: (
                (out / ".export").mkdir() or (out / ".export" / "plan.json").write_text('{"kind": "other"}')
            ),
            "has a other",
        ),
    ],
)
def test_it_overwrites_nothing_else(caches, tmp_path, prepare, match):
    out = tmp_path / "out"
    out.mkdir()
    prepare(caches, out)
    before = files_of(out)
    with pytest.raises(ConfigurationError, match=match):
        exports.export(caches["tokens"], out, "parquet")
    assert files_of(out) == before


def test_bad_use(caches, tmp_path, monkeypatch):
    with pytest.raises(ConfigurationError, match="Did you mean parquet"):
        exports.export(caches["tokens"], tmp_path, "parkett")
    with pytest.raises(CacheError, match="no split 'tset'"):
        exports.export(caches["tokens"], tmp_path, "parquet", ["tset"])
    with pytest.raises(CacheError, match="no task cache"):
        exports.export(tmp_path / "nothing", tmp_path, "parquet")
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="file is a file"):
        exports.export(caches["tokens"], tmp_path / "file", "parquet")
    monkeypatch.setitem(sys.modules, "array_record.python", None)
    with pytest.raises(ConfigurationError, match=r"castor\[arrayrecord\]"):
        exports.export(caches["tokens"], tmp_path / "out", "arrayrecord")
    features = {"id": {"dtype": "int32", "rank": 1}}
    named = make_cache(tmp_path / "named", [Record("0" * 32, "s", {"id": np.array([3, 1])})], features)
    with pytest.raises(ConfigurationError, match="feature 'id'"):
        exports.export(named, tmp_path / "out", "parquet")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("to", exports.FORMATS)
def test_a_flipped_bit_stops_it(tmp_path, to):
    directory = make_cache(tmp_path / "cache", make_records(60))
    shard = tmp_path / "cache" / "train.tfrecord-00001-of-00003"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(bytes(data))
    with pytest.raises(CacheError, match="train.tfrecord-00001-of-00003"):
        exports.export(directory, tmp_path / "out", to)
    assert storage.list_files(tmp_path / "out") == [".export"]


def test_a_cache_replaced_under_it_stops_it(tmp_path, monkeypatch):
    """The new cache is valid, with the same sizes and counts, but it is not the one that the run began with."""
    directory = make_cache(tmp_path / "cache", make_records(60))
    original, calls = exports._write_parquet, []

    def replacing(*arguments):
        calls.append(1)
        if len(calls) == 3:
            original(*arguments)
        if len(calls) in (2, 3):
            make_cache(directory, [Record(r.id, r.source + "x" * len(calls), r.features) for r in make_records(60)])
        if len(calls) != 3:
            original(*arguments)

    monkeypatch.setattr(exports, "_write_parquet", replacing)
    with pytest.raises(
        CacheError, match="lineage/train-00001-of-00003.parquet is damaged or of another cache|was changed or replaced"
    ):
        exports.export(directory, tmp_path / "out", "parquet")
    monkeypatch.setattr(exports, "_SHARDS_PER_READER", 1)
    with pytest.raises(CacheError, match="was remade during its export"):
        exports.export(directory, tmp_path / "again", "parquet")
    assert storage.list_files(tmp_path / "out") == storage.list_files(tmp_path / "again") == [".export"]
    monkeypatch.undo()
    assert exports.export(directory, tmp_path / "out", "parquet").kept == 0, "what has the old sources is not kept"
    exports.export(directory, tmp_path / "fresh", "parquet")
    assert files_of(tmp_path / "out") == files_of(tmp_path / "fresh")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("to", exports.FORMATS)
def test_a_full_disk_is_said(caches, tmp_path, monkeypatch, to):
    original = {"parquet": exports._write_parquet, "arrayrecord": exports._write_arrayrecord}[to]
    monkeypatch.setattr(exports, original.__name__, lambda path, *arguments: original("/dev/full", *arguments))
    with pytest.raises(CacheError, match="the export of .* stopped: .*is the disk full.*Run the same command again"):
        exports.export(caches["tokens"], tmp_path / "out", to)


def test_no_reader_keeps_more_than_a_few_shards(tmp_path, monkeypatch):
    directory = make_cache(tmp_path / "cache", make_records(100), num_shards=50, splits=("train",))
    opened = []
    original = exports.cache_reader.CacheReader
    monkeypatch.setattr(exports.cache_reader, "CacheReader", lambda *a: opened.append(original(*a)) or opened[-1])
    exports.export(directory, tmp_path / "out", "parquet")
    assert len(opened) == 4


def test_the_module_needs_nothing_heavy():
    heavy = "{'tensorflow', 'seqio', 'jax', 'pyarrow', 'array_record'}"
    program = f"import sys, castor.tasks.integrations.export; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True).stdout.strip() == "[]"
