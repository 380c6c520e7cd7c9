"""The vocabulary job end to end on small corpora: sample, fit, report, equal bytes with any workers."""

import dataclasses
import hashlib
import pathlib

import numpy as np
import pytest
from small_corpora import write_corpus

from castor.pipelines.core.funnel import Funnel
from castor.pipelines.document import Document, Rejection, document_id
from castor.pipelines.execution import launcher
from castor.pipelines.media.images import encode_png
from castor.pipelines.media.sounds import encode_flac
from castor.pipelines.tokenization import samples
from castor.pipelines.vocabulary import Job
from castor.tasks.errors import ConfigurationError, CorpusError
from castor.tasks.vocabulary import codec_fit, psnr, streams
from castor.tasks.vocabulary.vocabulary import Vocabulary


def picture(number: int) -> np.ndarray:
    y, x = np.mgrid[0:48, 0:72] / 30.0
    random = np.random.default_rng(number)
    field = 120 + 60 * np.sin(x * (1 + number % 3) + y + number)[..., None]
    return np.clip(field + random.normal(0, 4, (48, 72, 3)), 0, 255).astype(np.uint8)


def sound(number: int) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * (200 + 40 * number) * np.arange(9_600) / 16_000)).astype(np.float32)


def documents(modality: str, count: int) -> list[Document]:
    made = []
    for n in range(count):
        identifier, source = document_id(modality, str(n)), f"{modality}/{n}"
        if modality == "text":
            made.append(
                Document(
                    identifier, source, modality, f"Room {n} of the library\n\tholds {n * n} books about gärten. " * 6
                )
            )
        elif modality == "image":
            made.append(Document(identifier, source, modality, f"picture {n}", encode_png(picture(n))))
        else:
            made.append(Document(identifier, source, modality, f"tone {n}", encode_flac(sound(n))))
    return made


@pytest.fixture(scope="module")
def corpora(tmp_path_factory) -> dict[str, str]:
    counts = {"text": 60, "image": 24, "audio": 20}
    return {
        kind: write_corpus(tmp_path_factory.mktemp(kind), kind, kind, documents(kind, n), num_shards=2)
        for kind, n in counts.items()
    }


def make_job(corpora, output, **changes) -> Job:
    fields = {
        "pieces": 600,
        "image_codes": 256,
        "audio_codes": 64,
        "documents": 40,
        "media": 16,
        "image_token_budget": 54,
    }
    return Job(name="vocabulary", corpora=list(corpora), output=str(output), **{**fields, **changes})


