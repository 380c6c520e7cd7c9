"""RefinedWeb's line-wise corrections."""

import pytest
from prose import GOOD, document

from castor.pipelines.filters import refinedweb

LONG = GOOD + "\n" + GOOD.lower() + "\n" + GOOD.replace("the", "a")


LINES = [
    "SIGN UP NOW",
    "2024 11 25",
    "3 likes",
    "1.2K  followers!",
    "(12,345 views)",
    "Share",
    "3 items in cart",
    "Read more...",
    "Sign-in now",
    "==",
]


@pytest.mark.parametrize("line", LINES)
def test_lines_removed(line):
    assert refinedweb.Clean()(document(f"{line}\n{LONG}\n{line}")).text == LONG


@pytest.mark.parametrize(
    ("line", "left"),
    [
        ("A story about the sea Read more...", "A story about the sea"),
        ("Sign-in to see the rest", "to see the rest"),
        ("There are 2 items in cart today", "There are 2  today"),
        ("It has 3 likes and a comment", "It has 3 likes and a comment"),
        ("NATO and the EU met in 2024", "NATO and the EU met in 2024"),
        (
            "One may read more... than once a day, and so on, and on",
            "One may read more... than once a day, and so on, and on",
        ),
    ],
)
def test_lines_corrected_or_left(line, left):
    assert refinedweb.Clean()(document(f"{LONG}\n\n{line}")).text == f"{LONG}\n\n{left}"


def test_a_page_that_was_mostly_that_is_dropped():
    page = document("\n".join([GOOD, "MENU ABOUT US", "HOME CONTACT PRICES", "12 likes"]))
    found = refinedweb.Clean()(page)
    assert (found.reason, found.measure, found.document) == ("refinedweb.words_removed", "0.07018", page)
    assert refinedweb.Clean(max_words_removed=0.08)(page).text == GOOD
    assert refinedweb.Clean(max_words_removed=1.0)(document("HOME\nMENU")).reason == "refinedweb.no_lines"


def test_a_text_that_stays_is_not_copied():
    before = document(LONG)
    assert refinedweb.Clean()(before) is before
