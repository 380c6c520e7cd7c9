"""C4's deduplication of lines: equal lines, the rest of a page, and the sentences that must be left."""

from hypothesis import given
from hypothesis import strategies as st

from castor.pipelines.deduplication.shared_lines import SharedLines
from castor.pipelines.document import Document, Rejection, document_id

RULE = SharedLines()
PAGE = "One sentence.\n  Share THIS  \n\nTwo. Three.\nShare this\nFour."


def document(text):
    return Document(document_id("test", "1"), "memory", "text", text)


def test_lines_are_the_same_in_lower_case_and_stripped():
    keys = RULE.keys(PAGE)
    assert len(keys) == 5 and keys[1] == keys[3] and len(set(keys)) == 4 and {len(k) for k in keys} == {16}


def test_a_page_keeps_what_it_owns_and_the_first_of_its_own_repeats():
    keys = RULE.keys(PAGE)
    assert RULE.edit(document(PAGE), set(keys)).text == "One sentence.\nShare THIS\n\nTwo. Three.\nFour."
    assert RULE.edit(document(PAGE), {keys[0], keys[2]}).text == "One sentence.\n\nTwo. Three."


def test_a_page_that_loses_nothing_is_untouched_whatever_it_says():
    page = document("  no sentence at all\n\n\n")
    assert RULE.edit(page, set(RULE.keys(page.text))) is page
    assert RULE.edit(document(""), set()) == document("")


def test_three_sentences_must_be_left():
    keys = RULE.keys(PAGE)
    rejection = RULE.edit(document(PAGE), {keys[0], keys[1]})
    assert isinstance(rejection, Rejection) and rejection.document.text == PAGE
    assert (rejection.reason, rejection.measure) == ("c4.shared_lines", "1 sentences left, 3 of 5 lines gone")
    assert RULE.edit(document(PAGE), set()).measure == "0 sentences left, 5 of 5 lines gone"
    assert SharedLines(min_sentences=1).edit(document(PAGE), {keys[0], keys[1]}).text == "One sentence.\nShare THIS"


lines = st.sampled_from(["a.", "A.", " b. ", "c. d. e.", "", "no end"])


@given(st.lists(st.lists(lines, max_size=8), min_size=1, max_size=4), st.integers(0, 2))
def test_against_a_plain_loop(pages, least):
    """Every line of the corpus stays once, on the first page that has it."""
    rule, seen = SharedLines(least), set()
    for page in pages:
        text = "\n".join(page)
        mine, expected = set(), []
        for line in page:
            key = line.strip().lower()
            if key and key not in seen:
                mine.update(rule.keys(line))
                expected.append(line.strip())
            seen.add(key)
        edited = rule.edit(document(text), mine)
        if isinstance(edited, Rejection):
            assert sum(line.count(".") for line in expected) < least
        else:
            assert [line.strip() for line in edited.text.split("\n") if line.strip()] == expected
