"""C4's rules on lines and pages."""

import pytest
from prose import GOOD, PROSE, document

from castor.pipelines.filters import c4

SENTENCE = GOOD.split("\n")[0]


@pytest.mark.parametrize(
    "line",
    [
        "Menu",
        "This line has no end mark at all",
        "Please enable Javascript to see this page.",
        "Too short it is.",
        "See our Privacy Policy about cookies here.",
        "It goes on and on and on...",
        f"And then came {'x' * 1001} to the end.",
    ],
)
def test_lines_dropped(line):
    cleaned = c4.Clean()(document(f"{line}\n{SENTENCE}\n\n  {line}\n"))
    assert cleaned.text == SENTENCE


def test_what_is_left_keeps_its_paragraphs_and_loses_citation_marks():
    cleaned = c4.Clean()(document(f"{SENTENCE} [12]\n{SENTENCE}\nMenu\n\nMenu\n\n  {SENTENCE}[edit] \n"))
    assert cleaned.text == f"{SENTENCE}\n{SENTENCE}\n\n{SENTENCE}"


def test_rules_can_be_turned_off():
    text = "A title of a page that stands here\nPlease enable Javascript here.\nIn our privacy policy."
    assert c4.Clean(end_marks=False, javascript=False, policies=False, min_words_a_line=3)(document(text)).text == text
    assert c4.Clean()(document("Menu\nHome")).reason == "c4.no_lines"


def test_a_text_that_stays_is_not_copied():
    before = document(GOOD)
    assert c4.Clean()(before) is before


@pytest.mark.parametrize(
    ("reason", "text"),
    [
        (None, GOOD),
        (None, PROSE["zh"]),
        ("c4.lorem_ipsum", GOOD + " LOREM ipsum dolor."),
        ("c4.curly_bracket", GOOD + "{ code }"),
        ("c4.few_sentences", "One sentence. Version 1.2.3 and no more"),
        ("c4.few_sentences", 'He said "Enough." And left'),
        (None, 'He said "Enough." And left! Why?'),
        (None, PROSE["th"]),
        (None, "\u1000\u1001 \u1002\u104b " * 3),
        ("c4.few_sentences", "\u0e01\u0e02 " * 3),
    ],
)
def test_pages(reason, text):
    assert c4.Filter().check(document(text)) == reason
