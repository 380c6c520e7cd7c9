"""Exactly the copies of passages are found: planted in ordinary text, changed, cut, doubled."""

import random
import re

import numpy as np
import pytest
from benchmark_questions import CHINESE, QUESTION, SHORT, TOO_SHORT, filler
from hypothesis import given, settings
from hypothesis import strategies as st

from castor.pipelines.decontamination import matching
from castor.pipelines.decontamination.benchmark_files import Passage
from castor.pipelines.decontamination.benchmark_index import Index, Seeds
from castor.pipelines.decontamination.matching import Thresholds, find
from castor.pipelines.text.tokenized_text import TokenizedText


def passage(text, number=0, part="question", file="b"):
    return Passage("bench", file, number, part, text)


@pytest.fixture(scope="module")
def index():
    return Index([passage(QUESTION, 0), passage(CHINESE, 1), passage(SHORT, 2), passage(TOO_SHORT, 3)])


def found(index, text, **limits):
    return find(TokenizedText(text), index, Thresholds(**limits))


def planted(text):
    return f"{filler(200)}\n\n{text} {filler(150, 1)}"


def replaced(text, share, seed=0):
    rng = random.Random(seed)
    tokens = text.split(" ")
    for i in rng.sample(range(len(tokens)), round(share * len(tokens))):
        tokens[i] = rng.choice(["blue", "seventy", "quickly", "onion"])
    return " ".join(tokens)


@pytest.mark.parametrize(
    "change", [str, str.upper, lambda t: re.sub(r"[.,?]", " ~ ", t), lambda t: t.replace(" ", "\n\n")]
)
@pytest.mark.parametrize("text, number", [(QUESTION, 0), (CHINESE, 1), (SHORT, 2)])
def test_the_same_words_are_a_copy_whatever_their_dress(index, text, number, change):
    page = planted(change(text))
    [match] = found(index, page)
    assert (
        match.entry.number == number and match.coverage == 1.0 and match.kind == ("whole" if number == 2 else "ngram")
    )
    assert (
        TokenizedText(page[match.begin : match.end]).token_hashes.tolist() == TokenizedText(text).token_hashes.tolist()
    )


@pytest.mark.parametrize("share", [0.1, 0.2, 0.3])
@pytest.mark.parametrize("seed", range(5))
def test_partly_reworded_copies(index, share, seed):
    [match] = found(index, planted(replaced(QUESTION, share, seed)))
    assert match.entry.number == 0 and match.coverage >= 0.6 and match.span < len(QUESTION.split())


def test_words_left_out_and_put_in(index):
    tokens = QUESTION.split(" ")
    del tokens[5::9]
    for i in range(3, len(tokens), 7):
        tokens[i] += " indeed so"
    [match] = found(index, planted(" ".join(tokens)))
    assert match.kind == "span" and match.run < 13


def test_clean_text_stays_clean(index):
    assert not found(index, filler(3000))
    assert not found(
        index, "How many goats has the ferryman? A copper coin for the toll keeper of the river, by Friday night."
    )
    assert not found(index, planted(TOO_SHORT)) and not found(index, "") and not found(index, "goat")
    shuffled = QUESTION.split(" ")
    random.Random(0).shuffle(shuffled)
    assert not found(index, planted(" ".join(shuffled)))


def test_a_run_of_thirteen_is_the_least(index):
    tokens = QUESTION.split(" ")
    assert not found(index, planted(" ".join(tokens[4:16])))
    [match] = found(index, planted(" ".join(tokens[4:17])))
    assert (match.kind, match.run, match.span) == ("ngram", 13, 13)
    assert not found(index, planted(" ".join(tokens[4:17])), ngram=14, span=0)


def test_coverage_of_eight_grams(index):
    cut = " ".join(QUESTION.split(" ")[:-3])
    [match] = found(index, planted(cut), ngram=0)
    assert match.kind == "coverage" and 0.7 < match.ngrams < 1


def test_gap_budget():
    """A span of 25 words of a long passage, every seventh changed: no run of 13 words, less than 60% of the passage."""
    rng = random.Random(3)
    long = [f"w{rng.randrange(10**6)}" for _ in range(200)]
    part = long[50:78]
    part[6::7] = ["x", "y", "z", "q"]
    index = Index([passage(" ".join(long))])
    [match] = found(index, planted(" ".join(part)))
    assert match.kind == "span" and match.run == 6 and match.span == 24
    assert not found(index, planted(" ".join(part)), max_strangers=0.1)
    assert not found(index, planted(" ".join(long[50:78:2])))


