"""The table of outcomes: one row per record read, found by id, URL and source."""

import pytest

from castor.pipelines.corpus import outcomes
from castor.pipelines.document import DeadLetter, Document
from castor.tasks.errors import CorpusError


def make(count):
    urls = [f"http://www.e.org/{i}/" for i in range(count)]
    ids = [f"{i * 16**31 // 4:032x}" for i in range(count)]
    documents = [
        Document(x, f"/in/a.warc#offset={i}", "text", metadata={"url": url})
        for i, (x, url) in enumerate(zip(ids, urls))
    ]
    return [outcomes.of_document(document, "kept") for document in documents] + [
        outcomes.of_letter(DeadLetter("f" * 32, "/in/\udc80", "source", "bad", "m" * 999))
    ]


def test_rows_come_back_by_id_url_and_source(tmp_path):
    rows = make(40)
    for shard in range(2):
        outcomes.write(str(tmp_path), shard, 2, reversed([row for row in rows if (int(row.id[0], 16) >= 8) == shard]))
    assert list(outcomes.find(str(tmp_path), id=rows[7].id)) == [rows[7]]
    assert list(outcomes.find(str(tmp_path), id="0" * 31 + "1")) == []
    assert list(outcomes.find(str(tmp_path), url="https://e.org/12")) == [rows[12]]
    assert (
        list(outcomes.find(str(tmp_path), source="a.warc#offset=3"))
        == [rows[3]]
        == list(outcomes.find(str(tmp_path), source=rows[3].source))
    )
    assert list(outcomes.find(str(tmp_path), source="warc#offset=3")) == []
    [letter] = outcomes.find(str(tmp_path), id="f" * 32)
    assert (letter.outcome, letter.reason, letter.source, letter.url, len(letter.measure)) == (
        "dead letter",
        "source.bad",
        "/in/\\udc80",
        None,
        300,
    )
    for units, count in ((("/in/a.warc",), 40), (("/in/",), 41), (("/in/./",), 41), (("/in/a", "/i"), 0)):
        assert len(outcomes.marks_in(str(tmp_path), units)) == count


def test_order_of_arrival_does_not_show(tmp_path):
    for name, rows in (("a", make(9)), ("b", make(9)[::-1])):
        outcomes.write(str(tmp_path / name), 0, 1, rows)
    one, other = ((tmp_path / name / outcomes.file_name(0, 1)).read_bytes() for name in "ab")
    assert one == other


def test_an_empty_shard(tmp_path):
    outcomes.write(str(tmp_path), 0, 1, [])
    assert [
        *outcomes.find(str(tmp_path), source="a"),
        *outcomes.find(str(tmp_path), url="a"),
        *outcomes.find(str(tmp_path), id="0" * 32),
    ] == []


def test_a_corpus_without_a_table(tmp_path):
    with pytest.raises(CorpusError, match="Run its job again"):
        list(outcomes.find(str(tmp_path), url="http://e.org/"))
