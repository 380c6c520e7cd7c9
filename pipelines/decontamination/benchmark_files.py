"""Reads published benchmarks: files of questions and answers -> passages of text that a corpus should not contain.

    GSM8K = Benchmark("gsm8k", ("gsm8k_test.jsonl",), question=("question",), answer=("answer",))

An item is one record of a file; its name is `FILE/NUMBER` (`mgsm_de/12`, counted from 0). Its passages are the
question, the answer and, for multiple choice, the question together with the choices. No Beam.
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
    """The files of one benchmark, and the fields of its records that hold text.

    name: name of the benchmark; the reason code is `decontamination.NAME`.
    files: patterns under the root, see sources.FileSource; .gz and .zst files are decompressed.
    question, answer, choices: the fields of the question, the answer and the choices. The texts of several fields are
      joined by newlines. A field is a key, several keys joined by dots, or in .tsv and .csv a column number from 0. A
      list or an object in a field counts as the texts in it.
    records: in .json, the key of the list of records; empty if the file is the list.
    choices_mark: text at which the choices begin if the question contains them (`\\nOptions:`).
    annotations: regular expression for marks in an answer that copies often lack; the answer without them is a
      passage too.
    header: .tsv and .csv files begin with a row of column names, which `question`, `answer` and `choices` may use.
    max_file_bytes: largest file after decompression, in bytes; a larger one raises CorpusError.
    max_items: largest number of records per file; more raise CorpusError.
    max_characters: longest passage; a longer one raises CorpusError.
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
                    f"benchmark {self.name}: {field} is the string {value!r}.", f"Write a list: {field}=[{value!r}]."
                )
            object.__setattr__(self, field, tuple(value))
        if not self.name or not all(c.isalnum() or c in "_-" for c in self.name):
            raise ConfigurationError(
                f"a benchmark is named {self.name!r}.",
                "Use letters, digits, '_' and '-': the name becomes a folder.",
            )


GSM8K = Benchmark("gsm8k", ("gsm8k_test.jsonl",), answer=("answer",), annotations="<<[^<>]*>>")
MGSM = Benchmark("mgsm", ("mgsm_*.tsv",), question=("0",))
HUMANEVAL = Benchmark("humaneval", ("HumanEval.jsonl.gz",), question=("prompt",), answer=("canonical_solution",))
BBH = Benchmark("bbh", ("bbh_*.json",), question=("input",), records="examples", choices_mark="\nOptions:")
PUBLISHED = (GSM8K, MGSM, HUMANEVAL, BBH)
"""The formats in which the authors publish their files."""


@dataclasses.dataclass(frozen=True)
class Passage:
    """A text to look for.

    benchmark, file, number: the item.
    part: "question", "choices" (the question with its choices), "answer" or "plain" (the answer without annotations).
    text: the text.
    """

    benchmark: str
    file: str
    number: int
    part: str
    text: str


def paths(root: str, benchmark: Benchmark) -> list[str]:
    """The files of a benchmark under `root`. Raises ConfigurationError if no file matches."""
    try:
        found = [os.path.join(root, path) for path in sources.match(root, benchmark.files)]
    except CorpusError as error:
        raise ConfigurationError(
            f"benchmark {benchmark.name}: {error.what}", "Set BENCHMARKS to the folder of the benchmarks."
        ) from None
    if not found:
        raise ConfigurationError(
            f"benchmark {benchmark.name}: no file under {root} matches {', '.join(benchmark.files)}.",
            "Put the file there, or remove the benchmark from the list.",
        )
    return found


def read(path: str, benchmark: Benchmark) -> Iterator[Passage]:
    """The passages of one file, in order.

    Raises CorpusError, naming file and record, if the file cannot be read or has no records: a benchmark must not be
    skipped silently.
    """
    file = stem(path)
    number = 0  # of the current record
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
            "Fix the file or the benchmark's declaration.",
        ) from error
    if number == 0:
        raise CorpusError(
            f"benchmark {benchmark.name}: {path} has no records.", "Fix the file or the benchmark's declaration."
        )


def stem(path: str) -> str:
    """`eval/HumanEval.jsonl.gz` -> `HumanEval`, the FILE of its items' names."""
    return _plain_name(os.path.basename(path)).rpartition(".")[0] or os.path.basename(path)


def _plain_name(name: str) -> str:
    return name.removesuffix(".gz").removesuffix(".zst")


def _records(path: str, benchmark: Benchmark) -> Iterator[Any]:
    ending = _plain_name(path).rpartition(".")[2].lower()
    kind = _ENDINGS.get(ending, ending)
    if kind not in FORMATS:
        raise BadInput("unsupported_format", f"{ending!r} is not one of {', '.join(FORMATS)}")
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
        # The published .tsv files contain unpaired quotation marks.
        quoting = csv.QUOTE_NONE if kind == "tsv" else csv.QUOTE_MINIMAL
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
    """The texts in a value, one per line: in a list of choices, or in an object with choices and their labels."""
    if isinstance(value, dict):
        return "\n".join(filter(None, map(_strings, value.values())))
    if isinstance(value, list):
        return "\n".join(filter(None, map(_strings, value)))
    return "" if value is None else str(value)
