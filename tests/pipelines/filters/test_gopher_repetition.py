"""Gopher's repetition rules against plain Python, by their definitions, and golden shares that may not drift."""

import collections

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prose import GOOD, PROSE, document

from castor.pipelines.filters import gopher_repetition
from castor.pipelines.filters.gopher_repetition import Filter, covered, duplicates, repeated_runs, top_share
from castor.pipelines.text.tokenized_text import TokenizedText

WORDS = st.lists(st.sampled_from(["a", "bb", "ccc", "dddd"]), max_size=30)


def plain_runs(words, n):
    places = collections.defaultdict(list)
    for i in range(len(words) - n + 1):
        places[tuple(words[i : i + n])].append(i)
    return {run: where for run, where in places.items() if len(where) > 1}


def plain_share(words, n, starts):
    inside = {i for start in starts for i in range(start, start + n)}
    return sum(len(words[i]) for i in inside) / sum(map(len, words))


def measured(words, longest):
    tokenized = TokenizedText(" ".join(words))
    lengths = tokenized.word_ends - tokenized.word_starts
    return {
        n: (
            top_share(lengths, n, starts, groups),
            covered(lengths, n, gopher_repetition._later(starts, groups)),
            covered(lengths, n, starts),
        )
        for n, starts, groups in repeated_runs(tokenized.word_hashes, longest)
    }


@given(WORDS)
def test_shares_of_runs_are_those_of_plain_python(words):
    found = measured(words, 6)
    for n in range(2, 7):
        runs = plain_runs(words, n)
        if not runs:
            assert n not in found
            continue
        most = max(map(len, runs.values()))
        longest = max(sum(map(len, run)) for run, where in runs.items() if len(where) == most)
        tops = [
            plain_share(words, n, where)
            for run, where in runs.items()
            if len(where) == most and sum(map(len, run)) == longest
        ]
        assert any(found[n][0] == pytest.approx(top) for top in tops)
        assert found[n][1] == pytest.approx(plain_share(words, n, [i for where in runs.values() for i in where[1:]]))
        assert found[n][2] == pytest.approx(plain_share(words, n, [i for where in runs.values() for i in where]))


@given(st.lists(st.sampled_from(["a", "bb", "ccc"]), max_size=12))
def test_duplicates_are_second_and_later_occurrences(spans):
    hashes = np.array([hash(s) & 0xFFFF for s in spans], np.uint64)
    lengths = np.array([len(s) for s in spans], np.int64)
    later = [s for i, s in enumerate(spans) if s in spans[:i]]
    expected = (len(later) / len(spans), sum(map(len, later)) / sum(map(len, spans))) if spans else (0, 0)
    assert duplicates(hashes, lengths) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("code", "measure", "text"),
    [
        (None, None, "\n".join([GOOD, *["So."] * 4])),  # three of ten
        ("duplicate_lines", "0.3636", "\n".join([GOOD, *["So."] * 5])),
        ("duplicate_line_characters", "0.2591", "\n".join([GOOD, *GOOD.split("\n")[:2]])),
        ("duplicate_paragraphs", "0.4", "\n\n".join([GOOD, *["So.\nIt."] * 3, "So.\nIs.\nA.\nB.\nC.\nD.\nE."])),
        ("top_2_gram", "0.2248", GOOD + " once more" * 17),
        ("duplicate_5_gram", "0.1504", GOOD + " " + " ".join(GOOD.split()[:20])),
        ("duplicate_10_gram", "0.1084", GOOD + " " + " ".join(GOOD.split()[:14])),
    ],
)
def test_golden_shares(code, measure, text):
    found = Filter().check(document(text))
    assert (found, getattr(found, "measure", None)) == (code and f"gopher_repetition.{code}", measure)


def test_runs_of_other_scripts_are_twice_as_long():
    text = PROSE["zh"] + "".join(PROSE["zh"][i : i + 6] for i in range(2, 60, 12))
    assert Filter().check(document(text, "zh")) is None
    assert Filter(unspaced_factor=1).check(document(text, "zh")) == "gopher_repetition.duplicate_5_gram"


def test_first_occurrences_count_on_request():
    text = GOOD + " " + " ".join(GOOD.split()[:13])
    assert Filter().check(document(text)) is None
    assert Filter(first_occurrences=True).check(document(text)) == "gopher_repetition.duplicate_5_gram"


def test_thresholds_are_named_by_n_even_where_a_configuration_made_strings_of_it():
    text = GOOD + " that was that was"
    assert Filter(top_ngram={"2": 0.01}, duplicate_ngram={}).check(document(text)) == "gopher_repetition.top_2_gram"
