"""Gopher's quality rules: Rae et al. 2021, arXiv 2112.11446, appendix A.1.1.

What the paper leaves open, as read here: words are those of pipelines/words.py, every one counts towards the number of words; a `#` or an
ellipsis (`...` or U+2026) counts as often as it stands; bullets are those that lines begin with in the wild, dash and asterisk included;
stop words are counted as distinct, lower-cased words. The rule on word length is for languages that set words apart; the rule on stop
words holds where there is a list for the language that the document's metadata name, so that a rule about English throws no other language
away.
"""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import gin

from pipelines import words
from pipelines.document import Document

_BULLETS = ("\u2022", "\u2023", "\u25b6", "\u25c0", "\u25e6", "\u25a0", "\u25a1", "\u25aa", "\u25ab", "\u2013", "-", "*")
_ELLIPSES = ("...", "\u2026")


@gin.configurable(module="gopher_quality")
@dataclasses.dataclass(frozen=True)
class Filter:
    """Thresholds of the paper; shares and ratios in [0, 1]."""

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
    stop_words: Mapping[str, tuple[str, ...]] = dataclasses.field(
        default_factory=lambda: {"en": ("the", "be", "to", "of", "and", "that", "have", "with")}
    )
    max_unspaced_for_length: float = 0.3

    name: ClassVar[str] = "gopher_quality"

    def check(self, document: Document) -> str | None:
        text = document.text
        found = words.words(text)
        count = len(found)
        if count < self.min_words:
            return "gopher_quality.few_words"
        if count > self.max_words:
            return "gopher_quality.many_words"
        if words.unspaced_share(text) <= self.max_unspaced_for_length:
            mean = sum(map(len, found)) / count
            if mean < self.min_mean_word_length:
                return "gopher_quality.short_words"
            if mean > self.max_mean_word_length:
                return "gopher_quality.long_words"
        if text.count("#") / count > self.max_hash_ratio:
            return "gopher_quality.hashes"
        if sum(map(text.count, _ELLIPSES)) / count > self.max_ellipsis_ratio:
            return "gopher_quality.ellipses"
        lines = words.lines(text)
        if sum(1 for line in lines if line.startswith(_BULLETS)) > self.max_bullet_lines * len(lines):
            return "gopher_quality.bullet_lines"
        if sum(1 for line in lines if line.endswith(_ELLIPSES)) > self.max_ellipsis_lines * len(lines):
            return "gopher_quality.ellipsis_lines"
        if sum(map(words.has_letter, found)) < self.min_words_with_letter * count:
            return "gopher_quality.words_without_letters"
        wanted = self.stop_words.get(document.metadata.get("language", ""))
        if wanted and len(set(wanted).intersection(word.lower() for word in found)) < self.min_stop_words:
            return "gopher_quality.stop_words"
        return None
