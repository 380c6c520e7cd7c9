"""tasks/vocabulary/vocabulary.py: the stable layout, the verifiable directory, and SeqIO's interface."""

import inspect
import json
import pickle
import subprocess
import sys

import numpy as np
import pytest

from castor.tasks.errors import VocabularyError
from castor.tasks.vocabulary import audio, codec_fit, sentencepieces, streams
from castor.tasks.vocabulary.vocabulary import CONTROLS, Vocabulary


@pytest.fixture(scope="module")
def model() -> bytes:
    return sentencepieces.train([inspect.getsource(inspect)], 600)


@pytest.fixture(scope="module")
def vocabulary(model) -> Vocabulary:
    random = np.random.default_rng(0)
    image_codec = codec_fit.fit([random.integers(0, 256, (32, 32, 3), dtype=np.uint8)], (8, 8, 3), 100)
    audio_codec = codec_fit.fit(
        [random.normal(-50, 10, (40, 80))], (streams.AUDIO_FRAMES, 80, 1), 50, audio.FLOOR_DB, audio.STEP_DB
    )
    return Vocabulary(model, image_codec, audio_codec, 700)


def test_layout_never_drifts(vocabulary):
    assert vocabulary.pad_id == 0 and vocabulary.eos_id == 1
    first = ["<pad>", "<eos>", "<image>", "</image>", "<audio>", "</audio>", "<video>", "</video>", "<frame>"]
    assert [vocabulary.name(i) for i in range(9)] == first
    assert [vocabulary.control(n) for n in (*first, "<size_1>", "<size_128>")] == [*range(9), 128, 255]
    assert len(CONTROLS) == 9 + 128 and max(CONTROLS.values()) == 255
    assert vocabulary.text_range == range(256, 956)
    assert vocabulary.image_range == range(956, 1056)
    assert vocabulary.audio_range == range(1056, 1106)
    assert vocabulary.vocab_size == 1152 and vocabulary.unk_id == 256


def test_layout_depends_on_what_was_asked_not_on_the_sample(model):
    small = sentencepieces.train(["tiny"], 600)
    assert len(sentencepieces.Pieces(small)) < 600
    assert Vocabulary(small, pieces=600).layout()["ranges"] == Vocabulary(model, pieces=600).layout()["ranges"]
    with pytest.raises(VocabularyError, match="slots"):
        Vocabulary(model, pieces=300)


def test_text_round_trip_and_text_never_becomes_control(vocabulary):
    text = "def f(x):\n\treturn '<image>'  # \u2581 <pad> é中\0\r\n"
    ids = vocabulary.encode(text)
    assert vocabulary.decode(ids) == text and all(i in vocabulary.text_range for i in ids)
    assert vocabulary.decode(np.array([0, 2, *ids, 1, *ids])) == text
    assert vocabulary.decode([vocabulary.vocab_size + 5, -1, 955]) == ""


def test_names(vocabulary):
    assert vocabulary.name(956) == "<image_code_0>" and vocabulary.name(1056) == "<audio_code_0>"
    assert (
        vocabulary.name(955) == "<unused_955>"
        and vocabulary.name(100) == "<unused_100>"
        and vocabulary.name(-3) == "<invalid_-3>"
    )
    with pytest.raises(KeyError):
        vocabulary.control("<nothing>")


def test_save_and_load(vocabulary, tmp_path):
    directory = str(tmp_path / "vocabulary")
    vocabulary.save(directory, {"fingerprint": "of the job"})
    loaded = Vocabulary.load(directory)
    assert loaded == vocabulary and hash(loaded) == hash(vocabulary) and loaded.fingerprint == vocabulary.fingerprint
    assert sorted(p.name for p in (tmp_path / "vocabulary").iterdir()) == [
        "audio_codec.npz",
        "image_codec.npz",
        "manifest.json",
        "sentencepiece.model",
        "vocabulary.json",
    ]
    assert json.loads((tmp_path / "vocabulary" / "manifest.json").read_text())["fingerprint"] == "of the job"
    pixels = np.zeros((16, 16, 3), np.uint8)
    assert loaded.encode_image(pixels) == vocabulary.encode_image(pixels)
    before = {p.name: p.read_bytes() for p in (tmp_path / "vocabulary").iterdir()}
    pickle.loads(pickle.dumps(vocabulary)).save(directory, {"fingerprint": "of the job"})
    assert {p.name: p.read_bytes() for p in (tmp_path / "vocabulary").iterdir()} == before


