"""train/inference/inference.py and castor infer: text, a picture that always decodes, a caption; repeatable by seed."""

import io
import json
import shutil
import sys

import numpy as np
import PIL.Image
import pytest

from castor.tasks.errors import CheckpointError, ConfigurationError, VocabularyError
from castor.train.inference.grammar import Grammar
from castor.train.inference.inference import Model, Sampling


@pytest.fixture(scope="module")
def model(trained):
    return Model.load(str(trained))


def test_sampling_is_a_function_of_its_seed(model):
    wild = Sampling(temperature=1.0, top_k=0, seed=1)
    assert model.generate_text("the red", wild) == model.generate_text("the red", wild)
    assert model.generate_text("the red", wild) != model.generate_text(
        "the red", Sampling(temperature=1.0, top_k=0, seed=2)
    )
    assert model.generate_text("the red", Sampling(temperature=0)) == model.generate_text(
        "the red", Sampling(temperature=1.0, top_k=1, seed=5)
    )


@pytest.mark.parametrize("seed", range(3))
def test_a_drawing_always_decodes(model, seed):
    pixels = model.generate_image("a red square", Sampling(temperature=3.0, top_k=0, seed=seed))
    assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3
    rows, columns = pixels.shape[0] // 8, pixels.shape[1] // 8
    assert pixels.shape == (8 * rows, 8 * columns, 3) and rows * columns < model.max_length
    assert model.generate_image("a red square", Sampling(seed=seed), size=(3, 5)).shape == (24, 40, 3)


def test_the_grammar_of_a_drawing(model):
    v = model.vocabulary
    prompt = [*v.encode("the"), v.control("<image>")]
    ids = list(model.sample(prompt, Grammar.picture(20, (2, 3)), Sampling(temperature=2.0, top_k=0)))
    assert ids[:2] == [v.control("<size_2>"), v.control("<size_3>")] and ids[-1] == v.control("</image>")
    assert len(ids) == 2 + 6 + 1 and all(i in v.image_range for i in ids[2:-1])


def test_text_and_captions_are_text(model):
    v = model.vocabulary
    ids = list(model.sample(v.encode("the"), Grammar.text(), Sampling(temperature=5.0, top_k=0), 30))
    assert ids and all(i in v.text_range or i == v.eos_id for i in ids)
    assert isinstance(model.caption_image(np.zeros((24, 24, 3), np.uint8), max_tokens=5), str)


def test_what_does_not_fit_is_refused(model, trained, tmp_path):
    with pytest.raises(ConfigurationError, match="40 x 40 patches does not fit the 64 tokens"):
        model.generate_image("the", size=(40, 40))
    with pytest.raises(ConfigurationError, match="the prompt is"):
        model.generate_text("the red " * 100)
    with pytest.raises(ConfigurationError, match="negative"):
        Sampling(temperature=-1)
    with pytest.raises(CheckpointError, match="no checkpoint 7"):
        Model.load(str(trained), step=7)
    with pytest.raises(ConfigurationError, match="holds no model"):
        Model.load(str(tmp_path))


def test_another_vocabulary_is_refused(model, trained, tmp_path):
    from castor import tasks
    from castor.tasks.vocabulary import sentencepieces

    tasks.Vocabulary(sentencepieces.train(["other words"], sentencepieces.MIN_PIECES)).save(str(tmp_path / "other"))
    with pytest.raises(VocabularyError, match="was trained with vocabulary"):
        Model.load(str(trained), vocabulary_dir=str(tmp_path / "other"))


def test_a_moved_model_needs_nothing_else(castor, trained, tmp_path):
    shutil.copytree(trained, tmp_path / "moved")
    code, out, err = castor(
        "infer", f"--model_dir={tmp_path / 'moved'}", "--text=the red", "--temperature=0", "--max_tokens=3"
    )
    assert code == 0 and out.startswith("the red"), err


