import json

import hypothesis
import hypothesis.strategies as st
import pytest

from castor.pipelines.document import BadInput
from castor.pipelines.media import captions

VTT = b"WEBVTT\n\nNOTE a note\nover two lines\n\n1\n"
VTT += b"00:00:00.000 --> 00:00:01.500 line:80%\n<v Ann>Hello</v>\nthere\n\n00:01.500 --> 00:02.000\nbye\n"


def error_of(modality, **sidecars):
    with pytest.raises(BadInput) as caught:
        captions.read_sidecars(modality, sidecars)
    return caught.value.error


def test_text_comes_from_the_first_place_that_has_one():
    facts = json.dumps({"title": "T", "transcript": "spoken", "caption": " seen ", "licence": "CC0"}).encode()
    assert captions.read_sidecars("image", {"json": facts})[0] == "seen"
    assert captions.read_sidecars("audio", {"json": facts})[0] == "spoken"
    text, metadata = captions.read_sidecars("image", {"json": facts, "txt": b"\xef\xbb\xbfwritten \n"})
    assert (
        text == "written"
        and metadata["text_from"] == "txt"
        and metadata["licence"] == "CC0"
        and metadata["sidecar"]["title"] == "T"
    )
    assert captions.read_sidecars("image", {}) == (None, {})
    assert captions.read_sidecars("image", {"json": b'{"caption": ["a"], "n": 1}'})[0] is None


def test_captions_follow_the_title():
    text, metadata = captions.read_sidecars("video", {"json": b'{"title": "Film"}', "vtt": VTT})
    assert (
        text == "Film\nHello there\nbye"
        and metadata["text_from"] == "json.title+vtt"
        and "captions_dropped" not in metadata
    )


def test_unusable_cues_are_dropped_and_counted():
    damaged = (
        VTT
        + b"\n00:05.000 --> 00:02.000\nbackwards\n\n99:99:99.999 --> 100:00:00.000\nno time\n\n00:01.000 -> 00:02.000\narrow\n"
    )
    text, metadata = captions.read_sidecars("video", {"vtt": damaged})
    assert text == "Hello there\nbye" and metadata["captions_dropped"] == 3


def test_srt():
    assert captions.parse_captions(
        "1\r\n00:00:01,000 --> 00:00:02,000\r\n<i>one</i>\r\n\r\n2\r\n00:00:02,000 --> 00:00:03,000\r\ntwo\r\n"
    ) == (["one", "two"], 0)


def test_unreadable_sidecars_make_the_sample_bad():
    assert error_of("image", txt=b"caf\xe9") == "bad_text"
    assert error_of("image", txt=b"x" * (captions.MAX_BYTES + 1)) == "too_large"
    assert error_of("video", vtt=b"WEBVTT\n\n00:05.000 --> 00:02.000\nbackwards\n") == "bad_captions"
    for data in (
        b"{",
        b"",
        b"[1]",
        b'{"a": NaN}',
        b'{"a": 1e999}',
        b'{"a": 123456789012345678901234567890}',
        b'{"a": "\\ud800"}',
        b"[" * 100_000,
        b"\xff{}",
    ):
        assert error_of("image", json=data) == "bad_json", data[:20]


@hypothesis.settings(derandomize=True, deadline=None, max_examples=200)
@hypothesis.given(
    extension=st.sampled_from(captions.EXTENSIONS), data=st.binary(max_size=200) | st.text(max_size=200).map(str.encode)
)
def test_any_bytes_are_read_or_refused(extension, data):
    try:
        text, metadata = captions.read_sidecars("video", {extension: data})
    except BadInput:
        return
    assert text is None or text.strip() == text
    json.dumps(metadata)