def all_bytes(directory: pathlib.Path) -> dict[str, str]:
    files = sorted(p for p in directory.rglob("*") if p.is_file())
    return {str(p.relative_to(directory)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_whole_with_any_workers_the_same_bytes(corpora, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    made = make_job(corpora.values(), one)
    manifest = launcher.run(made, quiet=True)
    funnel = Funnel.from_json(manifest["funnel"])
    assert funnel.read == 104 and funnel.kept == 72 and funnel.rejected == {samples.NOT_SAMPLED: 32} and funnel.adds_up
    assert manifest["fingerprint"] == made.fingerprint()
    assert not [p for p in one.iterdir() if p.name.startswith(".")]
    vocabulary = Vocabulary.load(str(one))
    assert vocabulary.sizes() == {"text": 600, "image": 256, "audio": 64} and vocabulary.vocab_size == 1280
    text = documents("text", 3)[2].text
    assert vocabulary.decode(vocabulary.encode(text)) == text and len(vocabulary.encode(text)) < 0.9 * len(text)
    summary = manifest["summary"]
    assert summary["text"]["text"]["documents"] == 40 and summary["text"]["text"]["tokens_per_character"] < 0.9
    assert summary["image"]["image"]["held_out"]["arrays"] == 2 and summary["image"]["image"]["fitted"]["arrays"] == 14
    assert summary["image"]["image"]["held_out"]["psnr"] > 20 and summary["audio"]["audio"]["held_out"]["psnr"] > 15
    assert any("PSNR" in line for line in made.report(manifest))
    pixels = picture(99)
    assert psnr.psnr(pixels, vocabulary.decode_image(vocabulary.encode_image(pixels))) > 20
    launcher.run(
        make_job(corpora.values(), two),
        ["--direct_running_mode=multi_processing", "--direct_num_workers=2"],
        quiet=True,
    )
    assert all_bytes(two) == all_bytes(one)


def test_text_alone_then_with_damage(corpora, tmp_path):
    made = make_job([corpora["text"]], tmp_path / "v")
    assert launcher.run(made, quiet=True)["summary"]["image"] == {}
    vocabulary = Vocabulary.load(str(tmp_path / "v"))
    assert vocabulary.sizes() == {"text": 600, "image": 0, "audio": 0} and vocabulary.image_codec is None
    bad = [*documents("image", 9), Document(document_id("image", "bad"), "bad", "image", None, b"no picture")]
    damaged = write_corpus(tmp_path / "damaged", "image", "image", bad, num_shards=2)
    manifest = launcher.run(make_job([damaged], tmp_path / "v"), quiet=True)
    assert Funnel.from_json(manifest["funnel"]).dead_letters == {"prepare.unsupported_format": 1}
    assert (tmp_path / "v" / "dead_letter").is_dir() and Vocabulary.load(str(tmp_path / "v")).sizes()["image"] == 256
    with pytest.raises(CorpusError, match="dead letters"):
        launcher.run(make_job([damaged], tmp_path / "w", dead_letter_threshold=0.01), quiet=True)
    assert not (tmp_path / "w" / "manifest.json").exists()


def test_a_corpus_without_documents(tmp_path):
    empty = write_corpus(tmp_path / "empty", "text", "text", [], num_shards=2)
    launcher.run(make_job([empty], tmp_path / "v"), quiet=True)
    vocabulary = Vocabulary.load(str(tmp_path / "v"))
    assert vocabulary.decode(vocabulary.encode("still, any text")) == "still, any text"


def test_bad_use(corpora, tmp_path):
    with pytest.raises(CorpusError, match="absent"):
        launcher.run(make_job([str(tmp_path / "absent")], tmp_path / "v"), quiet=True)
    for changes, match in (
        ({"pieces": 100}, "VOCAB_SIZE"),
        ({"image_codes": 1}, "IMAGE_CODES"),
        ({"audio_codes": 1 << 30}, "AUDIO_CODES"),
    ):
        with pytest.raises(ConfigurationError, match=match):
            make_job(corpora.values(), tmp_path, **changes)
    with pytest.raises(ConfigurationError, match="CORPORA"):
        make_job([], tmp_path)
    base = make_job(corpora.values(), tmp_path)
    assert base.fingerprint() == dataclasses.replace(base, output="elsewhere").fingerprint()
    assert base.fingerprint() != dataclasses.replace(base, image_codes=512).fingerprint()


def test_the_sample_is_nested_and_does_not_depend_on_order():
    ids = [document_id("c", str(n)) for n in range(1000)]
    keys = [samples.sample_key(i) for i in ids]
    few, many = samples.smallest(keys, 10), samples.smallest(reversed(keys), 100)
    assert few == many[:10] and len(set(many)) == 100
    sample = samples.SelectSample(3)
    chosen = [sample(Document(i, "s", "text", "x"), few) for i in ids]
    kept = [d for d in chosen if isinstance(d, Document)]
    assert sorted(d.metadata["rank"] for d in kept) == list(range(10)) and all(d.metadata["corpus"] == 3 for d in kept)
    assert all(d.reason == samples.NOT_SAMPLED and d.document.text is None for d in chosen if isinstance(d, Rejection))


def test_samples_survive_packing():
    levels = streams.audio_levels(sound(1))
    sample = samples.Sample("a\ud800b", (picture(1),), (levels,))
    back = samples.Sample.unpack(sample.pack())
    assert back.text == sample.text and np.array_equal(back.pictures[0], picture(1))
    codec = codec_fit.fit([levels], streams.AUDIO_PATCH, 64, -96.0, 0.375)
    assert np.array_equal(codec.encode(back.sounds[0]), codec.encode(levels))


def test_text_sample_is_bounded_and_fair(tmp_path):
    rows = [samples.store(_prepared(corpus_index, rank), str(tmp_path)) for corpus_index in (0, 1) for rank in range(5)]
    texts = list(samples.training_texts(rows, 40))
    assert texts == ["0 0 aaaaaa", "1 0 aaaaaa", "0 1 aaaaaa", "1 1 aaaaaa"]
    assert list(samples.training_texts(reversed(rows), 40)) == texts


def _prepared(corpus_index: int, rank: int) -> Document:
    body = samples.Sample(f"{corpus_index} {rank} aaaaaa").pack()
    return Document(f"{rank:032x}", "s", "text", None, body, {"corpus": corpus_index, "rank": rank})
