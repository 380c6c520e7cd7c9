"""The corpus on disk: equal bytes for equal documents, readable by other tools, and rejected if damaged."""

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from castor.pipelines.core import dead_letters
from castor.pipelines.core.funnel import Funnel, total
from castor.pipelines.corpus.commit import commit, read_entries, sum_funnels
from castor.pipelines.corpus.reader import CorpusSource, load_manifest, read_corpus, read_shard
from castor.pipelines.corpus.rows import encode_element, encode_read, encode_removal
from castor.pipelines.corpus.shard_writer import write_shard
from castor.pipelines.document import DeadLetter, Document, Rejection, document_id
from castor.tasks import hashing
from castor.tasks.errors import CorpusError


def document(number, text="text", data=None, **metadata):
    return Document(document_id("test", str(number)), f"file#line={number}", "text", text, data, metadata)


def rows_of(elements, removals=(), read=None, keep_rejects=False):
    rows = [encode_element(e, keep_rejects)[1] for e in elements]
    rows += [encode_removal(*r)[1] for r in removals]
    return rows + [encode_read("uri", len(elements) if read is None else read)[1]]


def write(directory, elements, removals=(), read=None, num_shards=1, seed=0, **options):
    rows = rows_of(elements, removals, read, options.get("keep_rejects", False))
    random.Random(seed).shuffle(rows)
    staging = str(directory / ".staging-x")
    write_shard(staging, 0, num_shards, rows, **options)
    return read_entries(staging, 1)[0], staging


MIXED = [
    *(document(i, f"text {i} \U0001f600", language="en", n=i) for i in range(50)),
    document(100, None, b"\0\xff" * 10),
    Rejection(document(101, "long " * 1000), "rules.long", "5"),
    DeadLetter(document_id("test", "102"), "file#offset=3", "source", "broken", "\ud800"),
]


def test_order_of_arrival_leaves_no_trace(tmp_path):
    entry, _ = write(tmp_path, MIXED)
    again, _ = write(tmp_path / "b", list(reversed(MIXED)), seed=9)
    assert entry == again
    assert (entry["shard"]["records"], entry["funnel"]["read"]) == (51, 53)


def test_shard_entry_counts_everything(tmp_path):
    entry, staging = write(
        tmp_path,
        [*MIXED, MIXED[0]],
        [(MIXED[3].id, "exact"), (MIXED[3].id, "near"), (MIXED[4].id, "near")],
        keep_rejects=True,
    )
    funnel = Funnel.from_json(entry["funnel"])
    assert funnel.adds_up and funnel.kept == 49
    assert funnel.duplicates == {"exact": 1, "near": 1, "id": 1} and funnel.rejected == {"rules.long": 1}
    [rejected] = read_shard(f"{staging}/rejected/rules.long/00000-of-00001.parquet")
    assert rejected.text == "long " * 1000
    assert list(dead_letters.read(staging)) == [MIXED[-1]]


def test_what_parquet_cannot_carry_is_a_dead_letter(tmp_path):
    bad = [document(1, "\ud800"), document(2, a=float("nan")), document(3, b="\udfff")]
    entry, staging = write(tmp_path, bad)
    funnel = Funnel.from_json(entry["funnel"])
    assert funnel.kept == 0 and funnel.dead_letters == {"sink.lone_surrogate": 2, "sink.metadata": 1} and funnel.adds_up


def test_names_that_are_not_unicode_are_escaped(tmp_path):
    import dataclasses

    entry, staging = write(tmp_path, [dataclasses.replace(document(1), source="caf\udce9.txt")])
    assert next(read_shard(f"{staging}/documents-00000-of-00001.parquet")).source == "caf\\udce9.txt"


def test_reason_must_be_fit_for_a_folder():
    for reason in ("../x", "a/b", "", ".hidden", "a b"):
        with pytest.raises(ValueError, match="cannot name a folder"):
            encode_element(Rejection(document(1), reason), False)


def commit_to(directory, documents, num_shards=3):
    directory.mkdir(parents=True, exist_ok=True)
    staging = str(directory / ".staging-x")
    for shard in range(num_shards):
        mine = [d for d in documents if hashing.shard_of(int(d.id[:16], 16), num_shards) == shard]
        write_shard(staging, shard, num_shards, rows_of(mine))
    entries = read_entries(staging, num_shards)
    manifest = {
        "kind": "corpus",
        "format": 1,
        "name": "t",
        "shards": [e["shard"] for e in entries],
        "funnel": sum_funnels(entries).to_json(),
    }
    commit(staging, str(directory), manifest)
    return manifest


