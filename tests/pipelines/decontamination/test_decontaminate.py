"""Decontamination as a step of a job: outcomes of contaminated documents, the report, and when the job runs again."""

import dataclasses
import json

import pytest
from benchmark_questions import CHINESE, QUESTION, filler

from castor.pipelines import code, image, web
from castor.pipelines.corpus.reader import read_corpus
from castor.pipelines.decontamination import report as contamination_report
from castor.pipelines.decontamination.benchmark_files import Benchmark
from castor.pipelines.decontamination.decontaminate import Decontaminate
from castor.pipelines.document import Document, Rejection
from castor.pipelines.execution import job_config, launcher
from castor.tasks.errors import ConfigurationError

HOSTILE = f"<script>alert(1)</script> {QUESTION} <img src=x>"


@pytest.fixture
def step(tmp_path):
    folder = tmp_path / "eval"
    folder.mkdir()
    rows = [{"question": QUESTION}, {"question": CHINESE}, {"question": "Too short."}]
    (folder / "ferry_test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Decontaminate(root=str(folder), benchmarks=[Benchmark("ferry", ("*.jsonl",))])


def document(text, identifier="0" * 32):
    return Document(identifier, "s", "text", text)


def test_reject(step):
    page = document(f"{filler(100)} {QUESTION} {filler(100, 1)} {CHINESE}")
    rejected = step(page)
    assert isinstance(rejected, Rejection) and rejected.reason == "decontamination.ferry"
    assert rejected.measure == "ferry_test/1 question: ngram, span 59 tokens, run 59, coverage 1.00; 1 more items"
    facts = rejected.document.metadata["contamination"]
    assert facts["items"] == {"ferry_test": "0-1"} and facts["matches"][1]["passage"] == QUESTION[:-1]
    clean = document(filler(500))
    assert step(clean) is clean and step(document(None)) == document(None)


def test_cut(step):
    cut = dataclasses.replace(step, action="cut")
    before, after = filler(100), filler(100, 1)
    kept = cut(document(f"{before} {QUESTION} {after}"))
    pieces = kept.text.split("\n\n")
    assert (
        before.startswith(pieces[0]) and after.endswith(pieces[1]) and kept.metadata["contamination"]["action"] == "cut"
    )
    assert all(0 <= len(whole) - len(piece) - 200 < 12 for whole, piece in zip((before, after), pieces))
    assert {w for piece in pieces for w in piece.split()} <= {*before.split(), *after.split()}  # no word is cut in two
    assert isinstance(cut(document(QUESTION)), Rejection)
    many = document(f" {filler(200)} ".join([QUESTION] * 11))
    assert cut(many).metadata["contamination"]["items"] == {"ferry_test": "0"}
    rejected = cut(document(f" {filler(200)} ".join([QUESTION] * 12)))
    assert rejected.reason == "decontamination.ferry" and rejected.measure.endswith("; 11 pieces left of it")


def test_configuration_is_checked(step):
    with pytest.raises(ConfigurationError, match="BENCHMARKS"):
        Decontaminate()
    with pytest.raises(ConfigurationError, match="reject, cut"):
        dataclasses.replace(step, action="erase")
    assert job_config.rebuild(job_config.describe(step)) == step


def test_in_a_job_with_its_report(step, tmp_path):
    texts = [filler(200), f"{filler(100)} {HOSTILE}", f"{QUESTION} {filler(80)}", filler(150, 3)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    made = web.Job(
        name="w",
        input_root=str(tmp_path),
        inputs=("in.jsonl",),
        output=str(tmp_path / "out"),
        num_shards=3,
        filters=(step,),
    )
    manifest = launcher.run(made, quiet=True)
    assert manifest["funnel"]["kept"] == 2 and manifest["funnel"]["rejected"] == {"decontamination.ferry": 2}
    report = json.loads((tmp_path / "out" / "contamination.json").read_text())
    [row] = report["benchmarks"]
    assert {k: row[k] for k in ("file", "benchmark", "items", "searched", "matched", "rejected", "cut", "items_matched")} == {
        "file": "ferry_test", "benchmark": "ferry", "items": 3, "searched": 2, "matched": 1, "rejected": 2, "cut": 0, "items_matched": "0",
    }  # fmt: skip
    assert [p["item"] for p in row["passages"]] == ["ferry_test/0"] * 2
    page, card = ((tmp_path / "out" / name).read_text() for name in ("contamination.html", "card.html"))
    assert (
        "built-in" not in page + card
        and "<script>" not in page
        and "ferry_test/0 question" in page
        and "contamination.html" in card
    )
    one = dataclasses.replace(made, num_shards=1, output=str(tmp_path / "one"))
    launcher.run(one, quiet=True)
    assert (tmp_path / "one" / "contamination.json").read_bytes() == (
        tmp_path / "out" / "contamination.json"
    ).read_bytes()

    assert launcher.up_to_date(made)
    with open(tmp_path / "eval" / "ferry_test.jsonl", "a") as file:
        file.write(json.dumps({"question": "Another one."}) + "\n")
    assert not launcher.up_to_date(made)
    launcher.run(dataclasses.replace(made, filters=()), quiet=True)
    assert (
        not (tmp_path / "out" / "contamination.json").exists()
        and "Benchmarks" not in (tmp_path / "out" / "card.html").read_text()
    )


def test_code_and_captions_take_it_too(step, tmp_path):
    from PIL import Image

    (tmp_path / "repo").mkdir()
    (tmp_path / "repo" / "a.py").write_text(f'def f():\n    """{QUESTION}"""\n    return 1\n')
    (tmp_path / "repo" / "b.py").write_text("def g():\n    return 2\n")
    made = code.Job(
        name="c", input_root=str(tmp_path), inputs=("repo/**",), output=str(tmp_path / "code"), filters=(step,)
    )
    assert launcher.run(made, quiet=True)["funnel"]["rejected"] == {"decontamination.ferry": 1}
    Image.new("RGB", (300, 300)).save(tmp_path / "repo" / "p.png")
    (tmp_path / "repo" / "p.txt").write_text(QUESTION.upper())
    made = image.Job(
        name="i", input_root=str(tmp_path), inputs=("repo/p.*",), output=str(tmp_path / "image"), filters=(step,)
    )
    assert launcher.run(made, quiet=True)["funnel"]["rejected"] == {"decontamination.ferry": 1}


def test_ranges():
    for numbers in ([], [3], [0, 1, 2, 5, 7, 8]):
        assert contamination_report.of_ranges(contamination_report.to_ranges(numbers)) == numbers
    assert contamination_report.to_ranges({8, 0, 1, 2, 7, 5}) == "0-2,5,7-8"


def test_passages_of_a_report_are_bounded(step):
    findings = contamination_report.Findings()
    for i in range(50):
        rejected = step(document(QUESTION, f"{i:032x}"))
        findings.add(rejected.document, rejected.reason)
    other = contamination_report.Findings()
    for half in (findings.to_json(), findings.to_json()):
        other.merge(json.loads(json.dumps(half)))
    row = other.to_json()["ferry_test"]
    assert row["rejected"] == 100 and len(row["passages"]) == contamination_report.PASSAGES and row["items"] == "0"


def test_gin_file(step, tmp_path):
    import gin
    from castor.tasks import configuration

    (tmp_path / "in.jsonl").write_text(json.dumps({"text": f"{filler(100)} {QUESTION}"}) + "\n")
    values = (
        f"INPUT_ROOT={str(tmp_path)!r}", f"OUTPUT={str(tmp_path / 'out')!r}", "INPUTS=['in.jsonl']", f"BENCHMARKS={step.root!r}",
        "web.Job.filters=[@decontamination.Decontaminate()]",
        "decontamination.Decontaminate.benchmarks=[@ferry/benchmark_files.Benchmark()]",
        "ferry/benchmark_files.Benchmark.name='ferry'", "ferry/benchmark_files.Benchmark.files=['*.jsonl']",
    )  # fmt: skip
    configuration.parse(configuration.Flags(("pipelines/web.gin", "pipelines/decontamination.gin"), values))
    try:
        manifest = launcher.run(web.Job(), quiet=True)
    finally:
        gin.clear_config()
    assert manifest["funnel"]["rejected"] == {"decontamination.ferry": 1} and list(manifest["files"].values())
    assert not list(read_corpus(str(tmp_path / "out")))