def test_every_fourth_word_replaced(index):
    reworded = ["stranger" if i % 4 == 3 else word for i, word in enumerate(QUESTION.split(" "))]
    [match] = found(index, planted(" ".join(reworded)))
    assert match.kind == "span" and match.run == 3


def test_numbers_alone_are_no_evidence():
    index = Index([passage("sum of " + " ".join(map(str, range(1, 40))))])
    assert not found(index, planted(" ".join(map(str, range(1, 60)))))


def test_phrases_of_a_file_are_no_evidence():
    """Instructions that begin every item are ignored; an item's own text counts."""
    instructions = "The following paragraphs each describe a set of five objects arranged in a fixed order and the statements are consistent"
    birds = "owl raven falcon robin quail heron stork crane gull".split()
    items = [
        passage(" ".join([instructions, filler(8, 100 + i), *(f"{bird}{i}" for bird in birds)]), i) for i in range(20)
    ]
    index = Index(items)
    assert not found(index, planted(instructions))
    matches = found(index, planted(items[7].text))
    assert [m.entry.number for m in matches] == [7]
    assert [m.entry.number for m in found(Index(items, Seeds(max_items=50)), planted(instructions))]


def test_phrases_of_ordinary_documents_are_no_evidence(tmp_path):
    common = "it was the best of times it was the worst of times it was the age of wisdom and of foolishness everywhere in town"
    for i in range(4):
        (tmp_path / f"{i}.txt").write_text(filler(50, i) + " " + common)
    passages = [passage(common)]
    assert found(Index(passages), planted(common))
    background = tuple(str(tmp_path / f"{i}.txt") for i in range(4))
    assert not found(Index(passages, Seeds(background=background, max_documents=3)), planted(common))
    assert found(Index(passages, Seeds(background=background, max_documents=4)), planted(common))


def test_each_copy_in_a_long_document(index):
    """Also across the blocks in which a long document is searched."""
    text = filler(65_500, 2)
    page = f"{QUESTION} {text} {QUESTION} {text} {QUESTION}"
    matches = found(index, page)
    assert [m.entry.number for m in matches] == [0, 0, 0]
    assert [page[m.begin : m.begin + 10] for m in matches] == [QUESTION[:10]] * 3


def test_long_passages_are_cut_into_pieces():
    rng = random.Random(5)
    long = " ".join(f"w{rng.randrange(10**6)}" for _ in range(1200))
    matches = found(Index([passage(long)]), planted(long))
    assert [m.span for m in matches] == [512, 512, 176]


def test_thai_counts_by_four():
    thai = "\u0e40\u0e1b\u0e47\u0e14\u0e02\u0e2d\u0e07\u0e41\u0e08\u0e19\u0e40\u0e19\u0e47\u0e15\u0e2d\u0e2d\u0e01\u0e44\u0e02\u0e48\u0e27\u0e31\u0e19\u0e25\u0e30\u0e2a\u0e34\u0e1a\u0e2b\u0e01\u0e1f\u0e2d\u0e07\u0e17\u0e38\u0e01\u0e40\u0e0a\u0e49\u0e32\u0e40\u0e18\u0e2d\u0e01\u0e34\u0e19\u0e2a\u0e32\u0e21\u0e1f\u0e2d\u0e07\u0e40\u0e1b\u0e47\u0e19\u0e2d\u0e32\u0e2b\u0e32\u0e23\u0e41\u0e25\u0e30\u0e2d\u0e1a\u0e02\u0e19\u0e21\u0e43\u0e2b\u0e49\u0e40\u0e1e\u0e37\u0e48\u0e2d\u0e19"  # noqa: E501
    index = Index([passage(thai)])
    assert index.entries[0].script == 2
    [match] = found(index, planted(thai))
    assert match.coverage == 1.0
    assert not found(index, planted(thai[:30]))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 5), max_size=14), st.lists(st.integers(0, 5), max_size=14))
def test_alignment_is_a_longest_common_subsequence(one, other):
    a, b = np.array(one, np.uint64), np.array(other, np.uint64)
    ours, theirs = matching._align(a, b)
    assert (a[ours] == b[theirs]).all() and (np.diff(ours) > 0).all() and (np.diff(theirs) > 0).all()
    lengths = np.zeros((len(one) + 1, len(other) + 1), int)
    for i, x in enumerate(one):
        for j, y in enumerate(other):
            lengths[i + 1, j + 1] = lengths[i, j] + 1 if x == y else max(lengths[i, j + 1], lengths[i + 1, j])
    assert len(ours) == lengths[-1, -1]
