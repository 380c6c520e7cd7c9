"""Languages: the layer of scripts, the confidence of short and long texts, and what is looked at."""

import functools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prose import GOOD, PROSE, document
from py3langid import langid

from castor.pipelines.document import Rejection
from castor.pipelines.text import language, language_scores
from castor.pipelines.text.language import Identify, by_script, identify, sample, temperature_of


@pytest.mark.parametrize("code", PROSE)
def test_prose_is_recognised_with_confidence(code):
    assert identify(PROSE[code])[0] == code and identify(PROSE[code])[1] > 0.95


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("\ud55c\uad6d\uc5b4", "ko"),
        ("\u4eca\u65e5\u306f", "ja"),
        ("\u4f60\u597d", "zh"),
        ("\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35", "th"),
        ("\u0393\u03b5\u03b9\u03ac", "el"),
        ("\u10d2\u10d0\u10db", "ka"),
        ("use \uc774 \ud568\uc218\ub97c \ud638\ucd9c Vec::new", "ko"),
    ],
)
def test_a_script_of_one_language_decides_however_short(text, code):
    assert identify(text) == (code, 0.99)


@pytest.mark.parametrize("text", ["", " \n", "123 + 456 = 579 ...", "\U0001f600\U0001f600"])
def test_without_letters_the_language_is_undetermined(text):
    assert identify(text) == ("und", 0.0)


def test_short_texts_say_that_they_are_not_sure():
    assert identify("hello")[1] < 0.5 and identify("Table 1")[1] < 0.9
    assert identify(GOOD[:30])[1] < identify(GOOD)[1]


@given(
    st.one_of(
        st.text(max_size=300),
        st.sampled_from(sorted(PROSE.values())),
        st.text("aeinrstAEINRST \u00e9\u0438\u0430\u0648", max_size=900),
    )
)
def test_scores_are_those_of_py3langid_to_the_last_bit(text):
    mine, peer = language_scores.scores(), py3langid_model()
    found = dict(reversed(list(zip(mine.languages, mine.of(text).tolist()))))  # the first of two columns
    ranked = peer.rank(text)
    if ranked[0][1] > -1e30:  # its own floor, where it finds no n-gram
        assert [found[code] for code, _ in ranked] == [score for _, score in ranked]
    assert ranked[0][0] == mine.languages[int(mine.of(text).argmax())]


@functools.cache
def py3langid_model():
    return langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE)


@given(st.integers(0, 100_000))
def test_temperature_grows_with_the_text_and_slower_from_two_hundred_bytes_on(length):
    assert 1.0 <= temperature_of(length) <= temperature_of(length + 1)
    if length >= 200:
        assert temperature_of(length) == pytest.approx(math.sqrt(length))


@given(st.text(max_size=3000))
def test_any_text_has_an_answer(text):
    code, score = identify(text)
    assert code and 0.0 <= score <= 1.0
    assert 0.0 <= by_script(text)[1] <= 1.0


def test_cost_is_bounded_and_slices_reach_from_end_to_end():
    text = "".join(chr(0x4E00 + i % 20000) for i in range(100_000))
    cut = sample(text)
    assert len(cut) < 700 and cut[0] == text[0] and cut[-1] == text[-1] and sample(cut) == cut


def test_identify_as_a_step():
    kept = Identify(("en",), 0.65)(document(GOOD, ""))
    assert kept.metadata["language"] == "en" and kept.metadata["language_score"] > 0.95
    unwanted = Identify(("en",))(document(PROSE["de"], ""))
    assert isinstance(unwanted, Rejection) and (unwanted.reason, unwanted.measure) == ("language.unwanted", "de")
    unsure = Identify(min_score=0.999)(document("hello there", ""))
    assert unsure.reason == "language.uncertain" and unsure.measure.startswith(language.identify("hello there")[0])
