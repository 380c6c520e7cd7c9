"""Lone surrogates: escaped so that UTF-8 can encode the text, everything else unchanged."""

import os

import hypothesis
from hypothesis import strategies

from castor.pipelines.core.surrogates import escape_surrogates


def test_a_file_name_that_is_not_utf8_is_escaped():
    assert escape_surrogates(os.fsdecode(b"caf\xe9.txt")) == "caf\\udce9.txt"
    assert escape_surrogates("\ud800 and \udfff") == "\\ud800 and \\udfff"


@hypothesis.given(strategies.text(strategies.characters(exclude_categories=["Cs"])))
def test_text_without_surrogates_is_unchanged(text):
    assert escape_surrogates(text) == text


@hypothesis.given(strategies.text(strategies.characters(codec=None)))
def test_every_result_is_encodable(text):
    escaped = escape_surrogates(text)
    escaped.encode("utf-8")
    assert escape_surrogates(escaped) == escaped
