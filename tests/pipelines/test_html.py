"""Main text, language, and the sandbox around them on hostile pages."""

import time

import pytest

from pipelines.document import BadInput, Document, Rejection, document_id
from pipelines.functions import Chain
from pipelines.html import Extract
from pipelines.language import Identify, identify
from pipelines.sandbox import Child, Sandbox

BODY = "<p>" + "The library keeps every book that was ever lent to it. " * 8 + "</p>"


def page(data, **metadata):
    return Document(document_id("t", "1"), "a.html", "text", None, data, metadata)


def test_main_text_title_and_encoding():
    html = f"<html><head><title> A \n title</title></head><body><nav><a href=/>Home</a><a href=/x>About</a></nav><main><article>{BODY}</article></main></body></html>"
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
    for hostile in (b"<div>" * 100_000 + b"x", b"<b><i>" * 100_000, b"<p " + b" ".join(b"a%d=1" % i for i in range(200_000)) + b">x</p>"):
        try:
            child.call(page(hostile))
        except BadInput as error:
            assert error.error in ("timeout", "memory") or error.error.startswith("crash:")
        assert child.call(sound) == expected
    child.close()
    assert time.monotonic() - started < 60
