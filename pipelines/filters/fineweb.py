"""FineWeb's own rules: Penedo et al. 2024, arXiv 2406.17557, section 3.6, with the values of the published pipeline.

Lines are those that are not blank, stripped. The share of characters in repeated lines counts second and later occurrences of a line and
divides by the characters that are no line ends. The rule on short lines is for languages that set words apart: thirty Chinese characters
are no short line.

The rules were made for pages that C4's line rules have gone over (c4.Clean without its rule on end marks), which take the short lines of
menus and buttons away. Without that the bound of 0.01 on repeated lines turns away whatever page says `Share` twice.
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
    """min_terminal_lines: least share of lines that end with terminal punctuation of any script (languages.TERMINAL).
    max_short_lines, short_line: greatest share of lines of at most `short_line` characters.
    max_repeated: greatest share of characters in repeated lines.
    max_newlines_per_word: greatest ratio of line ends to words, a sign of lists.
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
        terminal = (tokenized.codes[tokenized.line_ends - 1][:, None] == _TERMINAL).any(1)
        if (share := np.count_nonzero(terminal) / count) < self.min_terminal_lines:
            return Reason("fineweb.terminal_lines", share)
        lengths = tokenized.line_ends - tokenized.line_starts
        if tokenized.unspaced_share <= self.max_unspaced_for_length:
            if (share := np.count_nonzero(lengths <= self.short_line) / count) > self.max_short_lines:
                return Reason("fineweb.short_lines", share)
        newlines = document.text.count("\n")
        repeated = duplicates(tokenized.line_hashes, lengths)[1] * float(lengths.sum())
        if (share := repeated / (len(document.text) - newlines)) > self.max_repeated:
            return Reason("fineweb.repeated_lines", share)
        if (ratio := newlines / tokenized.num_words) > self.max_newlines_per_word:
            return Reason("fineweb.newlines", ratio)
        return None