def test_written_is_read_in_order_of_id(tmp_path):
    documents = [
        document(i, f"text {i}", bytes([i]), language="de", nested={"b": [1, None], "a": 0.5}) for i in range(40)
    ]
    commit_to(tmp_path, documents)
    assert list(read_corpus(str(tmp_path))) == sorted(documents, key=lambda d: d.id)
    assert [d for uri in CorpusSource(str(tmp_path)).files() for d in CorpusSource(str(tmp_path)).read(uri)] == list(
        read_corpus(str(tmp_path))
    )


def test_pandas_and_duckdb_open_it(tmp_path):
    duckdb, pandas = pytest.importorskip("duckdb"), pytest.importorskip("pandas")
    commit_to(tmp_path, [document(i, f"text {i}", language="de") for i in range(40)])
    assert duckdb.sql(
        f"select count(*), min(json_extract_string(metadata, '$.language')) from '{tmp_path}/*.parquet'"
    ).fetchall() == [(40, "de")]
    frame = pandas.concat(pandas.read_parquet(p) for p in sorted(tmp_path.glob("*.parquet")))
    assert (
        list(frame.columns) == ["id", "source", "modality", "text", "bytes", "metadata"]
        and frame.id.is_monotonic_increasing
    )
    assert json.loads(frame.metadata.iloc[0]) == {"language": "de"}


def test_a_smaller_corpus_leaves_nothing_of_a_larger_one(tmp_path):
    commit_to(tmp_path, [document(i) for i in range(40)], num_shards=5)
    (tmp_path / "mine.txt").write_text("not ours")
    commit_to(tmp_path, [document(i) for i in range(4)], num_shards=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "dead_letter",
        "documents-00000-of-00002.parquet",
        "documents-00001-of-00002.parquet",
        "fates",
        "manifest.json",
        "mine.txt",
    ]
    assert len(list(tmp_path.glob("dead_letter/*"))) == 2


def test_damage_is_found_and_named(tmp_path):
    commit_to(tmp_path, [document(i, "word " * 50) for i in range(40)])
    with pytest.raises(CorpusError, match="nowhere does not exist"):
        load_manifest(str(tmp_path / "nowhere"))
    shard = tmp_path / "documents-00001-of-00003.parquet"
    good = shard.read_bytes()
    flipped = bytearray(good)
    flipped[len(good) // 2] ^= 1
    shard.write_bytes(flipped)
    with pytest.raises(CorpusError, match="documents-00001-of-00003.parquet is damaged"):
        list(read_corpus(str(tmp_path)))
    shard.write_bytes(good[:-1])
    with pytest.raises(CorpusError, match=f"has {len(good) - 1} bytes where the manifest says {len(good)}"):
        list(read_corpus(str(tmp_path)))
    shard.unlink()
    with pytest.raises(CorpusError, match="is missing"):
        list(read_corpus(str(tmp_path)))
    (tmp_path / "manifest.json").write_text('{"kind": "cache", "format": 1, "shards": []}')
    with pytest.raises(CorpusError, match="has kind 'cache'"):
        load_manifest(str(tmp_path))
    for text in ("{", "[]", "[" * 100_000, '{"kind": 5}', "\xff"):
        (tmp_path / "manifest.json").write_bytes(text.encode("latin-1"))
        with pytest.raises(CorpusError, match="cannot be read"):
            load_manifest(str(tmp_path))


def test_a_pipeline_that_skipped_a_shard_cannot_commit(tmp_path):
    _, staging = write(tmp_path, MIXED)
    with pytest.raises(CorpusError, match="1 of 2 shards"):
        read_entries(staging, 2)


counts = st.dictionaries(st.sampled_from(["a", "b.c", "d"]), st.integers(0, 9))


@settings(derandomize=True, deadline=None)
@given(st.lists(st.builds(Funnel, st.integers(0, 99), st.integers(0, 99), counts, counts, counts), max_size=5))
def test_funnels_add(funnels):
    summed = total(funnels)
    assert summed.accounted == sum(f.accounted for f in funnels) and summed.read == sum(f.read for f in funnels)
    assert Funnel.from_json(json.loads(json.dumps(summed.to_json()))) == summed
