"""FineWeb's custom filters: Penedo et al. 2024, arXiv 2406.17557, section 3.6.

The thresholds are those of the published code. For characters in duplicated lines the paper gives 0.1 instead of 0.01.

Lines are stripped, and empty lines are ignored. The share of characters in repeated lines counts the second and later
occurrences of a line, over all characters that are not line ends. The rule on short lines applies to languages that put
spaces between words: thirty Chinese characters are not a short line.

The rules were made for pages that C4's line rules have already cleaned (c4.Clean without its rule on end marks), which
removes the short lines of menus and buttons. Without C4's rules the threshold of 0.01 on repeated lines rejects every
page that says `Share` twice.
"""

import dataclasses
from typing import ClassVar

import numpy as np

import gin
from castor.pipelines.document import Document
from castor.pipelines.filters.gopher_repetition import duplicates
from castor.pipelines.filters.reason import Reason
from castor.pipelines.text import languages
from castor.pipelines.text.tokenized_text import tokenize

_TERMINAL = np.array([ord(c) for c in languages.TERMINAL])


@gin.configurable(module="fineweb")
@dataclasses.dataclass(frozen=True)
class Filter:
    """Rejects pages that look like lists, menus or boilerplate. All shares are in [0, 1].

    min_terminal_lines: minimum share of lines that end with terminal punctuation of any script (languages.TERMINAL).

    max_short_lines: maximum share of lines of at most `short_line` characters.

    short_line: maximum length of a short line, in characters.

    max_repeated: maximum share of characters in repeated lines.

    max_newlines_per_word: maximum ratio of line ends to words. From the published code; not in the paper.

    max_unspaced_for_length: above this share of characters from scripts without spaces, the rule on short lines is
        skipped.
    """

    min_terminal_lines: float = 0.12
    max_short_lines: float = 0.67
    short_line: int = 30
    max_repeated: float = 0.01
    max_newlines_per_word: float = 0.3
    max_unspaced_for_length: float = 0.3

    name: ClassVar[str] = "fineweb"

    def check(self, document: Document) -> str | None:
        tokenized = tokenize(document.text)
        count = tokenized.num_lines
        if not count:
            return Reason("fineweb.empty")
        # "the fraction of lines ending with punctuation"
        terminal = (tokenized.codes[tokenized.line_ends - 1][:, None] == _TERMINAL).any(1)
        if (share := np.count_nonzero(terminal) / count) < self.min_terminal_lines:
            return Reason("fineweb.terminal_lines", share)
        # "the fraction of lines shorter than 30 characters"
        lengths = tokenized.line_ends - tokenized.line_starts
        if tokenized.unspaced_share <= self.max_unspaced_for_length:
            if (share := np.count_nonzero(lengths <= self.short_line) / count) > self.max_short_lines:
                return Reason("fineweb.short_lines", share)
        # "the fraction of characters in duplicated lines"
        newlines = document.text.count("\n")
        repeated = duplicates(tokenized.line_hashes, lengths)[1] * float(lengths.sum())
        if (share := repeated / (len(document.text) - newlines)) > self.max_repeated:
            return Reason("fineweb.repeated_lines", share)
        # Published code only: many line ends per word are a sign of lists.
        if (ratio := newlines / tokenized.num_words) > self.max_newlines_per_word:
            return Reason("fineweb.newlines", ratio)
        return None
