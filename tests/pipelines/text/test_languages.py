"""The table of languages: every stop word can be found, every language of a crawl is there."""

import pytest

from castor.pipelines.text import languages
from castor.pipelines.text.tokenized_text import TokenizedText

OF_A_CRAWL = "de en zh es fr ru uk pl sv pt ro ja hu it ar ko tr no cs hi bg el nl da fi id vi th fa he ca gl".split()


def test_the_languages_of_a_crawl_are_there():
    assert set(OF_A_CRAWL) <= set(languages.STOP_WORDS)
    assert all(len(words) >= 5 for words in languages.STOP_WORDS.values())


@pytest.mark.parametrize("language", [x for x in languages.STOP_WORDS if x not in languages.ANYWHERE])
def test_a_stop_word_set_apart_is_one_token(language):
    assert [word for word in languages.STOP_WORDS[language] if TokenizedText(word).num_tokens != 1] == []


def test_terminal_marks_are_single_and_no_letters():
    assert len(set(languages.TERMINAL)) == len(languages.TERMINAL) and not any(
        c.isalnum() or c.isspace() for c in languages.TERMINAL
    )
