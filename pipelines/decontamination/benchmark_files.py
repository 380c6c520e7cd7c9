"""Benchmarks as they are published: files of questions and answers, read as passages of text that no corpus should hold.

    GSM8K = Benchmark("gsm8k", ("gsm8k_test.jsonl",), question=("question",), answer=("answer",))

An item is one record of a file and is named `FILE/NUMBER` (`mgsm_de/12`, counted from 0). Its passages are its question, its answer, and
where it has choices, the question with them. This file knows no Beam.
"""

import csv
import dataclasses
import io
import json
import os
import re
from collections.abc import Iterator
from typing import Any

import gin
from castor.pipelines.core import sources
from castor.pipelines.document import BadInput
from castor.pipelines.readers import compressed
from castor.tasks.errors import ConfigurationError, CorpusError

FORMATS = ("jsonl", "json", "tsv", "csv")
_ENDINGS = {"ndjson": "jsonl"}


@gin.configurable(module="benchmark_files")
@dataclasses.dataclass(frozen=True)
class Benchmark:
    """What one benchmark's files are, and where its records have their texts.

    name: of the benchmark; rejections are called `decontamination.NAME`.
    files: patterns under the root, see sources.FileSource; .gz and .zst are unpacked.
    question, answer, choices: fields whose texts, in this order and joined by line ends, are the question, the answer and the choices. A
      field is a key, keys joined by dots, or in .tsv and .csv a column counted from 0; a list or an object in it counts as the texts in it.
    records: in .json, the key of the list of records, empty if the file is the list.
    choices_mark: where a question has its choices in its own text, what they begin with (`\\nOptions:`).
    annotations: a regular expression for marks in an answer that copies of it often lack; without them it is a passage too.
    header: .tsv and .csv begin with a row of names, which fields may then use.
    max_file_bytes, max_items, max_characters: of a file after decompression, of records a file, of a passage; beyond is a CorpusError.
    """

    name: str
    files: tuple[str, ...]
    question: tuple[str, ...] = ("question",)
    answer: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    records: str = ""
    choices_mark: str = ""
    annotations: str = ""
    header: bool = False
    max_file_bytes: int = 1 << 30
    max_items: int = 1_000_000
    max_characters: int = 1 << 20

    def __post_init__(self):
        for field in ("files", "question", "answer", "choices"):
            value = getattr(self, field)
            if isinstance(value, str):
                raise ConfigurationError(
                    f"benchmark {self.name}: {field} is the text {value!r}.", f"Write a list: {field}=[{value!r}]."
                )
            object.__setattr__(self, field, tuple(value))
        if not self.name or not all(c.isalnum() or c in "_-" for c in self.name):
            raise ConfigurationError(
                f"a benchmark is named {self.name!r}.", "Its name is letters, digits, '_' and '-': it names a folder."
            )


GSM8K = Benchmark("gsm8k", ("gsm8k_test.jsonl",), answer=("answer",), annotations="<<[^<>]*>>")
MGSM = Benchmark("mgsm", ("mgsm_*.tsv",), question=("0",))
HUMANEVAL = Benchmark("humaneval", ("HumanEval.jsonl.gz",), question=("prompt",), answer=("canonical_solution",))
BBH = Benchmark("bbh", ("bbh_*.json",), question=("input",), records="examples", choices_mark="\nOptions:")
PUBLISHED = (GSM8K, MGSM, HUMANEVAL, BBH)
"""Formats of the files as their authors publish them."""


@dataclasses.dataclass(frozen=True)
class Passage:
    """A text to look for. `part`: question, choices (the question together with its choices), answer or plain (the answer less annotations)."""

    benchmark: str
    file: str
    number: int
    part: str
    text: str


def paths(root: str, benchmark: Benchmark) -> list[str]:
    """The files of a benchmark. Raises ConfigurationError if there is none."""
    try:
        found = [os.path.join(root, path) for path in sources.match(root, benchmark.files)]
    except CorpusError as error:
        raise ConfigurationError(
            f"benchmark {benchmark.name}: {error.what}", "Set BENCHMARKS to the folder of the benchmarks."
        ) from None
    if not found:
        raise ConfigurationError(
            f"benchmark {benchmark.name}: no file under {root} matches {', '.join(benchmark.files)}.",
            "Put it there, or leave the benchmark out of the list.",
        )
    return found


