"""The preview page: decodes text, pictures, sound and video from ids, loads nothing, and escapes untrusted text."""

import base64
import html.parser
import io
import wave

import numpy as np
import pytest
import small_caches as caches
from PIL import Image

from castor.tasks.cache import reader as cache_reader
from castor.tasks.cache.features import Record
from castor.tasks.integrations import preview
from castor.tasks.vocabulary import streams

HOSTILE = '<script>alert(1)</script><img src=x onerror=alert(2)> & "quoted" </pre>'


@pytest.fixture(scope="module")
def vocabulary():
    return caches.make_vocabulary()


@pytest.fixture(scope="module")
def reader(tmp_path_factory, vocabulary):
    v = vocabulary
    pixels = np.full((16, 24, 3), 200, np.uint8)
    sound = np.sin(np.arange(8000) / 8).astype(np.float32)
    documents = {
        HOSTILE: streams.text_document(v, HOSTILE),
        "image": streams.described_document(v, "0" * 32, "a grey block", v.encode_image(pixels)),
        "audio": [*v.encode_audio(sound), *v.encode("a tone"), v.eos_id],
        "video": [*streams.video_span(v, [pixels, pixels], [0.0, 1.0], sound, 64), v.eos_id],
        "odd": [v.control("<image>"), v.control("</image>"), v.vocab_size - 1, 100, 3],
    }
    records = [
        Record(f"{i:032x}", source, {"targets": np.array(ids)}) for i, (source, ids) in enumerate(documents.items())
    ]
    facts = {"path": "", "fingerprint": v.fingerprint, "size": v.vocab_size}
    return cache_reader.CacheReader(
        caches.make_cache(tmp_path_factory.mktemp("preview"), records, name="mixed", vocabulary=facts)
    )


class Tags(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.seen = []

    def handle_starttag(self, tag, attributes):
        self.seen.append((tag, dict(attributes)))


def tags(page):
    parser = Tags()
    parser.feed(page)
    return parser.seen


def test_everything_is_shown_and_nothing_is_loaded(reader, vocabulary):
    page = preview.render(reader, range(len(reader)), vocabulary)
    seen = tags(page)
    pictures = [a["src"] for tag, a in seen if tag == "img"]
    sounds = [a["src"] for tag, a in seen if tag == "audio"]
    assert len(pictures) == 1 + 1 + 3 and len(sounds) == 2  # image; spectrogram; two frames and a spectrogram
    for url in pictures:
        Image.open(io.BytesIO(base64.b64decode(url.removeprefix("data:image/png;base64,")))).load()
    for url in sounds:
        with wave.open(io.BytesIO(base64.b64decode(url.removeprefix("data:audio/wav;base64,")))) as file:
            assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (16000, 1, 2)
            assert 7000 < file.getnframes() < 9000
    assert all(a[name].startswith("data:") for _, a in seen for name in ("src", "href") if name in a)
    assert {tag for tag, _ in seen} <= {
        *(
            "html",
            "head",
            "meta",
            "title",
            "style",
            "body",
            "h1",
            "p",
            "code",
            "table",
            "tr",
            "th",
            "td",
            "article",
            "div",
            "b",
        ),
        *("pre", "span", "figure", "figcaption", "img", "audio", "details", "summary"),
    }
    assert "a grey block" in page and "a tone" in page and "empty image" in page
    assert "&lt;script&gt;alert(1)" in page and "<script" not in page and "onerror=alert(2)>" not in page
    assert "Content-Security-Policy" in page


def test_the_picture_is_the_decoded_one(reader, vocabulary):
    number = next(i for i in range(len(reader)) if reader.document(i)[1] == "image")
    page = preview.render(reader, [number], vocabulary)
    (url,) = [a["src"] for tag, a in tags(page) if tag == "img"]
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))))
    np.testing.assert_array_equal(shown, vocabulary.decode_image(reader[number]["targets"]))


def test_without_a_vocabulary_ids_are_shown(reader):
    page = preview.render(reader, range(len(reader)), None)
    assert "vocabulary was not found" in page and f'<span class="id">{reader[0]["targets"][0]}</span>' in page


def test_dense_features(tmp_path):
    reader = cache_reader.CacheReader(caches.make_cache(tmp_path, caches.make_records(9, caches.DENSE), caches.DENSE))
    page = preview.render(reader, range(9), None)
    assert page.count("values of mel") == sum(n > 0 for n in reader.lengths("mel")) > 0


def test_long_records_are_cut_on_the_page_only(tmp_path, monkeypatch, vocabulary):
    monkeypatch.setattr(preview, "MAX_TOKENS", 50)
    record = Record("0" * 32, "long", {"targets": np.full(80, 300)})
    reader = cache_reader.CacheReader(
        caches.make_cache(tmp_path, [record], vocabulary={"path": "", "fingerprint": "", "size": 0})
    )
    assert "and 30 tokens more" in preview.render(reader, [0], vocabulary)


def test_choose_spreads_evenly():
    assert preview.choose(100, 4) == [0, 25, 50, 75]
    assert preview.choose(3, 8) == [0, 1, 2]
    assert preview.choose(0, 8) == []
