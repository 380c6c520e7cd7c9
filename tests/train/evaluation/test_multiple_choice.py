"""train/evaluation/multiple_choice.py: file formats, few-shot prompts, a model that knows the answers, and published
benchmarks.
"""

import json

import flax.linen as nn
import jax
import numpy as np
import pytest

from castor.tasks.errors import CorpusError
from castor.train.evaluation import multiple_choice
from castor.train.evaluation.multiple_choice import Question
from castor.train.inference.inference import Model
from castor.train.model.decoder import Decoder, DecoderConfig


@pytest.fixture(scope="module")
def model(vocabulary):
    config = DecoderConfig(vocab_size=vocabulary.vocab_size, embed=32, layers=2, heads=4, head_dim=8, mlp=64)
    tokens = np.zeros((1, 8), np.int32)
    parameters = nn.unbox(jax.jit(Decoder(config).init)(jax.random.key(1), tokens, tokens, tokens)["params"])
    return Model(config, parameters, vocabulary, 512)


def test_both_forms_of_a_file(tmp_path):
    rows = [
        {"question": "1 + 1", "choices": ["2", "3"], "answer": 0},
        {"question": "2 + 1", "choices": ["2", "3"], "answer": "3"},
    ]
    (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert multiple_choice.read(str(tmp_path / "q.jsonl")) == [
        Question("1 + 1", ("2", "3"), 0),
        Question("2 + 1", ("2", "3"), 1),
    ]
    examples = [
        {"input": "Which?\nOptions:\n(A) x\n(B) y", "target": "(B)"},
        {"input": "Which?\nOptions:\n(A) x\n(B) y\n(C) z", "target": "(A)"},
    ]
    (tmp_path / "b.json").write_text(json.dumps({"examples": examples}))
    one, two = multiple_choice.read(str(tmp_path / "b.json"))
    assert one.choices == ("(A)", "(B)") and one.answer == 1 and two.choices == ("(A)", "(B)", "(C)")
    (tmp_path / "c.json").write_text(
        json.dumps({"examples": [{"input": "Is it?", "target": "yes"}, {"input": "And this?", "target": "no"}]})
    )
    assert multiple_choice.read(str(tmp_path / "c.json"))[0] == Question("Is it?", ("no", "yes"), 1)


@pytest.mark.parametrize(
    "name, text, why",
    [
        (
            "a.jsonl",
            '{"question": "x", "choices": ["y"], "answer": 1}',
            "line 1: the answer 1 is not among the 1 choices",
        ),
        ("b.jsonl", '{"question": "x"}', "contains no questions"),
        ("c.json", "[" * 100_000, "contains no questions"),
        (
            "d.json",
            '{"examples": [{"input": "(A) x", "target": "(B)"}, {"input": "(A) x\\n(A) y", "target": "(A)"}]}',
            "example 0: the target",
        ),
    ],
)
def test_what_holds_no_questions_is_refused(tmp_path, name, text, why):
    (tmp_path / name).write_text(text)
    with pytest.raises(CorpusError, match=why):
        multiple_choice.read(str(tmp_path / name))
    with pytest.raises(CorpusError, match="cannot be read"):
        multiple_choice.read(str(tmp_path / "missing.json"))


def test_the_choice_taken_is_the_likeliest(model):
    asked = [
        Question("the red", ("house", "tree square circle"), 0),
        Question("one two", ("three", "a big small house"), 1),
    ]
    result = multiple_choice.evaluate(model, asked)
    v = model.vocabulary
    for question, row in zip(asked, result.rows):
        prompt = f"Q: {question.text}\nA:"
        totals = [score.total for score in model.score([(prompt, f" {choice}") for choice in question.choices])]
        np.testing.assert_allclose(row["log_probabilities"], totals, rtol=1e-5)
        assert row["taken"] == question.choices[int(np.argmax(totals))]
    assert result.accuracy == np.mean([row["taken"] == row["answer"] for row in result.rows]) and result.chance == 0.5
    assert multiple_choice._prompt(model, asked, 0, 3, 5) == (
        v.encode("Q: one two\nA: a big small house\n\nQ: the red\nA:"),
        1,
    )


def test_solved_questions_are_others_always_the_same_and_left_out_where_they_do_not_fit(model):
    asked = [Question(f"question {i}", ("yes", "no"), i % 2) for i in range(20)]
    ids, used = multiple_choice._prompt(model, asked, 4, 3, 4)
    text = model.vocabulary.decode(ids)
    assert (
        used == 3 and text.count("Q: ") == 4 and text.endswith("Q: question 4\nA:") and text.count("question 4\n") == 1
    )
    assert multiple_choice._prompt(model, asked, 4, 3, 4) == (ids, used)
    long = [*asked[:4], Question("the red " * 150, ("yes", "no"), 0), *asked[5:]]
    ids, used = multiple_choice._prompt(model, long, 4, 3, 4)
    assert used <= 3 and len(ids) <= model.max_length - 4 and model.vocabulary.decode(ids).endswith("\nA:")


def test_published_benchmarks(model, real_data):
    for file, choices in (("bbh_sports_understanding", 2), ("bbh_date_understanding", 6)):
        asked = multiple_choice.read(str(real_data / "eval" / f"{file}.json"))
        assert len(asked) == 250 and max(len(q.choices) for q in asked) == choices
        result = multiple_choice.evaluate(model, asked[:8], shots=2)
        assert result.questions == 8 and 0 <= result.accuracy <= 1 and len(result.rows) == 8