def read(path: str, benchmark: Benchmark) -> Iterator[Passage]:
    """The passages of one file, in order. Raises CorpusError naming file and record for what cannot be read: a test set is not to be skipped."""
    file = stem(path)
    number = 0  # of the record that is at work
    try:
        for number, record in enumerate(_records(path, benchmark)):
            if number >= benchmark.max_items:
                raise BadInput("too_many", f"over {benchmark.max_items} records")
            for part, text in _parts(record, benchmark):
                if len(text) > benchmark.max_characters:
                    raise BadInput("too_large", f"{part} of {len(text)} characters")
                if text.strip():
                    yield Passage(benchmark.name, file, number, part, text)
            number += 1
    except (BadInput, ValueError, OSError, RecursionError, csv.Error) as error:
        raise CorpusError(
            f"benchmark {benchmark.name}: {path}, record {number} (from 0): {error}.",
            "Mend the file or its declaration.",
        ) from error
    if number == 0:
        raise CorpusError(f"benchmark {benchmark.name}: {path} has no records.", "Mend the file or its declaration.")


def stem(path: str) -> str:
    """`eval/HumanEval.jsonl.gz` -> `HumanEval`: the first half of its items' names."""
    return _plain_name(os.path.basename(path)).rpartition(".")[0] or os.path.basename(path)


def _plain_name(name: str) -> str:
    return name.removesuffix(".gz").removesuffix(".zst")


def _records(path: str, benchmark: Benchmark) -> Iterator[Any]:
    ending = _plain_name(path).rpartition(".")[2].lower()
    kind = _ENDINGS.get(ending, ending)
    if kind not in FORMATS:
        raise BadInput("unsupported_format", f"{ending!r} is none of {', '.join(FORMATS)}")
    with sources.open_regular(path) as raw:
        text = compressed.read_whole(compressed.open_members(raw, path), benchmark.max_file_bytes).decode("utf-8-sig")
    if kind == "jsonl":
        for line in text.split("\n"):
            if line.strip():
                yield json.loads(line)
    elif kind == "json":
        found = json.loads(text)
        found = _field(found, benchmark.records) if benchmark.records else found
        if not isinstance(found, list):
            raise BadInput("no_list", f"the records are of type {type(found).__name__}")
        yield from found
    else:
        quoting = (
            csv.QUOTE_NONE if kind == "tsv" else csv.QUOTE_MINIMAL
        )  # the published .tsv files have bare quotation marks
        csv.field_size_limit(benchmark.max_file_bytes)
        rows = csv.reader(io.StringIO(text, newline=""), delimiter="\t" if kind == "tsv" else ",", quoting=quoting)
        names = next(rows, []) if benchmark.header else []
        for row in rows:
            if row:
                yield {**{str(i): cell for i, cell in enumerate(row)}, **dict(zip(names, row, strict=False))}


def _parts(record: Any, benchmark: Benchmark) -> Iterator[tuple[str, str]]:
    question = _text(record, benchmark.question)
    choices = _text(record, benchmark.choices)
    if benchmark.choices_mark and benchmark.choices_mark in question:
        question, mark, own = question.partition(benchmark.choices_mark)
        choices = mark + own + ("\n" + choices if choices else "")
    yield "question", question
    if choices.strip():
        yield "choices", f"{question}\n{choices}"
    answer = _text(record, benchmark.answer)
    yield "answer", answer
    if benchmark.annotations:
        yield "plain", re.sub(benchmark.annotations, "", answer)


def _text(record: Any, fields: tuple[str, ...]) -> str:
    return "\n".join(_strings(_field(record, field)) for field in fields)


def _field(value: Any, path: str) -> Any:
    for key in path.split("."):
        if not isinstance(value, dict) or key not in value:
            names = ", ".join(list(map(str, value))[:20]) if isinstance(value, dict) else type(value).__name__
            raise BadInput("no_field", f"no {path!r} among {names}")
        value = value[key]
    return value


def _strings(value: Any) -> str:
    """The texts in a value, one a line: of a list of choices, or of an object that has them under `text` beside their labels."""
    if isinstance(value, dict):
        return "\n".join(filter(None, map(_strings, value.values())))
    if isinstance(value, list):
        return "\n".join(filter(None, map(_strings, value)))
    return "" if value is None else str(value)
