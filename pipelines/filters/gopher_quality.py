"""Gopher's quality rules: Rae et al. 2021, arXiv 2112.11446, appendix A.1.1, "Quality Filtering".

Where the paper leaves a choice:

- Words are those of pipelines/text/tokenized_text.py, with their punctuation. All words count towards the number of
  words.
- Every occurrence of `#` and of an ellipsis (`...` or U+2026) is counted.
- The bullet set includes the markers common in real pages: `-`, `*`.
- Stop words are counted as distinct words, ignoring case. The rule applies only if the language in the metadata has a
  list and a score of at least `min_language_score`, so that a rule about English does not reject other languages.
- The bounds on word length apply to scripts with spaces between words. A language may have its own bounds
  (pipelines/text/languages.py).
- In scripts without spaces every comma is a word, so words of punctuation alone are ignored by the rule on letters.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np

import gin
from castor.pipelines.document import Document
from castor.pipelines.filters.reason import Reason
from castor.pipelines.text import languages
from castor.pipelines.text.tokenized_text import DIGIT, LETTER, TokenizedText, hash_tokens, tokenize

_BULLETS = np.array([ord(c) for c in "\u2022\u2023\u25b6\u25c0\u25e6\u25a0\u25a1\u25aa\u25ab\u2013-*"])
_DOT, _ELLIPSIS = ord("."), 0x2026
_HEAD = 2000  # characters


@gin.configurable(module="gopher_quality")
@dataclasses.dataclass(frozen=True)
class Filter:
    """Rejects documents by the paper's thresholds. Shares and ratios are in [0, 1].

    min_words, max_words: bounds of the number of words.

    min_mean_word_length, max_mean_word_length: bounds of the mean word length, in characters.

    max_hash_ratio, max_ellipsis_ratio: maximum number of `#` and of ellipses per word.

    max_bullet_lines, max_ellipsis_lines: maximum share of lines that start with a bullet or end with an ellipsis.

    min_words_with_letter: minimum share of words with a letter.

    min_stop_words: minimum number of distinct stop words.

    stop_words: language -> its stop words, replacing those of pipelines/text/languages.py. An empty list turns the rule
        off for that language.

    word_lengths: language -> (minimum, maximum) mean word length, replacing those of pipelines/text/languages.py.

    max_unspaced_for_length: above this share of characters from scripts without spaces, the rule on word length is
        skipped.

    min_language_score: minimum `language_score` for the stop word rule to apply.
    """

    min_words: int = 50
    max_words: int = 100_000
    min_mean_word_length: float = 3.0
    max_mean_word_length: float = 10.0
    max_hash_ratio: float = 0.1
    max_ellipsis_ratio: float = 0.1
    max_bullet_lines: float = 0.9
    max_ellipsis_lines: float = 0.3
    min_words_with_letter: float = 0.8
    min_stop_words: int = 2
    stop_words: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    word_lengths: Mapping[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    max_unspaced_for_length: float = 0.3
    min_language_score: float = 0.5

    name: ClassVar[str] = "gopher_quality"

    def check(self, document: Document) -> str | None:
        text, tokenized = document.text, tokenize(document.text)
        count = tokenized.num_words
        # "we remove any document that does not contain between 50 and 100,000 words"
        if count < self.min_words:
            return Reason("gopher_quality.few_words", count)
        if count > self.max_words:
            return Reason("gopher_quality.many_words", count)
        language = document.metadata.get("language", "")
        spaced = tokenized.unspaced_share <= self.max_unspaced_for_length
        # "or whose mean word length is outside the range of 3 to 10 characters"
        if spaced:
            bounds = self.word_lengths.get(language) or languages.WORD_LENGTHS.get(language)
            least, greatest = bounds or (self.min_mean_word_length, self.max_mean_word_length)
            mean = float((tokenized.word_ends - tokenized.word_starts).sum()) / count
            if mean < least:
                return Reason("gopher_quality.short_words", mean)
            if mean > greatest:
                return Reason("gopher_quality.long_words", mean)
        # "a symbol-to-word ratio greater than 0.1 for either the hash symbol or the ellipsis"
        if (ratio := text.count("#") / count) > self.max_hash_ratio:
            return Reason("gopher_quality.hashes", ratio)
        if (ratio := (text.count("...") + text.count("\u2026")) / count) > self.max_ellipsis_ratio:
            return Reason("gopher_quality.ellipses", ratio)
        # "more than 90% of lines starting with a bullet point, or more than 30% ending with an ellipsis"
        if (share := bullet_lines(tokenized)) > self.max_bullet_lines:
            return Reason("gopher_quality.bullet_lines", share)
        if (share := ellipsis_lines(tokenized)) > self.max_ellipsis_lines:
            return Reason("gopher_quality.ellipsis_lines", share)
        # "80% of words in a document contain at least one alphabetic character"
        if (share := words_with_letter(tokenized, spaced)) < self.min_words_with_letter:
            return Reason("gopher_quality.words_without_letters", share)
        return self._stop_words(document, tokenized, language)

    def _stop_words(self, document: Document, tokenized: TokenizedText, language: str) -> str | None:
        # "at least two of the following English words: the, be, to, of, and, that, have, with"
        wanted = self.stop_words[language] if language in self.stop_words else languages.STOP_WORDS.get(language)
        if not wanted or document.metadata.get("language_score", 1.0) < self.min_language_score:
            return None
        if language in languages.ANYWHERE:
            found = sum(word in document.text for word in wanted)
        else:
            # Most texts have enough stop words near their start; a substring search there is cheap.
            if _surrounded_by_spaces(document.text[:_HEAD], wanted) >= self.min_stop_words:
                return None
            found = _count(tokenized, wanted)
        return Reason("gopher_quality.stop_words", f"{found} of {language}") if found < self.min_stop_words else None


def bullet_lines(tokenized: TokenizedText) -> float:
    """Share of lines that start with a bullet."""
    found = (tokenized.codes[tokenized.line_starts][:, None] == _BULLETS).any(1)
    return np.count_nonzero(found) / len(found) if len(found) else 0.0


def ellipsis_lines(tokenized: TokenizedText) -> float:
    """Share of lines that end with `...` or U+2026."""
    codes, ends = tokenized.codes, tokenized.line_ends
    last, before, third = (codes[np.maximum(ends - i, 0)] for i in (1, 2, 3))
    found = (last == _ELLIPSIS) | (
        (last == _DOT) & (before == _DOT) & (third == _DOT) & (ends - tokenized.line_starts >= 3)
    )
    return np.count_nonzero(found) / len(found) if len(found) else 0.0


def words_with_letter(tokenized: TokenizedText, spaced: bool) -> float:
    """Share of words that contain a letter of any script.

    spaced: True for scripts with spaces between words. False divides by the words that contain a letter or a digit,
        since every punctuation mark is then a word of its own.
    """
    if not tokenized.num_words:
        return 0.0
    # Each span runs to the start of the next word. The whitespace in between is neither letter nor digit.
    kinds = np.bitwise_or.reduceat(tokenized.kinds, tokenized.word_starts)
    of = len(kinds) if spaced else np.count_nonzero(kinds & (LETTER | DIGIT))
    return np.count_nonzero(kinds & LETTER) / of if of else 0.0


def _surrounded_by_spaces(text: str, words: Sequence[str]) -> int:
    """Number of `words` that occur surrounded by spaces and are therefore certainly whole tokens.

    Words that normalize to the same token count once.
    """
    return sum(any(f" {word} " in text for word in same) for same in _folded(tuple(words)))


@functools.cache
def _folded(words: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    """The words, grouped by the token that they normalize to."""
    groups: dict[int, list[str]] = {}
    for word, token in zip(words, hash_tokens(words).tolist()):
        groups.setdefault(token, []).append(word)
    return tuple(map(tuple, groups.values()))


def _count(tokenized: TokenizedText, words: Sequence[str]) -> int:
    """Number of distinct `words` among the tokens of the text."""
    return int((tokenized.token_hashes == _hashes(tuple(words))).any(1).sum())


@functools.cache
def _hashes(words: tuple[str, ...]) -> np.ndarray:
    """[words, 1] uint64. Words that normalize to the same token count once."""
    return np.unique(hash_tokens(words))[:, None]