def test_the_command_writes_draws_and_describes(castor, trained, tmp_path):
    drawn = tmp_path / "drawn.png"
    code, _, err = castor("infer", f"--model_dir={trained}", "--draw=a blue circle", f"--output={drawn}", "--size=2x3")
    assert code == 0, err
    assert PIL.Image.open(drawn).size == (24, 16)
    code, out, err = castor("infer", f"--model_dir={trained}", f"--describe={drawn}", "--max_tokens=4")
    assert code == 0 and out, err
    code, _, err = castor(
        "infer",
        f"--model_dir={trained}",
        f"--samples={tmp_path / 's'}",
        "--text=the",
        "--draw=a",
        "--draw=b",
        "--size=2x2",
    )
    assert code == 0, err
    rows = json.loads((tmp_path / "s" / "samples.json").read_text())
    assert [sorted(row) for row in rows] == [["prompt", "text"], ["image", "prompt"], ["image", "prompt"]]
    assert all((tmp_path / "s" / row["image"]).is_file() for row in rows[1:])


def test_a_conversation_by_the_command(castor, trained, model, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("the red\n/show\n"))
    code, out, err = castor("infer", f"--model_dir={trained}", "--interactive", "--seed=4", "--max_tokens=5")
    assert code == 0 and model.generate_text("the red", Sampling(seed=4), 5) in out and "room left" in out, err


def test_questions_by_the_command(castor, trained, tmp_path):
    rows = [{"question": "the red", "choices": ["house", "tree"], "answer": i % 2} for i in range(4)]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    output = tmp_path / "results.jsonl"
    code, out, err = castor(
        "evaluate", f"--model_dir={trained}", f"--questions={tmp_path / 'q.jsonl'}", "--shots=1", f"--output={output}"
    )
    assert code == 0 and "accuracy_by_token" in out, err
    row = json.loads(output.read_text())
    assert (
        row["task"] == "q" and row["questions"] == 4 and row["accuracy"] == 0.5 == row["chance"] and row["step"] == 40
    )


def test_a_mesh_answers_as_one_device_does(castor, trained, model, tmp_path):
    rows = [{"prompt": "the red", "seed": 1}, {"prompt": "a", "temperature": 0}, {"draw": "a red square", "seed": 2}]
    rows.append({"prompt": "one two three", "top_p": 0.7, "seed": 3})
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = [
        "infer",
        f"--model_dir={trained}",
        f"--prompts={tmp_path / 'in.jsonl'}",
        f"--output={tmp_path / 'out.jsonl'}",
        "--max_tokens=9",
    ]
    child = castor.start(*command, "--cpu_devices=8", "--mesh=data=2,fsdp=2,tensor=2")
    _, err = child.communicate(timeout=300)
    assert child.returncode == 0, err
    one, two, drawn, three = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert one["text"] == model.generate_text("the red", Sampling(seed=1), 9) and two["text"] == model.generate_text(
        "a", Sampling(0), 9
    )
    assert three["text"] == model.generate_text("one two three", Sampling(seed=3, top_p=0.7), 9)
    pixels = np.asarray(PIL.Image.open(tmp_path / drawn["image"]))
    np.testing.assert_array_equal(pixels, model.generate_image("a red square", Sampling(seed=2)))


@pytest.mark.parametrize(
    "arguments, match",
    [
        ((), "nothing to do"),
        (("--text=x", "--top_p=0"), "top_p 0.0"),
        (("--text=x", "--mesh=data"), "is not a mesh"),
        (("--interactive", "--text=x"), "cannot be combined with"),
        (("--score", "--text=x"), "--score needs --prompts"),
        (("--prompts=x.jsonl",), "--output"),
        (("--prompts=missing.jsonl", "--output=o.jsonl"), "missing.jsonl cannot be read"),
        (("--draw=x",), "--output"),
        (("--draw=x", "--output=x.txt"), "unknown image format"),
        (("--draw=x", "--output=x.png", "--size=big"), "ROWSxCOLUMNS"),
        (("--describe=missing.png",), "missing.png cannot be read"),
        (("--text=x", "--gin.BATCH_SIZE=3"), "takes no gin flags"),
    ],
)
def test_bad_use(castor, trained, arguments, match):
    code, _, err = castor("infer", f"--model_dir={trained}", *arguments)
    assert code == 2 and match in err and err.count("\n") == 1
