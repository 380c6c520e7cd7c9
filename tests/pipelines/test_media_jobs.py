"""The media jobs end to end on small corpora: kept documents, funnels, and dead letters of damaged files."""

import hashlib
import json
import pathlib

import numpy as np
import pytest
import small_media

from castor.pipelines import audio, image, video
from castor.pipelines.core import dead_letters
from castor.pipelines.corpus.reader import read_corpus
from castor.pipelines.execution import job_config, launcher
from castor.pipelines.filters import image_lists
from castor.pipelines.filters.datacomp_basic import DataCompBasic
from castor.pipelines.filters.sound_quality import SoundQuality
from castor.pipelines.media import fingerprints, images, sounds
from castor.tasks import configuration


def run(kind, folder, output, **options):
    options = {"num_shards": 2, "dead_letter_threshold": 1.0, **options}
    return launcher.run(
        kind(name="test", input_root=str(folder), inputs=("**/*",), output=str(output), **options), quiet=True
    )


def accounted(manifest):
    funnel = manifest["funnel"]
    return funnel["kept"] + sum(sum(funnel[part].values()) for part in ("rejected", "duplicates", "dead_letters"))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    big = [small_media.encode_picture(small_media.picture(240, 220, seed)) for seed in range(5)]
    members = [
        ("0.jpg", big[0]),
        ("0.txt", b"a very smooth picture"),
        ("1.jpg", big[1]),
        ("1.txt", b"picture"),
        ("2.jpg", big[2]),
    ]
    members += [("3.jpg", big[3][:-40]), ("3.txt", b"half of a picture"), ("4.txt", b"no picture at all")]
    (folder / "a.tar").write_bytes(small_media.tar(members))
    (folder / "copy.jpg").write_bytes(big[0])
    (folder / "copy.json").write_text(json.dumps({"caption": "the same one again", "license": "CC0"}))
    (folder / "small.png").write_bytes(small_media.encode_picture(small_media.picture(20, 20), "PNG"))
    (folder / "small.txt").write_text("a very small picture")
    (folder / "page.jpg").write_text("<!DOCTYPE html>")
    (folder / "notes.md").write_text("not of this kind")
    return folder


def test_pictures_on_a_list_are_turned_away(pictures, tmp_path):
    big = [small_media.encode_picture(small_media.picture(240, 220, seed)) for seed in range(3)]
    (tmp_path / "files.txt").write_text("# known\n" + hashlib.sha256(big[0]).hexdigest())
    again = fingerprints.perceptual_hash(images.decode_image(big[1]))
    (tmp_path / "likenesses.txt").write_text(fingerprints.to_hex(again ^ 0b101))
    rule = image_lists.Filter(
        files=(str(tmp_path / "files.txt"),), perceptual=(str(tmp_path / "likenesses.txt"),), min_detail=0.0
    )
    manifest = run(image.Job, pictures, tmp_path / "out", filters=(rule,), keep_rejects=True)
    assert (
        manifest["funnel"]["rejected"] == {"image_lists.file": 2, "image_lists.perceptual": 1}
        and accounted(manifest) == 9
    )
    assert set(manifest["files"]) == {str(tmp_path / "files.txt"), str(tmp_path / "likenesses.txt")}


def test_image_job(pictures, tmp_path):
    manifest = run(image.Job, pictures, tmp_path / "out")
    assert manifest["funnel"] == {
        "read": 9,
        "kept": 1,
        "rejected": {"datacomp_basic.words": 1, "datacomp_basic.no_caption": 1, "datacomp_basic.side": 1},
        "duplicates": {"exact": 1},
        "dead_letters": {
            "decode.damaged_image": 1,
            "decode.unsupported_format": 1,
            "source.missing_media": 1,
            "source.unsupported_format": 1,
        },
    }
    assert accounted(manifest) == 9 and manifest["modality"] == "image"
    (document,) = read_corpus(str(tmp_path / "out"))
    assert document.bytes == (pictures / "copy.jpg").read_bytes()
    assert (document.metadata["width"], document.metadata["height"], document.metadata["format"]) == (240, 220, "JPEG")
    assert len(list(dead_letters.read(str(tmp_path / "out")))) == 4


def test_rules_are_configuration(pictures, tmp_path):
    loose = run(image.Job, pictures, tmp_path / "loose", filters=(DataCompBasic(min_words=0, min_chars=0, min_side=1),))
    assert loose["funnel"]["kept"] == 4 and loose["funnel"]["rejected"] == {}
    first = image.Job(name="test", input_root=str(pictures), inputs=("**/*",), output="o")
    other = image.Job(
        name="test", input_root=str(pictures), inputs=("**/*",), output="o", filters=(DataCompBasic(min_words=1),)
    )
    assert first.fingerprint() != other.fingerprint()


