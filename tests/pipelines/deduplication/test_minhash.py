"""MinHash signatures: shingles, the estimate of the Jaccard similarity, and golden values."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from castor.pipelines.deduplication.minhash import MinHash, meeting_probability, minima, optimal_bands
from castor.pipelines.document import Document, document_id
from castor.pipelines.text.tokenized_text import ngrams
from castor.tasks.errors import ConfigurationError
from castor.tasks.hashing import mix64

TEXT = "The quick brown fox jumps over 13 lazy dogs, in 1969, and nobody minds."


def document(text: str) -> Document:
    return Document(document_id("test", text), "memory", "text", text)


def test_what_does_not_count():
    rule = MinHash()
    for same in (
        TEXT.upper(),
        TEXT.replace("13", "14"),
        TEXT.replace(",", " ;"),
        TEXT.replace(" ", "\n"),
        TEXT + " ...",
    ):
        assert rule.signature(same).tolist() == rule.signature(TEXT).tolist()
    assert (
        MinHash(fold_numbers=False).signature(TEXT.replace("13", "14")).tolist()
        != MinHash(fold_numbers=False).signature(TEXT).tolist()
    )


def test_repeats_do_not_count_and_order_does():
    rule = MinHash(ngram=2)
    assert (
        rule.signature("a b a b a b").tolist() == rule.signature("a b a").tolist() != rule.signature("b a a b").tolist()
    )


@pytest.mark.parametrize("text", ["", " \n", "...", "!?"])
def test_texts_without_tokens_are_exempt(text):
    assert MinHash().signature(text) is None and MinHash().keys(document(text)) == []


def test_short_texts_have_one_shingle():
    rule = MinHash()
    assert len(rule.shingles("Hello, World")) == 1 and rule.keys(document("Hello, World")) == rule.keys(
        document("hello world!")
    )
    assert rule.keys(document("hello world")) != rule.keys(document("world hello"))
    assert (
        MinHash(min_tokens=5).signature("one two three four") is None
        and MinHash(min_tokens=5).signature("one two three four five") is not None
    )


@settings(deadline=None, max_examples=20)
@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=300), st.integers(1, 200))
def test_minima_are_those_of_a_plain_loop_whatever_the_pieces(values, count):
    from castor.pipelines.deduplication import minhash

    hashes = np.array(values, np.uint64)
    factors, offsets = (array.ravel().tolist() for array in minhash._permutations(count, 3))
    expected = [min((a * (v >> 32) + b) % 2**32 for v in values) for a, b in zip(factors, offsets)]
    at_once = minhash._AT_ONCE
    try:
        for size in (at_once, 7, 1000):
            minhash._AT_ONCE = size
            assert minima(hashes, count, 3).tolist() == expected
    finally:
        minhash._AT_ONCE = at_once


def test_minima_agree_with_the_probability_of_jaccard():
    """1,000 pairs of sets per similarity: mean within four standard errors, spread of independent permutations."""
    count, pairs, union = 112, 1000, 400
    for similarity in (0.5, 0.8, 0.95):
        shared = round(similarity * union)
        agree = []
        for i in range(pairs):
            hashes = mix64(np.arange(union, dtype=np.uint64) + np.uint64(1_000_000 * i + shared))
            only = (union - shared) // 2
            one, other = np.delete(hashes, slice(0, only)), np.delete(hashes, slice(only, 2 * only))
            agree.append((minima(one, count) == minima(other, count)).mean())
        deviation = math.sqrt(similarity * (1 - similarity) / count)
        assert abs(np.mean(agree) - similarity) < 4 * deviation / math.sqrt(pairs)
        assert 0.85 * deviation < np.std(agree) < 1.15 * deviation


def test_keys_are_one_a_band_and_differ_between_bands():
    keys = MinHash(bands=20, rows=1).keys(document("one two three"))
    assert len(keys) == len(set(keys)) == 20 and {len(k) for k in keys} == {16}


def test_theory():
    assert round(meeting_probability(0.8, 14, 8), 3) == 0.924 and round(meeting_probability(0.75, 14, 8), 2) == 0.77
    bands, rows = optimal_bands(0.7, 256)
    assert (bands, rows) == (25, 10)
    assert optimal_bands(0.8, 112)[0] * optimal_bands(0.8, 112)[1] <= 112


def test_nonsense_is_refused():
    with pytest.raises(ConfigurationError, match="minhash.MinHash.bands is 0"):
        MinHash(bands=0)


def test_signatures_have_not_drifted():
    """A changed value requires a new minhash.VERSION."""
    assert MinHash(bands=2, rows=3).signature(TEXT).tolist() == GOLDEN
    assert [key.hex() for key in MinHash(bands=2, rows=3).keys(document(TEXT))] == GOLDEN_KEYS
    assert minima(ngrams(np.arange(9, dtype=np.uint64), 5), 4, seed=1).tolist() == GOLDEN_MINIMA


GOLDEN = [501695149, 606721677, 76603685, 514567479, 1116252015, 171292831]
GOLDEN_KEYS = ["cd8587902488f0a21187c1930afb86a1", "aaf579cafaffd673e616f7306ffd1715"]
GOLDEN_MINIMA = [897247688, 962418450, 136364127, 618869025]
