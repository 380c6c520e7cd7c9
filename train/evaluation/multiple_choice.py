"""Multiple choice by scoring: which answer is most likely under the model, after a few solved questions.

A question file is .jsonl with {"question": ..., "choices": [...], "answer": index or text}, or a task of BIG-Bench Hard
as published: {"examples": [{"input", "target"}]}. Its choices are the options listed in the input, else all targets of
the file.

Each prompt starts with `shots` other questions and their answers. They are selected by a hash of the question's number,
so they are the same for every model.
"""

import dataclasses
import json
import math
import os
import re
from collections.abc import Callable, Sequence

from castor.tasks import hashing
from castor.tasks.checks import is_integer
from castor.tasks.errors import CorpusError
from castor.tasks.storage import storage
from castor.train.inference.inference import Model

MAX_FILE_BYTES = 256 << 20
_OPTION = re.compile(r"^\(([A-Z])\) ", re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Question:
    """One question.

    text: the question.
    choices: possible answers.
    answer: index of the correct one.
    """

    text: str
    choices: tuple[str, ...]
    answer: int

    def prompt(self) -> str:
        return f"Q: {self.text}\nA:"

    def with_answer(self) -> str:
        """The question with its answer, as a solved example."""
        return f"{self.prompt()} {self.choices[self.answer]}\n\n"


@dataclasses.dataclass(frozen=True)
class Result:
    """The result of one file.

    questions: their number.
    accuracy: share of correct answers by total log-probability.
    accuracy_by_token: the same by log-probability per token, which does not favour short answers.
    chance: expected accuracy of guessing.
    error: standard error of `accuracy`.
    shots: mean number of solved questions per prompt; less than requested if they did not fit.
    rows: one row per question: its number, the choice, the correct answer and the log-probabilities.
    """

    questions: int
    accuracy: float
    accuracy_by_token: float
    chance: float
    error: float
    shots: float
    rows: list[dict]


def read(path: str) -> list[Question]:
    """The questions of a file. Raises CorpusError, with file and record, for anything else."""
    try:
        with storage.open_read(path) as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise CorpusError(
            f"the question file {path} cannot be read: {error.strerror}.", "Give a .json or .jsonl file."
        ) from error
    if len(data) > MAX_FILE_BYTES:
        raise CorpusError(f"the question file {path} is larger than {MAX_FILE_BYTES >> 20} MiB.", "Split the file.")
    try:
        if path.endswith(".jsonl"):
            return [
                _question(json.loads(line), f"{path}, line {number}")
                for number, line in enumerate(data.splitlines(), 1)
                if line.strip()
            ]
        examples = json.loads(data)["examples"]
        return _big_bench([(str(example["input"]), str(example["target"])) for example in examples], path)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CorpusError(
            f"{path} contains no questions: {error!r}.", "See train/evaluation/multiple_choice.py for the two formats."
        ) from error


def _question(row: dict, where: str) -> Question:
    choices = row["choices"]
    if (
        not isinstance(row["question"], str)
        or not isinstance(choices, list)
        or not all(isinstance(c, str) for c in choices)
    ):
        raise CorpusError(f"{where}: question must be a string and choices a list of strings.")
    answer = choices.index(row["answer"]) if isinstance(row["answer"], str) else row["answer"]
    if not is_integer(answer, at_least=0, at_most=len(choices) - 1):
        raise CorpusError(f"{where}: the answer {row['answer']!r} is not among the {len(choices)} choices.")
    return Question(row["question"], tuple(choices), answer)


def _big_bench(pairs: Sequence[tuple[str, str]], path: str) -> list[Question]:
    targets = tuple(sorted({target for _, target in pairs}))
    found = []
    for number, (text, target) in enumerate(pairs):
        choices = tuple(f"({letter})" for letter in _OPTION.findall(text)) or targets
        if target not in choices:
            raise CorpusError(
                f"{path}, example {number}: the target {target!r} is not among the options {', '.join(choices)}."
            )
        found.append(Question(text, choices, choices.index(target)))
    return found


def evaluate(
    model: Model, questions: Sequence[Question], shots: int = 0, on_done: Callable[[int], None] | None = None
) -> Result:
    """Evaluates a model on multiple-choice questions.

    shots: number of solved questions before each question.
    on_done: called after each batch with the number of questions scored.

    A prompt too long for the model first loses solved questions, then is truncated from the left.
    """
    encode = model.vocabulary.encode
    pairs, shown = [], 0
    for number, question in enumerate(questions):
        answers = [encode(f" {choice}") for choice in question.choices]
        prompt, used = _prompt(model, questions, number, shots, max(map(len, answers)))
        shown += used
        pairs.extend((prompt, answer) for answer in answers)
    scores = iter(model.scorer(pairs, on_done))
    rows, right, right_by_token, chance = [], 0, 0, 0.0
    for number, question in enumerate(questions):
        own = [next(scores) for _ in question.choices]
        taken = max(range(len(own)), key=lambda i: own[i].total)
        right += taken == question.answer
        right_by_token += max(range(len(own)), key=lambda i: own[i].mean) == question.answer
        chance += 1 / len(own)
        rows.append(
            {
                "number": number,
                "taken": question.choices[taken],
                "answer": question.choices[question.answer],
                "log_probabilities": [score.total for score in own],
            }
        )
    n = max(len(questions), 1)
    accuracy = right / n
    return Result(
        len(questions),
        accuracy,
        right_by_token / n,
        chance / n,
        math.sqrt(accuracy * (1 - accuracy) / n),
        shown / n,
        rows,
    )


def _prompt(model: Model, questions: Sequence[Question], number: int, shots: int, room: int) -> tuple[list[int], int]:
    """(ids of the solved questions and the question, number of solved questions)."""
    order = (
        sorted((i for i in range(len(questions)) if i != number), key=lambda i: hashing.key64("shots", number, i))
        if shots
        else []
    )
    encode, most = model.vocabulary.encode, max(model.max_length - room, 0)
    for used in range(min(shots, len(order)), -1, -1):
        ids = encode("".join(questions[i].with_answer() for i in order[:used]) + questions[number].prompt())
        if len(ids) <= most:
            return ids, used
    return ids[len(ids) - most :], 0


def name(path: str) -> str:
    """The name of a question file for tables."""
    return os.path.splitext(os.path.basename(path))[0]
