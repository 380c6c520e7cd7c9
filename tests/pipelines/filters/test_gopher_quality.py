"""Each of Gopher's quality rules: what it turns away, and in which language it holds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prose import GOOD, PROSE, document

from castor.pipelines.filters import gopher_quality
from castor.pipelines.text.tokenized_text import TokenizedText

NO_STOP_WORDS = "Library book shelf reader lending catalogue. " * 12


@pytest.mark.parametrize(
    ("reason", "measure", "text"),
    [
        ("few_words", "4", "Too short to say."),
        ("many_words", "102000", "the and word " * 34_000),
        ("short_words", "1.4", "a of the be " * 20 + "b c d " * 40),
        ("long_words", "19.44", "the of " + "unreasonablylongword " * 60),
        ("hashes", "0.274", GOOD + " #tag" * 40),
        ("ellipses", "0.1781", GOOD.replace(".", "...") + " so ..." * 20),
        ("bullet_lines", "1", "\n".join("- " + line for line in GOOD.split("\n"))),
        ("ellipsis_lines", "1", "\n".join(line + " and then some more words of it..." for line in GOOD.split("\n"))),
        ("words_without_letters", "0.469", GOOD + " 12 34 56 789 -- ==" * 20),
        ("stop_words", "0 of en", NO_STOP_WORDS),
    ],
)
def test_rules(reason, measure, text):
    found = gopher_quality.Filter().check(document(text))
    assert found == f"gopher_quality.{reason}"
    assert found.measure == measure


def test_stop_words_bind_only_their_language_where_it_is_sure():
    check = gopher_quality.Filter().check
    assert check(document(NO_STOP_WORDS, "tlh")) is None and check(document(NO_STOP_WORDS, "")) is None
    assert check(document(NO_STOP_WORDS, "en", language_score=0.3)) is None
    assert (
        gopher_quality.Filter(stop_words={"tlh": ("jatlh", "je")}).check(document(NO_STOP_WORDS, "tlh"))
        == "gopher_quality.stop_words"
    )
    assert gopher_quality.Filter(stop_words={"en": ()}).check(document(NO_STOP_WORDS)) is None
    assert gopher_quality.Filter(stop_words={"en": ("library", "shelf")}).check(document(NO_STOP_WORDS)) is None


def test_stop_words_count_wherever_they_stand_and_once_where_they_fold_to_one():
    words = {"en": ("caf\u00e9", "cafe", "na\u00efve")}
    check = gopher_quality.Filter(stop_words=words).check
    assert check(document(f"the caf\u00e9 , cafe {NO_STOP_WORDS}")).measure == "1 of en"
    assert check(document(f"the cafe na\u00efve {NO_STOP_WORDS}")) is None
    assert check(document(f'{NO_STOP_WORDS * 10} (cafes, the "Cafe," not naive.)')) is None


def test_word_lengths_of_a_language_take_the_place_of_the_general_ones():
    assert (
        gopher_quality.Filter(word_lengths={"ko": (4.0, 9.0)}).check(document(PROSE["ko"], "ko"))
        == "gopher_quality.short_words"
    )
    assert gopher_quality.Filter(min_mean_word_length=6.0).check(document(GOOD)) == "gopher_quality.short_words"


PIECES = st.sampled_from(["- ", "* ", "...", "\u2026", ".", "a", "b1", "12", "\u4e2d", "\u3002", " ", "\n", "\u2022"])
TEXTS = st.lists(PIECES, max_size=40).map("".join)


@given(TEXTS)
def test_shares_are_those_of_plain_python(text):
    tokenized = TokenizedText(text)
    lines = [stripped for line in text.split("\n") if (stripped := line.strip())]
    count = max(1, len(lines))
    assert gopher_quality.bullet_lines(tokenized) == sum(line[0] in "-*\u2022" for line in lines) / count
    assert gopher_quality.ellipsis_lines(tokenized) == sum(line.endswith(("...", "\u2026")) for line in lines) / count
    words = [text[a:b] for a, b in zip(tokenized.word_starts, tokenized.word_ends)]
    lettered = sum(any(c.isalpha() for c in word) for word in words)
    assert gopher_quality.words_with_letter(tokenized, spaced=True) == lettered / max(1, len(words))
    solid = sum(any(c.isalnum() for c in word) for word in words)
    assert gopher_quality.words_with_letter(tokenized, spaced=False) == lettered / max(1, solid)
