"""The rules over media metadata: what passes, what does not and why, at the thresholds themselves."""

import pytest

from castor.pipelines.document import Document
from castor.pipelines.filters.clip_quality import ClipQuality
from castor.pipelines.filters.datacomp_basic import DataCompBasic
from castor.pipelines.filters.obelics_image import ObelicsImage
from castor.pipelines.filters.sound_quality import SoundQuality
from castor.pipelines.filters.still_image import StillImage


def check(rule, text, **facts):
    return rule.check(Document("0" * 32, "source", "image", text, b"", facts))


IMAGE = {"width": 400, "height": 300, "format": "JPEG", "frames": 1}
SOUND = {"seconds": 5.0, "sample_rate": 16_000, "silence": 0.1, "clipping": 0.0}
CLIP = {"seconds": 5.0, "width": 320, "height": 240, "motion": 0.1}


@pytest.mark.parametrize(
    "text, facts, reason",
    [
        ("a red shirt", {}, None),
        ("a shirt", {}, "words"),
        ("a b c", {}, "chars"),
        ("a b cd", {}, None),
        (None, {}, "no_caption"),
        ("  ", {}, "no_caption"),
        ("a red shirt", {"width": 200, "height": 200}, None),
        ("a red shirt", {"width": 199, "height": 300}, "side"),
        ("a red shirt", {"width": 900, "height": 300}, None),
        ("a red shirt", {"width": 301, "height": 904}, "aspect"),
    ],
)
def test_datacomp_basic(text, facts, reason):
    assert check(DataCompBasic(), text, **{**IMAGE, **facts}) == (reason and f"datacomp_basic.{reason}")


def test_datacomp_basic_can_let_pictures_without_captions_pass():
    assert check(DataCompBasic(min_words=0, min_chars=0), None, **IMAGE) is None
    assert check(DataCompBasic(min_words=1, min_chars=0), "shirt", **IMAGE) is None


@pytest.mark.parametrize(
    "facts, reason",
    [
        ({}, None),
        ({"format": "GIF"}, "format"),
        ({"height": 149}, "small"),
        ({"width": 20_001}, "large"),
        ({"width": 601}, "aspect"),
        ({"width": 600}, None),
    ],
)
def test_obelics_image(facts, reason):
    assert check(ObelicsImage(), "", **{**IMAGE, **facts}) == (reason and f"obelics_image.{reason}")


def test_still_image():
    assert check(StillImage(), "", **IMAGE) is None
    assert check(StillImage(), "", **{**IMAGE, "frames": 2}) == "still_image.animated"


@pytest.mark.parametrize(
    "facts, reason",
    [
        ({}, None),
        ({"seconds": 0.99}, "short"),
        ({"seconds": 30.0}, None),
        ({"seconds": 30.01}, "long"),
        ({"sample_rate": 8000}, "sample_rate"),
        ({"silence": 0.51}, "silence"),
        ({"clipping": 0.011}, "clipping"),
    ],
)
def test_sound_quality(facts, reason):
    assert check(SoundQuality(), None, **{**SOUND, **facts}) == (reason and f"sound_quality.{reason}")
    assert check(SoundQuality(require_text=True), " ", **SOUND) == "sound_quality.no_text"


@pytest.mark.parametrize(
    "facts, reason",
    [
        ({}, None),
        ({"seconds": 1.99}, "short"),
        ({"seconds": 301.0}, "long"),
        ({"height": 99}, "side"),
        ({"width": 700, "height": 300}, None),
        ({"width": 701, "height": 300}, "aspect"),
        ({"width": 128, "height": 300}, "aspect"),
        ({"motion": 0.0019}, "motion"),
    ],
)
def test_clip_quality(facts, reason):
    assert check(ClipQuality(), "title", **{**CLIP, **facts}) == (reason and f"clip_quality.{reason}")
    assert check(ClipQuality(require_text=True), None, **CLIP) == "clip_quality.no_text"


def test_reasons_carry_the_offending_value():
    assert check(DataCompBasic(), "a shirt", **IMAGE).measure == "2"
    assert check(DataCompBasic(), "a red shirt", **{**IMAGE, "width": 199}).measure == "199 x 300"
    assert check(StillImage(), "", **{**IMAGE, "frames": 2}).measure == "2 frames"
    assert check(SoundQuality(), None, **{**SOUND, "silence": 0.51}).measure == "0.51"
    assert check(ClipQuality(), None, **{**CLIP, "width": 701, "height": 300}).measure == "2.337"
    assert check(ObelicsImage(), None, **{**IMAGE, "format": "GIF"}).measure == "GIF"
