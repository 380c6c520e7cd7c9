"""End-to-end deduplication: order of rules, survivors, output of the sink, equal bytes for every way to run it."""

import json
import pathlib

import apache_beam as beam
import duplicates_job
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.util import assert_that

from castor.pipelines.corpus.reader import read_corpus, read_shard
from castor.pipelines.deduplication import duplicates_table
from castor.pipelines.deduplication.deduplicate import Deduplicate, ExactDuplicates
from castor.pipelines.deduplication.minhash import MinHash
from castor.pipelines.deduplication.rules import ByText, ByUrl, Longest, Newest, text_key
from castor.pipelines.deduplication.shared_lines import SharedLines
from castor.pipelines.document import Document, document_id
from castor.pipelines.execution import launcher
from castor.tasks.errors import ConfigurationError

TWO_WORKERS = ["--direct_running_mode=multi_processing", "--direct_num_workers=2"]
SENTENCE = "the quick brown fox jumps over the lazy dog and runs away from the seven angry bears of the north"


def document(number, text=SENTENCE, **metadata):
    return Document(document_id("test", str(number)), f"file#line={number}", "text", text, None, metadata)


def test_rows_of_exact_duplicates():
    documents = [document(i, text) for i, text in enumerate(["a  b", "a b", "c", "a\nb", "", ""])]
    same = sorted(d.id for d in documents if d.text[:1] == "a")
    expected = sorted([(same[1], "exact", same[0], 0), (same[2], "exact", same[0], 0), (same[0], "exact", "", 3)])

    def check(rows):
        assert sorted(rows) == expected

    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        elements = pipeline | beam.Create([*documents, documents[0]])  # one id twice: not a duplicate of itself
        assert_that(elements | ExactDuplicates(text_key), check, "old")
        assert_that(elements | Deduplicate((ByText(),)), check, "new")


def test_what_one_rule_removes_takes_nothing_with_it():
    """b is an old version of a (same URL); c has the text of b.

    c is kept, because b is removed before texts are compared.
    """
    a = document(1, SENTENCE, url="http://www.x.org/p?utm_source=1", date="2024-05-01T00:00:00Z")
    b = document(2, "something else entirely " + SENTENCE[:20], url="https://x.org/p/", date="20230501000000")
    c = document(3, b.text, url="http://y.org/p")
    d = document(4, a.text.upper() + "!", url="http://z.org")  # near, not exact; longer by one character
    expected = sorted([(b.id, "url", a.id, 0), (a.id, "url", "", 2), (a.id, "near", d.id, 0), (d.id, "near", "", 2)])

    def check(rows):
        assert sorted(rows) == expected

    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        assert_that(pipeline | beam.Create([a, b, c, d]) | Deduplicate((ByUrl(), ByText(), MinHash())), check)


