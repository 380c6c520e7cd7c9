"""train/model_dir.py: model.json, copies of vocabulary and configuration, and the errors if they are missing."""

import dataclasses
import json

import pytest

from castor.tasks.errors import ConfigurationError, VocabularyError
from castor.train import model_dir
from castor.train.model_dir import ModelDescription

MODEL_JSON_OF_8048BA3 = {
    "model": {"vocab_size": 1280, "embed": 32},
    "image_token_budget": 16,
    "vocabulary": {"path": "somewhere", "fingerprint": "f", "size": 1280},
    "lengths": {"targets": 64},
    "domains": ["web"],
    "mixture": "m",
}


def test_a_description_is_written_as_it_was_read(tmp_path):
    (tmp_path / "model.json").write_text(json.dumps(MODEL_JSON_OF_8048BA3 | {"step": 5}))  # castor export adds the step
    description = ModelDescription.read(str(tmp_path))
    (tmp_path / "copy").mkdir()
    description.write(str(tmp_path / "copy"))
    assert json.loads((tmp_path / "copy" / "model.json").read_text()) == MODEL_JSON_OF_8048BA3


@pytest.mark.parametrize("content", [None, "", "[]", '{"model": {}}'])
def test_a_folder_without_a_model_is_named(tmp_path, content):
    if content is not None:
        (tmp_path / "model.json").write_text(content)
    with pytest.raises(ConfigurationError, match=f"{tmp_path} holds no model: .*model.json cannot be read"):
        ModelDescription.read(str(tmp_path))


def test_the_vocabulary_is_the_one_given_else_the_copy_else_where_it_was(tmp_path, vocabulary):
    vocabulary.save(str(tmp_path / "original"))
    recorded = {"path": str(tmp_path / "original"), "fingerprint": vocabulary.fingerprint}
    description = dataclasses.replace(ModelDescription(**MODEL_JSON_OF_8048BA3), vocabulary=recorded)
    folder = tmp_path / "m"
    assert description.load_vocabulary(str(folder)).fingerprint == vocabulary.fingerprint
    vocabulary.save(str(folder / "vocabulary"))
    (tmp_path / "original").rename(tmp_path / "moved")
    assert description.load_vocabulary(str(folder)).fingerprint == vocabulary.fingerprint
    assert description.load_vocabulary(str(tmp_path / "n"), str(tmp_path / "moved")).vocab_size == vocabulary.vocab_size
    with pytest.raises(VocabularyError, match="neither in that folder nor at .*original.*Give --vocabulary=DIR"):
        description.load_vocabulary(str(tmp_path / "n"))
    other = dataclasses.replace(description, vocabulary=recorded | {"fingerprint": "another"})
    with pytest.raises(VocabularyError, match=f"was trained with vocabulary another; .* is {vocabulary.fingerprint}"):
        other.load_vocabulary(str(folder))


def test_configurations_are_numbered_and_the_latest_is_found(tmp_path):
    with pytest.raises(ConfigurationError, match="holds no run: .* has no gin configuration"):
        model_dir.latest_configuration(str(tmp_path))
    for start in (0, 500, 20):  # the third start went back to an earlier checkpoint
        model_dir.write_configuration(str(tmp_path), f"# {start}\n", start)
    names = sorted(path.name for path in (tmp_path / "config").iterdir())
    assert names == ["000_step_0.gin", "001_step_500.gin", "002_step_20.gin"]
    assert model_dir.latest_configuration(str(tmp_path)) == str(tmp_path / "config" / "002_step_20.gin")
