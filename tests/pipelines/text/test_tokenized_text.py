"""The tokenized text compared with plain Python: words, lines, paragraphs and tokens of any text, and stable hashes."""

import re
import sys
import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from castor.pipelines.text.tokenized_text import LETTER, SOLO, TokenizedText, hash_tokens, ngrams, tokenize

PIECES = st.sampled_from(
    [
        *"ab Z9_.,\n\t-'",
        "\n\n",
        "\u2019",
        "\u00e9",
        "e\u0301",
        "\u0e01\u0e34",
        "\u0e34",
        "\u4e2d",
        "\u3042",
        "\ud55c",
        "\u0939\u093f",
        "\U0001f600",
        "\x1c",
        "\u2028",
    ]
)
TEXTS = st.one_of(st.text(max_size=60), st.lists(PIECES, max_size=40).map("".join))


UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"
MARKS = "".join(
    c
    for c in map(chr, [*range(0xE00, 0xF00), *range(0x1000, 0x10A0), *range(0x1780, 0x1800)])
    if unicodedata.category(c)[0] == "M"
)
WORD = re.compile(f"[{UNSPACED}][{MARKS}]*|[^\\s{UNSPACED}]+")


def plain_lines(text):
    return [stripped for line in text.split("\n") if (stripped := line.strip())]


def spans(text, starts, ends):
    return [text[a:b] for a, b in zip(starts, ends)]


@given(TEXTS)
def test_words_and_lines_are_those_of_plain_python(text):
    tokenized = TokenizedText(text)
    assert spans(text, tokenized.word_starts, tokenized.word_ends) == WORD.findall(text)
    assert spans(text, tokenized.line_starts, tokenized.line_ends) == plain_lines(text)
    assert tokenized.unspaced_share == pytest.approx(
        len([c for c in text if solo(c)]) / max(1, len([c for c in text if not c.isspace()]))
    )
    assert np.diff(tokenized.words_before_line).tolist() == [len(WORD.findall(line)) for line in plain_lines(text)]


def solo(character):
    return re.match(f"[{UNSPACED}]", character)


@given(TEXTS)
def test_paragraphs_are_lines_without_a_blank_line_between(text):
    tokenized = TokenizedText(text)
    expected, current = [], []
    for line in [*text.split("\n"), ""]:
        if line.strip():
            current.append(line.strip())
        elif current:
            expected.append(current)
            current = []
    assert [plain_lines(p) for p in spans(text, tokenized.paragraph_starts, tokenized.paragraph_ends)] == expected


@given(TEXTS)
def test_all_lines_joined_are_the_text_with_its_blanks_in_order(text):
    tokenized = TokenizedText(text)
    whole = tokenized.joined(np.ones(tokenized.num_lines, bool))
    stripped = "\n".join(line.strip() for line in text.split("\n"))  # spaces around a line count in a paragraph's hash
    assert plain_lines(whole) == plain_lines(text)
    assert TokenizedText(whole).paragraph_hashes.tolist() == TokenizedText(stripped).paragraph_hashes.tolist()


def test_some_lines_joined():
    tokenized = TokenizedText(" one\ntwo \n\n\nthree\nfour\n\nfive")
    assert tokenized.joined(np.array([True, False, False, True, True])) == "one\n\nfour\n\nfive"
    assert (
        tokenized.joined(np.array([True, True, False, False, False]), {1: "2"}) == "one\n2"
        and tokenized.line(2) == "three"
    )
    assert tokenized.joined(np.zeros(5, bool)) == ""


@given(TEXTS, TEXTS)
def test_hashes_of_spans_are_equal_where_the_spans_are(one, other):
    text = one + "\n" + other
    tokenized = TokenizedText(text)
    for starts, ends, hashes in (
        (tokenized.word_starts, tokenized.word_ends, tokenized.word_hashes),
        (tokenized.line_starts, tokenized.line_ends, tokenized.line_hashes),
        (tokenized.paragraph_starts, tokenized.paragraph_ends, tokenized.paragraph_hashes),
    ):
        by_string = {}
        for string, value in zip(spans(text, starts, ends), hashes.tolist()):
            assert by_string.setdefault(string, value) == value
        assert len(set(by_string.values())) == len(by_string)
    assert (
        TokenizedText(other).word_hashes.tolist()
        == tokenized.word_hashes[tokenized.num_words - TokenizedText(other).num_words :].tolist()
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Don't stop, CAF\u00c9s!", ["Don't", "stop", "CAF\u00c9s"]),
        ("snake_case a-b 3.14", ["snake", "case", "a", "b", "3", "14"]),
        ("\u4e2d\u6587abc\u3002", ["\u4e2d", "\u6587", "abc"]),
        ("\u0e01\u0e34\u0e19", ["\u0e01\u0e34", "\u0e19"]),
        ("\u0939\u093f\u0928\u094d\u0926\u0940", ["\u0939\u093f\u0928\u094d\u0926\u0940"]),
        (" ... ", []),
        ("", []),
    ],
)
def test_tokens(text, expected):
    tokenized = TokenizedText(text)
    assert spans(text, tokenized.token_starts, tokenized.token_ends) == expected