def test_a_vocabulary_of_text_alone_leaves_no_codec_behind(vocabulary, model, tmp_path):
    vocabulary.save(str(tmp_path))
    Vocabulary(model, pieces=700).save(str(tmp_path))
    loaded = Vocabulary.load(str(tmp_path))
    assert loaded.image_codec is None and len(loaded.image_range) == 0 and loaded.vocab_size == 1024
    assert not (tmp_path / "image_codec.npz").exists()


@pytest.mark.parametrize(
    "name", ["manifest.json", "vocabulary.json", "sentencepiece.model", "image_codec.npz", "audio_codec.npz"]
)
def test_damage_is_named(vocabulary, tmp_path, name):
    vocabulary.save(str(tmp_path))
    path = tmp_path / name
    whole = path.read_bytes()
    for bad in (None, b"", b"[1, 2]", whole[: len(whole) // 2], whole[:-20] + b"x" * 20):
        path.unlink(missing_ok=True) if bad is None else path.write_bytes(bad)
        with pytest.raises(VocabularyError, match=name):
            Vocabulary.load(str(tmp_path))


def test_files_of_two_vocabularies_do_not_mix(vocabulary, model, tmp_path):
    vocabulary.save(str(tmp_path))
    layout = json.loads((tmp_path / "vocabulary.json").read_text())
    layout["ranges"]["text"] = [256, 1000]
    (tmp_path / "vocabulary.json").write_text(json.dumps(layout))
    with pytest.raises(VocabularyError, match="inconsistent"):
        Vocabulary.load(str(tmp_path))
    with pytest.raises(VocabularyError, match="castor data vocabulary"):
        Vocabulary.load(str(tmp_path / "absent"))


def test_loads_without_tensorflow_beam_or_jax(vocabulary, tmp_path):
    vocabulary.save(str(tmp_path))
    script = (
        "import sys; from castor.tasks.vocabulary.vocabulary import Vocabulary; v = Vocabulary.load(sys.argv[1]); v.modality_spans(v.encode('a')); "
        "print([m for m in ('tensorflow', 'apache_beam', 'jax', 'seqio', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", script, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_is_a_seqio_vocabulary(vocabulary, tmp_path):
    import seqio
    import tensorflow as tf

    from castor.tasks.integrations.seqio_vocabulary import SeqIOVocabulary

    vocabulary.save(str(tmp_path))
    loaded = SeqIOVocabulary.load(str(tmp_path))
    assert isinstance(Vocabulary.load(str(tmp_path)), seqio.Vocabulary)
    assert issubclass(SeqIOVocabulary, seqio.Vocabulary) and seqio.Vocabulary in SeqIOVocabulary.__mro__
    assert loaded == vocabulary and pickle.loads(pickle.dumps(loaded)) == loaded
    text = "def f():\n  é\n"
    ids = loaded.encode(text)
    assert loaded.encode_tf(tf.constant(text)).numpy().tolist() == ids
    assert loaded.decode_tf(tf.constant(ids)).numpy().decode() == text
    batch = tf.constant([[*ids, 1, 300], [*ids, 1, 0]])
    assert [t.decode() for t in loaded.decode_tf(batch).numpy()] == [text, text]
    assert (loaded.vocab_size, loaded.pad_id, loaded.eos_id, loaded.unk_id, loaded.extra_ids) == (1152, 0, 1, 256, 0)
    feature = seqio.Feature(vocabulary=loaded, add_eos=False)
    assert feature.vocabulary.vocab_size == 1152
    encoded = seqio.preprocessors.tokenize(tf.data.Dataset.from_tensors({"targets": text}), {"targets": feature})
    assert next(iter(encoded))["targets"].numpy().tolist() == ids
