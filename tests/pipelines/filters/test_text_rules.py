"""Properties shared by all rule sets for text.

Prose of any language passes, cost is linear, a reason carries its value, and the tokenized text is made once.
"""

import time

import pytest
from prose import CHINESE, GOOD, KOREAN, PROSE, document

from castor.pipelines.document import Document, Rejection
from castor.pipelines.filters import c4, fineweb, gopher_quality, gopher_repetition, length, refinedweb

FILTERS = [length.Filter(), gopher_repetition.Filter(), gopher_quality.Filter(), c4.Filter(), fineweb.Filter()]
CLEANERS = [c4.Clean(), refinedweb.Clean()]


@pytest.mark.parametrize("language", PROSE)
@pytest.mark.parametrize("rules", FILTERS, ids=lambda r: r.name)
def test_prose_of_any_language_passes(rules, language):
    assert rules.check(document(PROSE[language], language)) is None


@pytest.mark.parametrize("language", PROSE)
@pytest.mark.parametrize("rules", CLEANERS, ids=lambda r: r.name)
def test_prose_of_any_language_is_left_as_it_is(rules, language):
    assert rules(document(PROSE[language], language)) == document(PROSE[language], language)


HOSTILE = [
    "x" * 2_000_000, "a " * 1_000_000, "\n" * 2_000_000, "\u3002" * 1_000_000, "...." * 500_000, "[" * 1_000_000, "a\n" * 1_000_000, "1 " * 1_000_000,
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE, ids=lambda t: repr(t[:4]))
def test_rules_take_time_in_proportion(text):
    """Thirty seconds of processor time are far beyond any linear cost and far below any quadratic one."""
    started = time.process_time()
    for rules in FILTERS:
        assert rules.check(document(text)) is None or rules.name
    for rules in CLEANERS:
        assert isinstance(rules(document(text)), Document | Rejection)
    assert time.process_time() - started < 30


def test_empty_texts_have_a_verdict():
    for text in ("", " \n\t ", "\u3000"):
        assert gopher_quality.Filter().check(document(text)) == "gopher_quality.few_words"
        assert fineweb.Filter().check(document(text)) == "fineweb.empty"
        assert c4.Filter().check(document(text)) == "c4.few_sentences"
        assert gopher_repetition.Filter().check(document(text)) is None
        assert [rules(document(text)).reason for rules in CLEANERS] == ["c4.no_lines", "refinedweb.no_lines"]


@pytest.mark.parametrize(
    ("reason", "code", "measure"),
    [
        (length.Filter(max_characters=10).check(document("eleven char")), "length.too_long", "11"),
        (gopher_quality.Filter().check(document("Too short to say.")), "gopher_quality.few_words", "4"),
        (fineweb.Filter().check(document(GOOD + "\n" + GOOD)), "fineweb.repeated_lines", "0.5"),
        (c4.Filter().check(document(GOOD + "{}{")), "c4.curly_bracket", "2"),
        (gopher_repetition.Filter().check(document(GOOD + "\n" + GOOD)), "gopher_repetition.duplicate_lines", "0.5"),
        (gopher_quality.Filter().check(document(KOREAN, "en")), "gopher_quality.short_words", "2.709"),
        (gopher_quality.Filter().check(document(CHINESE, "de")), "gopher_quality.stop_words", "0 of de"),
    ],
)
def test_reasons_carry_the_value(reason, code, measure):
    assert reason == code and reason.measure == measure
