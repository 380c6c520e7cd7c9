"""`castor infer` beyond one line: resumable prompt files, scores, conversations, and untrusted input."""

import io
import json
import pathlib
import signal

import numpy as np
import PIL.Image
import pytest

from castor.launch import terminal
from castor.launch.inference import pictures, prompts
from castor.launch.inference.interactive import Conversation
from castor.tasks.errors import CastorError
from castor.train.inference.inference import Model, Sampling
from castor.train.model.decoder import Decoder, DecoderConfig


@pytest.fixture(scope="module")
def model(vocabulary) -> Model:
    """Untrained, with a word's way of going on: enough to talk to."""
    import flax.linen as nn
    import jax

    config = DecoderConfig(vocab_size=vocabulary.vocab_size, embed=32, layers=2, heads=4, head_dim=8, mlp=64)
    tokens = np.zeros((1, 8), np.int32)
    parameters = jax.tree.map(
        lambda leaf: leaf * 3,
        nn.unbox(jax.jit(Decoder(config).init)(jax.random.key(1), tokens, tokens, tokens)["params"]),
    )
    return Model(config, parameters, vocabulary, 96, 16, batch_size=4, step=7)


@pytest.fixture(scope="module")
def read_picture():
    with pictures.Reader() as reader:
        yield reader


ROWS = [
    {"prompt": "the red", "id": "a"},
    {"prompt": "the", "temperature": 0, "max_tokens": 3},
    {"draw": "a square", "size": "2x3"},
    {"describe": "seen.png", "max_tokens": 4},
    {"prompt": "the red", "seed": 5, "top_p": 0.5},
    {"prompt": "the " * 200},
    {"nothing": 1},
    {"describe": "../missing.png"},
    {"prompt": "x", "temperature": -1},
    {"prompt": "x", "top_k": "many"},
    {"prompt": "the red", "id": "a"},
]


def write_prompts(folder: pathlib.Path, rows=ROWS) -> str:
    PIL.Image.fromarray(np.full((24, 16, 3), 200, np.uint8)).save(folder / "seen.png")
    lines = [json.dumps(row) for row in rows] + ["no json", "[1]", "", '{"prompt": "\\ud800"}']
    (folder / "in.jsonl").write_text("\n".join(lines) + "\n")
    return str(folder / "in.jsonl")


def answers(path) -> list[dict]:
    return [json.loads(line) for line in pathlib.Path(path).read_text().splitlines()]


def job(folder, score=False, **settings) -> prompts.BatchInference:
    return prompts.BatchInference(
        str(folder / "in.jsonl"), str(folder / "out.jsonl"), score, Sampling(0.9, 0, 3), 6, **settings
    )


@pytest.fixture(scope="module")
def answered(model, read_picture, tmp_path_factory):
    folder = tmp_path_factory.mktemp("answered")
    write_prompts(folder)
    job(folder).run(model, read_picture)
    return folder


def test_every_line_comes_back_answered_or_with_its_error(answered, model):
    rows = answers(answered / "out.jsonl")
    assert len(rows) == len(ROWS) + 3
    for given, row in zip(ROWS, rows):
        assert given.items() <= row.items()
    assert rows[0]["tokens"] <= 6 and isinstance(rows[0]["text"], str) and rows[1]["tokens"] <= 3
    assert rows[0]["text"] != rows[10]["text"], "equal prompts of different lines have different seeds"
    assert PIL.Image.open(answered / rows[2]["image"]).size == (24, 16)
    assert rows[3]["tokens"] <= 4
    errors = {i: row["error"] for i, row in enumerate(rows) if "error" in row}
    assert sorted(errors) == [5, 6, 7, 8, 9, 11, 12, 13] and rows[5]["line"] == 6
    assert (
        "tokens long" in errors[5]
        and "missing.png" in errors[7]
        and "not valid JSON" in errors[11]
        and "surrogate" in errors[13]
    )
    assert not (answered / "out.jsonl.parts").exists()


def test_a_line_is_answered_as_if_alone(answered, model):
    rows = answers(answered / "out.jsonl")
    way = Sampling(0.9, 0, 5, 0.5)
    assert rows[4]["text"] == model.generate_text("the red", way, 6)
    assert rows[1]["text"] == model.generate_text("the", Sampling(0, 0), 3)


