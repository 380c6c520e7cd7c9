"""FineWeb's own rules: Penedo et al. 2024, arXiv 2406.17557, section 3.6, with the values of the published pipeline.

Lines are those that are not blank, stripped. The share of characters in repeated lines counts second and later occurrences of a line and
divides by the characters that are no line ends. The rule on short lines is for languages that set words apart: thirty Chinese characters
are no short line.
"""

import dataclasses
from typing import ClassVar

import gin

from pipelines import words
from pipelines.document import Document


@gin.configurable(module="fineweb")
@dataclasses.dataclass(frozen=True)
class Filter:
    """min_terminal_lines: least share of lines that end with terminal punctuation of any script (words.TERMINAL).
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
        text = document.text
        lines = words.lines(text)
        if not lines:
            return "fineweb.empty"
        if sum(1 for line in lines if line.endswith(words.TERMINAL)) < self.min_terminal_lines * len(lines):
            return "fineweb.terminal_lines"
        if words.unspaced_share(text) <= self.max_unspaced_for_length:
            if sum(1 for line in lines if len(line) <= self.short_line) > self.max_short_lines * len(lines):
                return "fineweb.short_lines"
        seen, repeated = set(), 0
        for line in lines:
            if line in seen:
                repeated += len(line)
            seen.add(line)
        newlines = text.count("\n")
        if repeated > self.max_repeated * (len(text) - newlines):
            return "fineweb.repeated_lines"
        if newlines > self.max_newlines_per_word * len(words.words(text)):
            return "fineweb.newlines"
        return None
