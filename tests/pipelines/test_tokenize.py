"""The tokenize job end to end: every kind of document, funnel, splits, equal bytes with any workers."""

import dataclasses
import hashlib
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from small_corpora import write_corpus

from castor.pipelines.core.funnel import Funnel
from castor.pipelines.document import BadInput, Document, Rejection, document_id
from castor.pipelines.execution import launcher
from castor.pipelines.media.images import encode_png
from castor.pipelines.media.sounds import encode_flac
from castor.pipelines.tokenization import examples
from castor.pipelines.tokenize import Job
from castor.tasks.cache import reader as cache_reader
from castor.tasks.cache.manifest import load_manifest
from castor.tasks.errors import ConfigurationError, CorpusError, VocabularyError
from castor.tasks.vocabulary import audio, codec_fit, sentencepieces, streams
from castor.tasks.vocabulary.vocabulary import Vocabulary

PROSE = "The library has %d rooms, and in each of them stand shelves full of books about %s.\n"


def picture(number: int, rows: int = 5, columns: int = 8) -> np.ndarray:
    y, x = np.mgrid[0 : 8 * rows, 0 : 8 * columns] / 30.0
    return np.clip(120 + 60 * np.sin(x * (1 + number % 3) + y + number)[..., None] + [0, 20, -20], 0, 255).astype(
        np.uint8
    )


def sound(number: int, seconds: float = 0.6) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * (200 + 40 * number) * np.arange(int(seconds * 16_000)) / 16_000)).astype(
        np.float32
    )


def documents(modality: str, count: int) -> list[Document]:
    made = []
    for n in range(count):
        identifier, source = document_id(modality, str(n)), f"{modality}/{n}"
        if modality in ("text", "code"):
            made.append(Document(identifier, source, modality, PROSE % (n, "things" * (n % 5)) * (1 + n % 7)))
        elif modality == "image":
            made.append(Document(identifier, source, modality, f"picture {n}", encode_png(picture(n))))
        else:
            made.append(Document(identifier, source, modality, f"tone {n}", encode_flac(sound(n))))
    return made


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory) -> str:
    directory = str(tmp_path_factory.mktemp("vocabulary"))
    image_codec = codec_fit.fit([picture(n) for n in range(6)], (8, 8, 3), 256)
    levels = [audio.log_mel(sound(n, 0.8)) for n in range(4)]
    audio_codec = codec_fit.fit(levels, (streams.AUDIO_FRAMES, audio.BANDS, 1), 128, audio.FLOOR_DB, audio.STEP_DB)
    Vocabulary(sentencepieces.train([PROSE * 20], 512), image_codec, audio_codec, 600).save(directory)
    return directory


@pytest.fixture(scope="module")
def text_corpus(tmp_path_factory) -> str:
    odd = [
        Document(document_id("text", "empty"), "text/empty", "text", ""),
        Document(document_id("text", "none"), "text/none", "text", None),
        Document(document_id("text", "long"), "text/long", "text", "x" * 200_000),
        Document(document_id("text", "longer"), "text/longer", "text", "1" * 5_000),
    ]
    return write_corpus(tmp_path_factory.mktemp("text"), "text", "text", [*documents("text", 120), *odd])


def make_job(corpus_directory: str, vocabulary: str, output, **changes) -> Job:
    fields = {"name": "task", "num_shards": 3, "splits": {"train": 0.8, "validation": 0.2}, "max_tokens": 3000}
    return Job(corpus=corpus_directory, vocabulary=vocabulary, output=str(output), **{**fields, **changes})


def records(directory, split: str) -> dict[str, list[int]]:
    """Document id -> targets, read with Castor's own reader."""
    reader = cache_reader.CacheReader(str(directory), split)
    return {reader.document(i)[0]: reader[i]["targets"].tolist() for i in range(len(reader))}