def test_a_killed_job_goes_on_with_what_is_missing(answered, model, read_picture, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(prompts, "PART_LINES", 4)
    write_prompts(tmp_path)
    job(tmp_path).run(model, read_picture)
    whole = (tmp_path / "out.jsonl").read_bytes()
    assert [row.get("text") for row in answers(tmp_path / "out.jsonl")] == [
        row.get("text") for row in answers(answered / "out.jsonl")
    ]

    (tmp_path / "out.jsonl").unlink()
    (tmp_path / "out.jsonl.COMPLETED").unlink()
    real, calls = prompts._Chunk.rows, []

    def killed_in_the_third(part):
        calls.append(part._first)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(part)

    monkeypatch.setattr(prompts._Chunk, "rows", killed_in_the_third)
    with pytest.raises(KeyboardInterrupt):
        job(tmp_path).run(model, read_picture)
    assert not (tmp_path / "out.jsonl").exists()
    job(tmp_path).run(model, read_picture)
    assert calls == [0, 4, 8, 8, 12] and (tmp_path / "out.jsonl").read_bytes() == whole
    job(tmp_path).run(model, read_picture)
    assert len(calls) == 5 and "is complete" in capsys.readouterr().out
    with pytest.raises(CastorError, match="other prompts, another model or other settings"):
        job(tmp_path, score=True).run(model, read_picture)


def test_scores_of_a_file(model, read_picture, tmp_path):
    rows = [
        {"prompt": "the", "continuation": " red"},
        {"prompt": "", "continuations": [" red house", " red", ""]},
        {"prompt": "x"},
    ]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    job(tmp_path, score=True).run(model, read_picture)
    one, several, wrong = answers(tmp_path / "out.jsonl")
    (alone,) = model.score([("the", " red")])
    assert one["scores"][0]["log_probability"] == pytest.approx(alone.total, abs=1e-4)
    assert [s["continuation"] for s in several["scores"]] == [" red house", " red", ""] and several["scores"][2][
        "log_probability"
    ] == 0
    assert several["scores"][0]["log_probability"] < several["scores"][1]["log_probability"] < 0
    assert "continuation" in wrong["error"]


class Typed:
    """Lines as if typed; KeyboardInterrupt where one is given."""

    def __init__(self, *lines):
        self._lines = list(lines)

    def __call__(self):
        if not self._lines:
            raise EOFError
        line = self._lines.pop(0)
        if line is KeyboardInterrupt:
            raise line
        return line


def converse(model, read_picture, folder, *lines, out=None, **options) -> tuple[Conversation, str]:
    out = out or io.StringIO()
    conversation = Conversation(
        model, Sampling(0.8, 0, 3), options.get("max_tokens", 8), read_picture, str(folder), Typed(*lines), out
    )
    assert conversation.run() == 0
    return conversation, out.getvalue()


def test_a_conversation_keeps_what_was_said(model, read_picture, tmp_path):
    conversation, said = converse(model, read_picture, tmp_path, "the red", KeyboardInterrupt, "a house", "")
    v = model.vocabulary
    first = model.generate_text("the red", Sampling(0.8, 0, 3), 8)
    text = v.decode(conversation.session.ids)
    assert text.startswith(f"the red{first}\na house") and terminal.printable(first) in said and "Ctrl-D quits" in said


def test_the_commands_of_a_conversation(model, read_picture, tmp_path):
    PIL.Image.fromarray(np.full((24, 16, 3), 200, np.uint8)).save(tmp_path / "seen.png")
    lines = [
        "/help",
        "/draw 2x3 a square",
        "/draw 1x1 b",
        f"/image {tmp_path / 'seen.png'}",
        "",
        "/set temperature 0",
        "/show",
        "/bogus",
        "/set colour 3",
    ]
    lines += ["/set top_p 7", "/image missing.png", "/draw 90x90 x", "/new", "/show"]
    conversation, said = converse(model, read_picture, tmp_path, *lines)
    assert PIL.Image.open(tmp_path / "drawn-000.png").size == (24, 16) and (tmp_path / "drawn-001.png").exists()
    assert conversation.session.ids == [] and "room left" in said and "/draw [ROWSxCOLUMNS] CAPTION" in said
    for wrong in (
        "unknown command /bogus",
        "unknown setting 'colour'",
        "top_p 7.0",
        "missing.png cannot be read",
        "90 x 90 patches does not fit",
    ):
        assert wrong in said


def test_ctrl_c_stops_the_answer_and_not_the_program(model, read_picture, tmp_path):
    class Impatient(io.StringIO):
        """Presses Ctrl-C at the first words of an answer."""

        answering = pressed = False

        def write(self, text):
            if self.answering and text.strip() and not self.pressed:
                self.pressed = True
                signal.raise_signal(signal.SIGINT)
            self.answering = True
            return super().write(text)

    conversation, said = converse(model, read_picture, tmp_path, "the red", "/show", out=Impatient(), max_tokens=60)
    assert "[stopped]" in said and "room left" in said and 0 < len(conversation.session.ids) < 60


def test_a_full_stream_says_so(model, read_picture, tmp_path):
    _, said = converse(model, read_picture, tmp_path, "the red " * 8, "the red " * 30, "/new", "the", max_tokens=4)
    assert "trained on 96" in said


def test_nothing_steers_the_terminal():
    assert terminal.printable("a\x1b[31mb\tc\n\x07\x9b\u202e") == "a\\x1b[31mb\tc\n\\x07\\x9b\u202e"


def test_hostile_images_are_refused(read_picture, tmp_path):
    (tmp_path / "empty.png").write_bytes(b"")
    with open(tmp_path / "huge.png", "wb") as file:
        file.truncate(pictures.MAX_BYTES + 1)
    bomb = bytearray(
        (b"\x89PNG\r\n\x1a\n") + (13).to_bytes(4, "big") + b"IHDR" + (60_000).to_bytes(4, "big") * 2 + b"\x08\x02\0\0\0"
    )
    (tmp_path / "bomb.png").write_bytes(bytes(bomb))
    for name, why in (
        ("empty.png", "empty"),
        ("huge.png", "too_large"),
        ("bomb.png", "damaged|too_large"),
        (".", "not a regular file"),
    ):
        with pytest.raises(CastorError, match=why):
            read_picture(str(tmp_path / name))