def test_a_changed_sidecar_is_a_changed_input(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"1")
    (tmp_path / "a.txt").write_text("one")
    made = image.Job(name="test", input_root=str(tmp_path), inputs=("*.jpg",), output="o")
    before = made.fingerprint()
    (tmp_path / "a.txt").write_text("another")
    assert made.fingerprint() != before


def test_audio_job(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    speech = (small_media.tone(1.5, 16_000, 300) * 32_767).astype(
        np.int16
    )  # libsndfile rounds floats differently for WAV and FLAC
    members = [
        ("0.wav", small_media.encode_sound(speech, 16_000)),
        ("0.txt", b"mmm"),
        ("1.wav", small_media.encode_sound(speech * 0, 16_000)),
    ]
    members += [
        ("2.flac", small_media.encode_sound(small_media.tone(2.0, 44_100), 44_100, "FLAC")),
        ("3.mp3", b"ID3"),
        ("4.ogg", b""),
    ]
    (folder / "a.tar").write_bytes(small_media.tar(members))
    (folder / "same.flac").write_bytes(small_media.encode_sound(speech, 16_000, "FLAC"))
    manifest = run(audio.Job, folder, tmp_path / "out", filters=(SoundQuality(),))
    assert manifest["funnel"] == {
        "read": 6,
        "kept": 2,
        "rejected": {"sound_quality.silence": 1},
        "duplicates": {"exact": 1},
        "dead_letters": {"decode.damaged_container": 1, "decode.empty": 1},
    }
    for document in read_corpus(str(tmp_path / "out")):
        assert document.bytes[:4] == b"fLaC"
        assert len(sounds.decode_audio(document.bytes)) == round(document.metadata["seconds"] * 16_000)


def test_video_job(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    sound = small_media.film(3.0, width=192, height=128)
    (folder / "a.mp4").write_bytes(sound)
    (folder / "a.json").write_text('{"title": "Red rises"}')
    (folder / "a.vtt").write_text("WEBVTT\n\n00:00.000 --> 00:01.000\nhello\n")
    (folder / "cut.mp4").write_bytes(sound[:-100])
    (folder / "still.webm").write_bytes(
        small_media.film(3.0, width=192, height=128, container="webm", codec="libvpx", audio_codec=None, moving=False)
    )
    manifest = run(video.Job, folder, tmp_path / "out")
    assert manifest["funnel"] == {
        "read": 3,
        "kept": 1,
        "rejected": {"clip_quality.motion": 1},
        "duplicates": {},
        "dead_letters": {"decode.damaged_container": 1},
    }
    (document,) = read_corpus(str(tmp_path / "out"))
    assert document.text == "Red rises\nhello" and document.bytes == sound and document.metadata["seconds"] == 3.0


@pytest.mark.parametrize("name", ["image", "image_loose", "audio", "audio_loose", "video", "video_loose"])
def test_gin_files_configure_the_jobs(name, tmp_path):
    root = configuration.gin_root()
    assert (pathlib.Path(root) / "pipelines" / f"{name}.gin").is_file()
    bindings = (
        f"INPUT_ROOT = '{tmp_path}'",
        "INPUTS = ['*.tar']",
        "OUTPUT = 'out'",
        "NUM_SHARDS = 3",
        "KEEP_REJECTS = True",
        "DEAD_LETTER_THRESHOLD = 0.5",
    )
    configuration.parse(configuration.Flags((f"pipelines/{name}.gin",), bindings))
    try:
        made = {"image": image, "audio": audio, "video": video}[name.partition("_")[0]].Job()
    finally:
        configuration.parse(configuration.Flags())
    assert (made.input_root, list(made.inputs), made.output, made.num_shards, made.keep_rejects) == (
        str(tmp_path),
        ["*.tar"],
        "out",
        3,
        True,
    )
    assert (
        made.dead_letter_threshold == 0.5
        and made.filters
        and job_config.rebuild(made.config(), output="out") == job_config.rebuild(made.config(), output="out")
    )
    if not name.endswith("loose"):
        published = {"image": image, "audio": audio, "video": video}[name].Job(
            name="n", input_root="", inputs=(), output=""
        )
        assert tuple(made.filters) == tuple(published.filters) and made.measure == published.measure