def test_no_rules_and_rules_in_a_wrong_order():
    def check(rows):
        assert not list(rows)

    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        assert_that(pipeline | beam.Create([document(1), document(2)]) | Deduplicate(()), check)
    with pytest.raises(ConfigurationError, match="'near' .minhash.MinHash. is not the last"):
        Deduplicate((MinHash(), ByText()))


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """Three exact copies, a chain of near copies, one URL twice, and unrelated texts."""
    root = tmp_path_factory.mktemp("texts")
    words = [f"word{i * i % 97}x{i}" for i in range(200)]
    rows = [{"text": " ".join(words), "url": f"http://a.org/{i}"} for i in range(3)]
    rows += [
        {"text": " ".join(words[k:] + [f"new{i}" for i in range(k)]), "url": f"http://b.org/{k}"}
        for k in range(0, 40, 2)
    ]
    rows += [
        {"text": f"page {k} of the same address " + "and " * k + "so on", "url": "https://www.c.org/?ref=" + str(k)}
        for k in range(3)
    ]
    rows += [
        {"text": " ".join(f"other{k}y{i}" for i in range(120)) + "\nA line at the foot.", "url": f"http://d.org/{k}"}
        for k in range(40)
    ]
    for half in range(2):
        (root / f"{half}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[half::2]))
    return root


def run(texts, output, beam_args=(), **changes):
    made = duplicates_job.Job(
        name="d", input_root=str(texts), inputs=("*",), output=str(output), **{"num_shards": 3, **changes}
    )
    return launcher.run(made, beam_args, quiet=True)


def files_of(directory):
    return {
        str(p.relative_to(directory)): p.read_bytes() for p in sorted(pathlib.Path(directory).rglob("*")) if p.is_file()
    }


def test_job_funnel_table_and_equal_bytes(texts, tmp_path):
    lines = SharedLines(min_sentences=0)
    manifest = run(texts, tmp_path / "one", lines=lines)
    assert (
        manifest["funnel"]["duplicates"] == {"exact": 3, "near": 19, "url": 2} and manifest["funnel"]["kept"] == 66 - 24
    )
    assert manifest["clusters"] == {"exact": {"4": 1}, "near": {"16": 1}, "url": {"2": 1}}
    kept = {d.id: d for d in read_corpus(str(tmp_path / "one"))}
    rows = list(duplicates_table.read(str(tmp_path / "one")))
    assert [row["id"] for row in rows] == sorted(row["id"] for row in rows) and len(rows) == 24
    for row in rows:
        steps = duplicates_table.survivor_of(rows, row["id"])
        assert (
            row["id"] not in kept
            and steps[-1][1] in kept
            and steps[0][0] == row["kind"]
            and row["url"].startswith("http")
        )
    assert duplicates_table.survivor_of(rows, next(iter(kept))) == []
    assert sum("at the foot" in d.text for d in kept.values()) == 1
    run(texts, tmp_path / "two", TWO_WORKERS, lines=lines)
    assert files_of(tmp_path / "two") == files_of(tmp_path / "one")


def test_who_stays_is_configuration(texts, tmp_path):
    run(texts, tmp_path / "out", duplicates=(MinHash(keep=Longest(), bands=40, rows=3),))
    near = max((d for d in read_corpus(str(tmp_path / "out")) if "word" in d.text), key=lambda d: len(d.text))
    lengths = [
        len(json.loads(line)["text"]) for p in texts.iterdir() for line in p.read_text().splitlines() if "word" in line
    ]
    assert len(near.text) == max(lengths)
    assert Newest().rank(near) == 0


def test_too_few_rounds_stop_the_job_and_name_the_binding(tmp_path):
    """A window slides over words: each text is near only the next one, so the texts form a long chain."""
    words = [f"word{i * i % 997}x{i}" for i in range(2000)]
    (tmp_path / "a.jsonl").write_text(
        "".join(json.dumps({"text": " ".join(words[i * 10 : i * 10 + 100])}) + "\n" for i in range(190))
    )
    with pytest.raises(
        ConfigurationError, match=r"did not converge in 1 rounds.*Raise minhash.MinHash.rounds \(now 1\)"
    ):
        run(tmp_path, tmp_path / "out", duplicates=(MinHash(rounds=1),))
    assert not (tmp_path / "out" / "manifest.json").exists()
    assert run(tmp_path, tmp_path / "out", duplicates=(MinHash(),))["funnel"]["duplicates"]["near"] > 100


def test_lines_of_several_pages_stay_on_one_that_stays(tmp_path):
    """The page with the smallest id is replaced by a longer page of the same URL, so it must own no line.

    One page becomes too short.
    """
    root = tmp_path / "in"
    root.mkdir()
    identifiers = [document_id("d", f"a.jsonl#line={i + 1}") for i in range(8)]
    order = sorted(range(8), key=identifiers.__getitem__)
    rows = [
        {"text": " ".join(f"Page {k} says {i}." for i in range(5)) + "\nMenu of the site.", "url": f"http://e.org/{k}"}
        for k in range(8)
    ]
    rows[order[0]]["url"] = rows[order[7]]["url"]
    rows[order[7]]["text"] += "\nPlus a line."
    rows[order[5]]["text"] = "menu of THE site. \nOne. Two."
    (root / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    changes = {"duplicates": (ByUrl(keep=Longest()),), "lines": SharedLines(), "keep_rejects": True}
    manifest = run(root, tmp_path / "out", **changes)
    assert manifest["funnel"]["duplicates"] == {"url": 1} and manifest["funnel"]["rejected"] == {"c4.shared_lines": 1}
    kept = {d.id: d.text for d in read_corpus(str(tmp_path / "out"))}
    assert kept.keys() == {identifiers[i] for i in order[1:5] + order[6:]}
    assert [i for i, text in kept.items() if "menu" in text.lower()] == [identifiers[order[1]]]
    [rejected] = [
        d for p in (tmp_path / "out" / "rejected" / "c4.shared_lines").glob("*.parquet") for d in read_shard(str(p))
    ]
    assert rejected.id == identifiers[order[5]] and rejected.text == rows[order[5]]["text"].strip()
