"""RefinedWeb's line-wise corrections: Penedo et al. 2023, arXiv 2306.01116, appendix G.2, as DCLM runs them (Li et al. 2024, arXiv 2406.11794).

Removed: lines mostly of capitals, of digits alone, counters (`3 likes`), lines of one word; from lines of at most ten words the traces of
shops, teasers and log-ins. A page that loses more than 5 % of its words was mostly that, and is dropped.

What the papers leave open, as read here: the shares of capitals and digits are of the characters of a line that are not blank; a counter is
the whole line; words are those of pipelines/text/tokenized_text.py, so that in scripts without blanks only a single character is a line of one word; of a
line with `Read more...` or `Sign-in` the phrase goes and the rest stays.
"""

import dataclasses
import re
from typing import ClassVar

import numpy as np

import gin
from castor.pipelines.document import Document, Element, Rejection
from castor.pipelines.text.tokenized_text import DIGIT, SPACE, UPPER, TokenizedText, tokenize

_COUNTED = "likes|shares|comments|retweets|reposts|quotes|bookmarks|upvotes|downvotes|downloads|views|followers"
_COUNTER = re.compile(rf"\W*\d[\d,.]*[KkMmBb]?\s+(?:{_COUNTED})\W*")
_PHRASES = (
    re.compile(r"(?i)items in cart"),
    re.compile(r"(?i)\s*read more(?:\.\.\.|\u2026)$"),
    re.compile(r"(?i)^sign-in\s*"),
)
_HINT = re.compile(r"(?i)items in cart|read more(?:\.\.\.|\u2026)|sign-in")


@gin.configurable(module="refinedweb")
@dataclasses.dataclass(frozen=True)
class Clean:
    """Drops and corrects lines. Rejects `refinedweb.words_removed` beyond `max_words_removed`, `refinedweb.no_lines` where none is left.

    max_uppercase, max_numeric: greatest shares of a line's characters. max_phrase_words: lines with more words keep their phrases.
    """

    max_uppercase: float = 0.5
    max_numeric: float = 0.999999
    min_words_a_line: int = 2
    counters: bool = True
    phrases: bool = True
    max_phrase_words: int = 10
    max_words_removed: float = 0.05

    name: ClassVar[str] = "refinedweb.lines"

    def __call__(self, document: Document) -> Element:
        tokenized = tokenize(document.text)
        count = tokenized.num_lines
        if not count:
            return Rejection(document, "refinedweb.no_lines", "0 of 0")
        words = np.diff(tokenized.words_before_line)
        solid = _per_line(tokenized, (tokenized.kinds & SPACE) == 0)
        keep = words >= self.min_words_a_line
        keep &= _per_line(tokenized, (tokenized.kinds & UPPER) != 0) <= self.max_uppercase * solid
        digits = _per_line(tokenized, (tokenized.kinds & DIGIT) != 0)
        keep &= digits <= self.max_numeric * solid
        removed = int(words[~keep].sum())
        corrected: dict[int, str] = {}
        short = keep & (words <= self.max_phrase_words)
        if self.counters:
            for i in np.flatnonzero(short & (digits > 0)).tolist():
                if _COUNTER.fullmatch(tokenized.line(i)):
                    keep[i] = False
                    removed += int(words[i])
        if self.phrases and _HINT.search(document.text):
            for i in np.flatnonzero(short & keep).tolist():
                removed += self._correct(tokenized.line(i), i, int(words[i]), keep, corrected)
        if (share := removed / tokenized.num_words) > self.max_words_removed:
            return Rejection(document, "refinedweb.words_removed", f"{share:.4g}")
        if not keep.any():
            return Rejection(document, "refinedweb.no_lines", f"0 of {count}")
        if keep.all() and not corrected:
            return document
        return document.replace(text=tokenized.joined(keep, corrected))

    def _correct(self, line: str, i: int, words: int, keep: np.ndarray, corrected: dict[int, str]) -> int:
        """Takes the phrases out of line i; returns how many words went."""
        rest = line
        for phrase in _PHRASES:
            rest = phrase.sub("", rest)
        if rest == line:
            return 0
        rest = rest.strip()
        left = TokenizedText(rest).num_words
        keep[i] = left >= self.min_words_a_line
        if not keep[i]:
            return words
        corrected[i] = rest
        return words - left


def _per_line(tokenized: TokenizedText, marks: np.ndarray) -> np.ndarray:
    """How many characters of each line `marks` names, [lines] int64; blanks may not be among them."""
    return np.add.reduceat(marks, tokenized.line_starts, dtype=np.int64)
