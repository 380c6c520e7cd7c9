"""train/evaluation/evaluator.py: bits per byte are the loss over the text's own bytes; losses of other domains by
name.
"""

import json
import math

import numpy as np
import pytest

from castor import tasks


def test_bits_a_byte(castor, trained, world, vocabulary):
    *_, line = [json.loads(line) for line in (trained / "evaluation.jsonl").read_text().splitlines()]
    assert {key for key in line if key.startswith("bits_per_byte")} == {
        "bits_per_byte/words",
        "bits_per_byte/counts",
    }, "pictures are not text"
    batches = tasks.Batches(str(world / "tasks" / "words"), 4, {"targets": 64}, split="validation")
    batch = batches.batch(0)
    targets = batch["decoder_target_tokens"][batch["decoder_loss_weights"] > 0]
    text = b"".join(vocabulary.decode([i]).encode() for i in targets.tolist())
    assert line["bits_per_byte/words"] == pytest.approx(
        line["loss/words"] * len(targets) / math.log(2) / len(text), rel=1e-5
    )


def test_bytes_of_ids_add_up_to_the_bytes_of_a_text(vocabulary):
    for text in ("the red house\n\tsees", "Zürich, 東京 \U0001f600 und \x01", " a  b "):
        assert vocabulary.text_bytes()[vocabulary.encode(text)].sum() == len(text.encode())
    assert (
        vocabulary.text_bytes()[
            [vocabulary.pad_id, vocabulary.eos_id, vocabulary.image_range.start, vocabulary.vocab_size - 1]
        ].sum()
        == 0
    )


def test_the_loss_of_another_task(castor, trained, tmp_path):
    output = tmp_path / "loss.json"
    code, out, err = castor("evaluate", f"--model_dir={trained}", "--tasks=words,counts", f"--output={output}")
    assert code == 0, err
    values = json.loads(output.read_text())
    *_, line = [json.loads(line) for line in (trained / "evaluation.jsonl").read_text().splitlines()]
    assert {key for key in values if key.startswith("loss/")} == {"loss/words", "loss/counts"} and "words" in out
    np.testing.assert_allclose(values["loss/words"], line["loss/words"], rtol=1e-5)
    code, out, err = castor("evaluate", f"--model_dir={trained}", "--split=train")
    assert code == 0 and "split train" in out, err
