"""RefinedWeb's line-wise corrections: Penedo et al. 2023, arXiv 2306.01116, appendix G.2.

DCLM runs the same rules (Li et al. 2024, arXiv 2406.11794). Where the papers leave a choice:

- The shares of capitals and digits are taken over the non-whitespace characters of a line.
- A counter must be the whole line.
- Words are those of pipelines/text/tokenized_text.py. In scripts without spaces only a single character is a line of
  one word.
- Of a line with `Read more...` or `Sign-in` only the phrase is removed.
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
    """Drops and corrects lines. Rejects `refinedweb.words_removed` and `refinedweb.no_lines`.

    max_uppercase: maximum share of uppercase characters in a line.

    max_numeric: maximum share of digits in a line. The default drops only lines of digits alone.

    min_words_a_line: minimum number of words per line.

    counters: drop lines such as `3 likes`.

    phrases: remove the phrases of shops, teasers and log-ins.

    max_phrase_words: counters and phrases are looked for only in lines of at most this many words.

    max_words_removed: maximum share of a page's words that may be removed before the page is rejected.
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
        # "If it only contains one word"
        keep = words >= self.min_words_a_line
        # "If it is mainly composed of uppercase characters"
        keep &= _per_line(tokenized, (tokenized.kinds & UPPER) != 0) <= self.max_uppercase * solid
        # "If it is only composed of numerical characters"
        digits = _per_line(tokenized, (tokenized.kinds & DIGIT) != 0)
        keep &= digits <= self.max_numeric * solid
        removed = int(words[~keep].sum())
        corrected: dict[int, str] = {}
        short = keep & (words <= self.max_phrase_words)
        # "If it is a counter (e.g., 3 likes)"
        if self.counters:
            for i in np.flatnonzero(short & (digits > 0)).tolist():
                if _COUNTER.fullmatch(tokenized.line(i)):
                    keep[i] = False
                    removed += int(words[i])
        # "If it is short (≤ 10 words) and matches a pattern": the patterns of _PHRASES
        if self.phrases and _HINT.search(document.text):
            for i in np.flatnonzero(short & keep).tolist():
                removed += self._correct(tokenized.line(i), i, int(words[i]), keep, corrected)
        # A page whose removed lines hold more than 5 % of its words is dropped.
        if (share := removed / tokenized.num_words) > self.max_words_removed:
            return Rejection(document, "refinedweb.words_removed", f"{share:.4g}")
        if not keep.any():
            return Rejection(document, "refinedweb.no_lines", f"0 of {count}")
        if keep.all() and not corrected:
            return document
        return document.replace(text=tokenized.joined(keep, corrected))

    def _correct(self, line: str, i: int, words: int, keep: np.ndarray, corrected: dict[int, str]) -> int:
        """Removes the phrases from line i. Returns the number of words removed."""
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
    """Number of characters per line for which `marks` is True, [lines] int64. Whitespace must not be marked."""
    return np.add.reduceat(marks, tokenized.line_starts, dtype=np.int64)