def all_bytes(directory: pathlib.Path) -> dict[str, str]:
    files = sorted(p for p in directory.rglob("*") if p.is_file())
    return {str(p.relative_to(directory)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_text_to_cache_with_an_exact_funnel(text_corpus, vocabulary, tmp_path):
    manifest = launcher.run(make_job(text_corpus, vocabulary, tmp_path), quiet=True)
    funnel = Funnel.from_json(manifest["funnel"])
    assert funnel.read == 124 and funnel.adds_up
    assert funnel.rejected == {"tokenize.empty": 2, "tokenize.too_long": 2} and not funnel.dead_letters
    assert manifest["modality"] == "text" and manifest["vocabulary"]["size"] == Vocabulary.load(vocabulary).vocab_size
    counts = {name: split["records"] for name, split in manifest["splits"].items()}
    assert sum(counts.values()) == 120 and 10 < counts["validation"] < 40
    assert all(len(split["shards"]) == 3 for split in manifest["splits"].values())
    assert load_manifest(str(tmp_path)).data["fingerprint"] == make_job(text_corpus, vocabulary, tmp_path).fingerprint()
    assert "card.html" in manifest["files"] and "Samples kept" in (tmp_path / "card.html").read_text()
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_what_is_in_the_cache_decodes_to_the_documents(text_corpus, vocabulary, tmp_path):
    launcher.run(make_job(text_corpus, vocabulary, tmp_path), quiet=True)
    v = Vocabulary.load(vocabulary)
    texts = {d.id: d.text for d in documents("text", 120)}
    found = {**records(tmp_path, "train"), **records(tmp_path, "validation")}
    assert set(found) == set(texts)
    for identifier, ids in found.items():
        assert ids[-1] == v.eos_id and v.decode(ids) == texts[identifier]


@pytest.mark.parametrize("modality", ["image", "audio"])
def test_media(vocabulary, tmp_path, modality):
    made = [
        *documents(modality, 12),
        Document(document_id(modality, "bad"), "bad", modality, "damaged", b"\xff\xd8\xff nonsense"),
    ]
    directory = write_corpus(tmp_path / "corpus", modality, modality, made)
    manifest = launcher.run(make_job(directory, vocabulary, tmp_path / "task", image_token_budget=20), quiet=True)
    funnel = Funnel.from_json(manifest["funnel"])
    assert funnel.read == 13 and funnel.kept == 12 and funnel.dead_total == 1 and funnel.adds_up
    v = Vocabulary.load(vocabulary)
    firsts = set()
    for identifier, ids in {**records(tmp_path / "task", "train"), **records(tmp_path / "task", "validation")}.items():
        kinds = [segment.kind for segment in v.modality_spans(ids, decode=False)]
        assert sorted(kinds) == sorted([modality, "text", "control"]) and (kinds[0] == modality) == streams.span_first(
            identifier
        )
        firsts.add(kinds[0])
    assert firsts == {modality, "text"}


def test_too_many_dead_letters_commit_nothing(vocabulary, tmp_path):
    made = [
        *documents("image", 2),
        *(Document(document_id("image", f"bad{n}"), "bad", "image", None, b"no picture") for n in range(3)),
    ]
    directory = write_corpus(tmp_path / "corpus", "image", "image", made)
    with pytest.raises(CorpusError, match="dead letters"):
        launcher.run(make_job(directory, vocabulary, tmp_path / "task"), quiet=True)
    assert not (tmp_path / "task" / "manifest.json").exists() and not (tmp_path / "task" / "COMPLETED").exists()


def test_same_bytes_with_two_worker_processes_and_after_a_second_run(text_corpus, vocabulary, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    launcher.run(make_job(text_corpus, vocabulary, one), quiet=True)
    first = all_bytes(one)
    launcher.run(make_job(text_corpus, vocabulary, one), quiet=True)
    assert all_bytes(one) == first
    launcher.run(
        make_job(text_corpus, vocabulary, two),
        ["--direct_running_mode=multi_processing", "--direct_num_workers=2"],
        quiet=True,
    )
    assert all_bytes(two) == first


def test_seed_changes_order_and_splits_only(text_corpus, vocabulary, tmp_path):
    launcher.run(make_job(text_corpus, vocabulary, tmp_path / "a"), quiet=True)
    launcher.run(make_job(text_corpus, vocabulary, tmp_path / "b", seed=1), quiet=True)
    a, b = ({**records(tmp_path / x, "train"), **records(tmp_path / x, "validation")} for x in "ab")
    assert a == b and list(a) != list(b)
    assert set(records(tmp_path / "a", "validation")) != set(records(tmp_path / "b", "validation"))


def test_bad_use_is_named_before_anything_runs(text_corpus, vocabulary, tmp_path):
    with pytest.raises(CorpusError, match="absent"):
        launcher.run(make_job(str(tmp_path / "absent"), vocabulary, tmp_path / "task"), quiet=True)
    with pytest.raises(VocabularyError, match="absent"):
        launcher.run(make_job(text_corpus, str(tmp_path / "absent"), tmp_path / "task"), quiet=True)
    for splits in ({"train": 0.5}, {}, {"train": 1.5, "validation": -0.5}):
        with pytest.raises(ConfigurationError, match="SPLITS"):
            make_job(text_corpus, vocabulary, tmp_path, splits=splits)
    words = tmp_path / "words"
    Vocabulary(sentencepieces.train(["text"], 512)).save(str(words))
    images = write_corpus(tmp_path / "images", "image", "image", documents("image", 1))
    with pytest.raises(VocabularyError, match="no image codes"):
        launcher.run(make_job(images, str(words), tmp_path / "task"), quiet=True)


def test_fingerprint_follows_inputs_and_configuration_not_places(text_corpus, vocabulary, tmp_path):
    base = make_job(text_corpus, vocabulary, tmp_path)
    assert base.fingerprint() == dataclasses.replace(base, output="elsewhere").fingerprint()
    assert base.fingerprint() != dataclasses.replace(base, seed=5).fingerprint()
    assert base.fingerprint() != dataclasses.replace(base, max_tokens=99).fingerprint()


def test_split_shares_are_kept_and_never_drift():
    thresholds = examples.split_thresholds({"train": 0.9, "validation": 0.1})
    splits = [examples.split_of(0, document_id("c", str(n)), thresholds) for n in range(5000)]
    assert abs(splits.count("validation") - 500) < 70
    assert (
        "".join(examples.split_of(7, f"{n:032x}", examples.split_thresholds({"a": 0.5, "b": 0.5})) for n in range(24))
        == GOLDEN_SPLITS
    )
    assert {
        examples.split_of(0, document_id("c", str(n)), examples.split_thresholds({"t": 1.0, "v": 0.0}))
        for n in range(500)
    } == {"t"}


GOLDEN_SPLITS = "bbbbabaabbbbabbbababbbbb"


def test_tokenizer_alone(vocabulary):
    tokenizer = examples.Tokenizer(vocabulary, Vocabulary.load(vocabulary).fingerprint, max_tokens=40)
    tokenizer.prepare()
    short = tokenizer(Document("0" * 32, "s", "text", "a book"))
    assert short.text is None and examples.ids_of(short)[-1] == 1
    digits = Document("0" * 32, "s", "text", "12345" * 20)
    assert tokenizer(digits) == Rejection(digits, "tokenize.too_long", "101")
    assert tokenizer(Document("0" * 32, "s", "code", "x" * 10_000)).reason == "tokenize.too_long"
    assert tokenizer(Document("0" * 32, "s", "text", "")).reason == "tokenize.empty"
    for modality, content in (("image", None), ("smell", b"y"), ("audio", b"junk")):
        with pytest.raises(BadInput):
            tokenizer(Document("0" * 32, "s", modality, "x", content))
    with pytest.raises(ConfigurationError, match="changed"):
        dataclasses.replace(tokenizer, fingerprint="another").prepare()


def test_pure_functions_import_without_beam():
    heavy = "('apache_beam', 'tensorflow', 'jax')"
    script = f"import sys, castor.pipelines.tokenization.examples, castor.pipelines.tokenize; print([m for m in {heavy} if m in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True, check=True).stdout.strip()
        == "[]"
    )
