"""Gopher's quality rules: Rae et al. 2021, arXiv 2112.11446, appendix A.1.1.

What the paper leaves open, as read here. Words are those of pipelines/text/tokenized_text.py, punctuation left on them, and every one counts towards the
number of words. A `#` or an ellipsis (`...` or U+2026) counts as often as it stands. Bullets are those that lines begin with in the wild,
dash and asterisk included. Stop words are counted as distinct words, case aside; the rule holds where there is a list for the language
that the document's metadata name with at least `min_language_score`, so that a rule about English throws no other language away. The
bounds on word length hold where words are set apart, and a language may have its own (pipelines/text/languages.py). Words that are all
punctuation do not count among those that ought to have a letter where a script sets no blanks, since there every comma stands alone.
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
    """Thresholds of the paper; shares and ratios in [0, 1].

    stop_words, word_lengths: language -> words, language -> (least, greatest) mean length, in place of those of pipelines/text/languages.py;
      no words, no rule for that language.
    max_unspaced_for_length: with a greater share of characters of scripts without blanks there is no rule on the length of words.
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
        if count < self.min_words:
            return Reason("gopher_quality.few_words", count)
        if count > self.max_words:
            return Reason("gopher_quality.many_words", count)
        language = document.metadata.get("language", "")
        spaced = tokenized.unspaced_share <= self.max_unspaced_for_length
        if spaced:
            bounds = self.word_lengths.get(language) or languages.WORD_LENGTHS.get(language)
            least, greatest = bounds or (self.min_mean_word_length, self.max_mean_word_length)
            mean = float((tokenized.word_ends - tokenized.word_starts).sum()) / count
            if mean < least:
                return Reason("gopher_quality.short_words", mean)
            if mean > greatest:
                return Reason("gopher_quality.long_words", mean)
        if (ratio := text.count("#") / count) > self.max_hash_ratio:
            return Reason("gopher_quality.hashes", ratio)
        if (ratio := (text.count("...") + text.count("\u2026")) / count) > self.max_ellipsis_ratio:
            return Reason("gopher_quality.ellipses", ratio)
        if (share := bullet_lines(tokenized)) > self.max_bullet_lines:
            return Reason("gopher_quality.bullet_lines", share)
        if (share := ellipsis_lines(tokenized)) > self.max_ellipsis_lines:
            return Reason("gopher_quality.ellipsis_lines", share)
        if (share := words_with_letter(tokenized, spaced)) < self.min_words_with_letter:
            return Reason("gopher_quality.words_without_letters", share)
        return self._stop_words(document, tokenized, language)

    def _stop_words(self, document: Document, tokenized: TokenizedText, language: str) -> str | None:
        wanted = self.stop_words[language] if language in self.stop_words else languages.STOP_WORDS.get(language)
        if not wanted or document.metadata.get("language_score", 1.0) < self.min_language_score:
            return None
        if language in languages.ANYWHERE:
            found = sum(word in document.text for word in wanted)
        else:
            if _stand_alone(document.text[:_HEAD], wanted) >= self.min_stop_words:  # most texts have them there
                return None
            found = _count(tokenized, wanted)
        return Reason("gopher_quality.stop_words", f"{found} of {language}") if found < self.min_stop_words else None


def bullet_lines(tokenized: TokenizedText) -> float:
    """Share of the lines that begin with a bullet."""
    found = (tokenized.codes[tokenized.line_starts][:, None] == _BULLETS).any(1)
    return np.count_nonzero(found) / len(found) if len(found) else 0.0


def ellipsis_lines(tokenized: TokenizedText) -> float:
    """Share of the lines that end with `...` or U+2026."""
    codes, ends = tokenized.codes, tokenized.line_ends
    last, before, third = (codes[np.maximum(ends - i, 0)] for i in (1, 2, 3))
    found = (last == _ELLIPSIS) | (
        (last == _DOT) & (before == _DOT) & (third == _DOT) & (ends - tokenized.line_starts >= 3)
    )
    return np.count_nonzero(found) / len(found) if len(found) else 0.0


def words_with_letter(tokenized: TokenizedText, spaced: bool) -> float:
    """Share of the words that have a letter of any script; unless `spaced`, of those that have a letter or a digit."""
    if not tokenized.num_words:
        return 0.0
    kinds = np.bitwise_or.reduceat(
        tokenized.kinds, tokenized.word_starts
    )  # the blanks that follow a word are neither letter nor digit
    of = len(kinds) if spaced else np.count_nonzero(kinds & (LETTER | DIGIT))
    return np.count_nonzero(kinds & LETTER) / of if of else 0.0


def _stand_alone(text: str, words: Sequence[str]) -> int:
    """How many of the words are in the text between two spaces, so that they are tokens of it beyond doubt; once where several fold to one."""
    return sum(any(f" {word} " in text for word in same) for same in _folded(tuple(words)))


@functools.cache
def _folded(words: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    """The words, those that fold to the same token together."""
    groups: dict[int, list[str]] = {}
    for word, token in zip(words, hash_tokens(words).tolist()):
        groups.setdefault(token, []).append(word)
    return tuple(map(tuple, groups.values()))


def _count(tokenized: TokenizedText, words: Sequence[str]) -> int:
    """How many of the words are tokens of the text."""
    return int((tokenized.token_hashes == _hashes(tuple(words))).any(1).sum())


@functools.cache
def _hashes(words: tuple[str, ...]) -> np.ndarray:
    """[words, 1] uint64. Words that fold to the same token count once."""
    return np.unique(hash_tokens(words))[:, None]
