"""Main text, language, and the sandbox around them on hostile pages."""

import importlib.util
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from castor.pipelines.core.functions import Chain
from castor.pipelines.core.sandbox import Child, Sandbox, SandboxError
from castor.pipelines.document import BadInput, Document, Rejection, document_id
from castor.pipelines.text.html import Extract, _long_pieces, has_tag_of_attributes
from castor.pipelines.text.language import Identify, identify
from castor.tasks.errors import ConfigurationError

BODY = "<p>" + "The library keeps every book that was ever lent to it. " * 8 + "</p>"


def page(data, **metadata):
    return Document(document_id("t", "1"), "a.html", "text", None, data, metadata)


@given(st.text(st.sampled_from("a>"), max_size=60), st.integers(0, 12))
def test_every_long_piece_between_marks_is_found(page, length):
    assert list(_long_pieces(page, length)) == [piece for piece in page.split(">") if len(piece) > length]


def test_main_text_title_and_encoding():
    head, nav = "<head><title> A \n title</title></head>", "<nav><a href=/>Home</a><a href=/x>About</a></nav>"
    html = f"<html>{head}<body>{nav}<main><article>{BODY}</article></main></body></html>"
    found = Extract()(page(html.encode("utf-16-le"), url="http://a/", charset="utf-16"))
    assert found.text.startswith("The library keeps") and "About" not in found.text and found.bytes is None
    assert found.metadata == {"url": "http://a/", "title": "A title", "encoding": "utf-16-le"}
    assert "About" in Extract(main_content=False)(page(html.encode())).text


def test_what_is_no_page():
    assert Extract()(page(b"%PDF-1.4 ...")).reason == "extract.not_html"
    assert Extract()(page(b"<html><script>x</script></html>")).reason == "extract.empty"
    with pytest.raises(BadInput, match="charset"):
        Extract()(page(bytes(range(128, 256)) * 9))
    text = page(None).replace(text="there already")
    assert Extract()(text) is text


def test_the_choice_of_extractor():
    html = f"<body><nav><a href=/>Home</a></nav><main><article>{BODY}</article></main></body>".encode()
    assert Extract(extractor="resiliparse")(page(html)).text.startswith("The library keeps")
    with pytest.raises(ConfigurationError, match="not one of castor, resiliparse, trafilatura"):
        Extract(extractor="readability")
    with pytest.raises(ConfigurationError, match="main content only"):
        Extract(extractor="trafilatura", main_content=False)


def test_trafilatura_is_an_extra():
    extract = Extract(extractor="trafilatura")
    if importlib.util.find_spec("trafilatura") is None:
        with pytest.raises(ConfigurationError, match=r"castor\[trafilatura\]"):
            extract.prepare()
        with pytest.raises(SandboxError, match=r"castor\[trafilatura\]"):
            Child(extract).call(page(b"<p>x"))
    else:
        extract.prepare()
        found = extract(
            page(
                f"<html><head><title>T</title></head><body><main><article>{BODY}</article></main></body></html>".encode()
            )
        )
        assert found.text.startswith("The library keeps") and found.metadata["title"] == "T"


@pytest.mark.parametrize(
    "html, many",
    [
        ("<p " + " ".join(f"a{i}" for i in range(200)) + ">x", True),
        ("<p " + " ".join(f"a{i}" for i in range(200)), True),
        ("<p " + " ".join(f"a{i}" for i in range(90)) + ">x", False),
        ("<p>" + "a < b " * 200, False),
        ("<script>" + "if (a<b) c " * 200 + "</script><p>x", False),
        ("<script>" + "if (a<b) c " * 200, False),
        (f"<img src='data:{'A' * 2000}'>", False),
        ("<div data-props = '" + '{ "a": 1 } ' * 200 + "'>x", False),
        ('<div class="' + "a " * 200 + '" ' + "a='' " * 200 + ">x", True),
    ],
)
def test_tags_of_too_many_attributes(html, many):
    assert has_tag_of_attributes(html, 100) is many
    if many:
        with pytest.raises(BadInput, match="too_many_attributes"):
            Extract(max_attributes=100)(page(html.encode()))


@pytest.mark.parametrize(
    "language, text",
    [
        ("en", "The library keeps every book that was ever lent to it."),
        ("de", "Die Bibliothek bewahrt jedes Buch auf, das ihr je geliehen wurde."),
        ("ja", "図書館は、これまでに貸し出されたすべての本を保管しています。"),
        ("ru", "Библиотека хранит каждую книгу, которую ей когда-либо давали."),
    ],
)
def test_language(language, text):
    assert identify(text)[0] == language and identify(text * 2000)[0] == language
    document = Identify()(page(None).replace(text=text))
    assert document.metadata["language"] == language and 0 < document.metadata["language_score"] <= 1
    assert isinstance(Identify(languages=("xx",))(document), Rejection)


def test_hostile_pages_end_in_time_and_sound_ones_go_on():
    child = Child(Chain((Extract(), Identify())), Sandbox(cpu_seconds=0.5, memory_bytes=1 << 30))
    sound = page(f"<html><body><main>{BODY}</main></body></html>".encode())
    started = time.monotonic()
    expected = child.call(sound)
    assert expected.metadata["language"] == "en"
    for hostile in (
        b"<div>" * 100_000 + b"x",
        b"<b><i>" * 100_000,
        b"<p " + b" ".join(b"a%d=1" % i for i in range(200_000)) + b">x</p>",
    ):
        try:
            child.call(page(hostile))
        except BadInput as error:
            assert error.error in ("timeout", "memory", "too_many_attributes") or error.error.startswith("crash:")
        assert child.call(sound) == expected
    child.close()
    assert time.monotonic() - started < 60
