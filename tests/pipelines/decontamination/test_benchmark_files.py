"""Benchmarks in the published formats, and a clear error for each kind of invalid file."""

import gzip
import json

import pytest

from castor.pipelines.decontamination.benchmark_files import BBH, GSM8K, HUMANEVAL, MGSM, Benchmark, paths, read
from castor.tasks.errors import ConfigurationError, CorpusError


def passages(folder, benchmark):
    return [(p.file, p.number, p.part, p.text) for path in paths(str(folder), benchmark) for p in read(path, benchmark)]


def test_public_formats(tmp_path):
    (tmp_path / "gsm8k_test.jsonl").write_text(
        json.dumps({"question": "How many?", "answer": "2 + 2 = <<2+2=4>>4\n#### 4"}) + "\n"
    )
    assert passages(tmp_path, GSM8K) == [
        ("gsm8k_test", 0, "question", "How many?"),
        ("gsm8k_test", 0, "answer", "2 + 2 = <<2+2=4>>4\n#### 4"),
        ("gsm8k_test", 0, "plain", "2 + 2 = 4\n#### 4"),
    ]
    (tmp_path / "mgsm_de.tsv").write_text('Wie "viele?\t4\nUnd nun?\t5\n')
    assert passages(tmp_path, MGSM) == [
        ("mgsm_de", 0, "question", 'Wie "viele?'),
        ("mgsm_de", 1, "question", "Und nun?"),
    ]
    task = {"prompt": "def f():\n", "canonical_solution": "    return 1\n", "test": "assert f()"}
    (tmp_path / "HumanEval.jsonl.gz").write_bytes(gzip.compress(json.dumps(task).encode()))
    assert [p[2:] for p in passages(tmp_path, HUMANEVAL)] == [("question", "def f():\n"), ("answer", "    return 1\n")]
    examples = {"canary": "x", "examples": [{"input": "Which?\nOptions:\n(A) this\n(B) that", "target": "(A)"}]}
    (tmp_path / "bbh_x.json").write_text(json.dumps(examples))
    assert [p[2:] for p in passages(tmp_path, BBH)] == [
        ("question", "Which?"),
        ("choices", "Which?\n\nOptions:\n(A) this\n(B) that"),
    ]


def test_declared_formats(tmp_path):
    (tmp_path / "m.jsonl").write_text(
        json.dumps({"stem": {"text": "Why?"}, "choices": {"text": ["yes", "no"], "label": ["A", "B"]}}) + "\n\n"
    )
    declared = Benchmark("m", ("m.jsonl",), question=("stem.text",), choices=("choices.text",))
    assert [p[2:] for p in passages(tmp_path, declared)] == [("question", "Why?"), ("choices", "Why?\nyes\nno")]
    (tmp_path / "c.csv").write_text('q,a\n"one, two",3\n')
    assert passages(tmp_path, Benchmark("c", ("c.csv",), question=("q",), answer=("1",), header=True)) == [
        ("c", 0, "question", "one, two"),
        ("c", 0, "answer", "3"),
    ]


@pytest.mark.parametrize(
    "content, changes, message",
    [
        ("", {}, "has no records|zero bytes"),
        ("{}\n", {}, "no 'question' among"),
        ('{"question": "a"}\n[1]\n', {}, "record 1 .*no 'question' among list"),
        ('{"question": "a"}\nnot json\n', {}, "record 1 "),
        ('{"question": "a"}\n' * 3, {"max_items": 2}, "over 2 records"),
        ('{"question": "aaaa"}\n', {"max_characters": 3}, "question of 4 characters"),
        ('{"question": "aaaa"}\n', {"max_file_bytes": 3}, "too_large"),
        ("[" * 100_000, {}, "record 0 "),
    ],
)
def test_a_test_set_is_read_whole_or_not_at_all(tmp_path, content, changes, message):
    (tmp_path / "b.jsonl").write_text(content)
    with pytest.raises(CorpusError, match=f"benchmark b: .*b.jsonl.*({message})"):
        passages(tmp_path, Benchmark("b", ("b.jsonl",), **changes))


def test_declarations_are_checked(tmp_path):
    with pytest.raises(ConfigurationError, match="no file under .* matches gsm8k_test.jsonl"):
        paths(str(tmp_path), GSM8K)
    with pytest.raises(ConfigurationError, match="benchmark gsm8k: the input folder"):
        paths(str(tmp_path / "nowhere"), GSM8K)
    with pytest.raises(ConfigurationError, match="Write a list"):
        Benchmark("b", "b.jsonl")
    with pytest.raises(ConfigurationError, match="the name becomes a folder"):
        Benchmark("a/b", ())
