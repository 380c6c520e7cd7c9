"""tasks/vocabulary/sentencepieces.py: text survives exactly.

Training is deterministic, bounded, and works on small samples.
"""

import hashlib
import inspect
import pickle
import random
import subprocess
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from castor.tasks.errors import ConfigurationError, VocabularyError
from castor.tasks.vocabulary import sentencepieces

TEXTS = [inspect.getsource(random), inspect.getsource(inspect), "Grüße aus Köln, 你好世界, привет мир. " * 50]


@pytest.fixture(scope="module")
def pieces() -> sentencepieces.Pieces:
    return sentencepieces.Pieces(sentencepieces.train(TEXTS, 1500))


@given(st.text())
@settings(derandomize=True, deadline=None, max_examples=300)
def test_any_text_survives(pieces, text):
    assert pieces.decode(pieces.encode(text)) == text


@given(st.text(alphabet=" \t\n\r\u2581\u00a0\0a1é中😀<>_", max_size=60))
@settings(derandomize=True, deadline=None, max_examples=300)
def test_blanks_and_odd_characters_survive(pieces, text):
    assert pieces.decode(pieces.encode(text)) == text


def test_source_code_survives_and_is_shorter(pieces):
    source = inspect.getsource(subprocess)
    ids = pieces.encode(source)
    assert pieces.decode(ids) == source
    assert len(ids) < len(source) / 2
    assert 0 not in ids


def test_digits_are_split_and_lines_are_pieces(pieces):
    assert [pieces.piece(i) for i in pieces.encode("2024\n")] == ["2", "0", "2", "4", "\n"]


def test_lone_surrogate_becomes_the_replacement_character(pieces):
    assert pieces.decode(pieces.encode("a\ud800b")) == "a\ufffdb"


@given(st.lists(st.integers(0, 1499), max_size=50))
@settings(derandomize=True, deadline=None, max_examples=100)
def test_any_ids_have_a_text(pieces, ids):
    assert isinstance(pieces.decode(i for i in ids if i < len(pieces)), str)


def test_a_long_word_neither_blows_up_nor_changes(pieces):
    started = time.process_time()
    text = "x" * 5_000_000
    assert pieces.decode(pieces.encode(text)) == text
    assert time.process_time() - started < 20
    sentencepieces.train([text[:2_000_000]], 600)
    assert time.process_time() - started < 60


def test_training_gives_the_same_bytes_in_another_process():
    script = (
        "import hashlib, inspect, random; from castor.tasks.vocabulary import sentencepieces; "
        "print(hashlib.sha256(sentencepieces.train([inspect.getsource(random)] * 2, 700)).hexdigest())"
    )
    here = hashlib.sha256(sentencepieces.train([inspect.getsource(random)] * 2, 700)).hexdigest()
    other = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == here


@pytest.mark.parametrize(
    "texts", [[], [""], ["a"], ["\n\n\t"], ["".join(map(chr, range(0x4E00, 0x5E00)))], ["\0\u2581"]]
)
def test_a_small_or_odd_sample_is_no_obstacle(texts):
    pieces = sentencepieces.Pieces(sentencepieces.train(texts, 512))
    assert len(pieces) <= 512
    for text in [*texts, "anything at all: 你好"]:
        assert pieces.decode(pieces.encode(text)) == text


def test_too_few_pieces_and_a_broken_model_are_named():
    with pytest.raises(ConfigurationError, match="VOCAB_SIZE"):
        sentencepieces.train(["a"], 100)
    with pytest.raises(VocabularyError, match="SentencePiece model"):
        sentencepieces.Pieces(b"not a model")


def test_pickles(pieces):
    assert pickle.loads(pickle.dumps(pieces)).encode("def f(x):") == pieces.encode("def f(x):")