@pytest.mark.parametrize(
    ("one", "same"),
    [
        ("CAF\u00c9", "cafe"),
        ("cafe\u0301", "caf\u00e9"),
        ("don\u2019t", "dont"),
        ("\uff21\uff22\uff11", "ab1"),
        ("\u0661\u0662", "12"),
        ("co\u00adoperate", "cooperate"),
        ("\u05e9\u05b8\u05dc\u05d5\u05b9\u05dd", "\u05e9\u05dc\u05d5\u05dd"),
    ],
)
def test_folding_forgets_case_accents_and_punctuation(one, same):
    assert TokenizedText(one).token_hashes.tolist() == hash_tokens([same]).tolist()


@given(TEXTS)
def test_tokens_lie_in_order_and_hold_letters_or_digits(text):
    tokenized = TokenizedText(text)
    assert (tokenized.token_starts < tokenized.token_ends).all() and (
        tokenized.token_ends[:-1] <= tokenized.token_starts[1:]
    ).all()
    assert len(tokenized.token_hashes) == len(tokenized.token_is_number) == tokenized.num_tokens
    for token, number in zip(spans(text, tokenized.token_starts, tokenized.token_ends), tokenized.token_is_number):
        if number:
            assert not any(c.isalpha() for c in token)


def test_number_tokens():
    assert TokenizedText("in 1969, at 11th 3.5").token_is_number.tolist() == [False, True, False, False, True, True]


@given(st.lists(st.integers(0, 2**64 - 1), max_size=20), st.integers(1, 6))
def test_ngrams_name_runs(values, n):
    hashes = np.array(values, np.uint64)
    found = ngrams(hashes, n)
    assert len(found) == max(0, len(values) - n + 1)
    named = {}
    for i, value in enumerate(found.tolist()):
        assert named.setdefault(tuple(values[i : i + n]), value) == value
    assert len(set(named.values())) == len(named)


def test_words_that_are_no_single_token_are_refused():
    with pytest.raises(ValueError, match="'two words' is 2 tokens"):
        hash_tokens(["two words"])
    with pytest.raises(ValueError, match="n is 0; n must be at least 1"):
        ngrams(np.zeros(3, np.uint64), 0)


def test_the_view_is_shared_and_old_ones_are_let_go():
    text = "a shared text"
    assert tokenize(text) is tokenize(text)
    assert tokenize(text).share_of(LETTER) == 1.0 and tokenize("\u4e2d\u6587").share_of(SOLO) == 1.0


def test_hashes_have_not_drifted():
    """Signatures and indexes on disk hold these numbers: another value is another VERSION."""
    tokenized = TokenizedText("The quick fox\njumps. \u4e2d\u6587 Caf\u00e9 42")
    assert [f"{h:016x}" for h in tokenized.token_hashes.tolist()] == GOLDEN_TOKENS
    assert [f"{h:016x}" for h in tokenized.token_ngrams(5).tolist()] == GOLDEN_FIVE
    assert [f"{h:016x}" for h in tokenized.line_hashes.tolist()] == GOLDEN_LINES
    assert sys.byteorder == "little"


GOLDEN_TOKENS = [
    "3fe601a26504a6b5",
    "17c2abcb1489a99a",
    "84d74a5ea51a2ce7",
    "a761e054de9288b5",
    "d126c8b5c4ebd6c1",
    "3fbc0b5d0a1b472d",
    "7266b891570a1256",
    "63983a4451f1bb3b",
]
GOLDEN_FIVE = [
    "fdbd2e62831e5c1a",
    "9145f16cf1f8bed5",
    "f6b0357ca15b6aab",
    "73dc872ccb5707b0",
]
GOLDEN_LINES = [
    "cb006d79299302aa",
    "ab58771a201c8a2e",
]
