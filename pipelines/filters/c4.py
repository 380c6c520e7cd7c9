"""C4's rules: Raffel et al. 2020, arXiv 1910.10683, section 2.2, with the constants of the code that made it.

`Clean` drops lines (a function), `Filter` drops pages for what is left of them; C4 is both, in this order. Where paper and code differ, the
code: at least 5 words a line, at least 3 sentences a page. Line ends are those of any script (pipelines/text/languages.py), `...` excepted.
Sentences are counted by their terminal punctuation, which agrees with a trained splitter closely enough for a threshold of 3. The rule
against curly brackets is meant for pages that show code by mistake; it also throws away every page about programming. Lines that occur on
several pages are another matter (pipelines/deduplication/shared_lines.py).
"""

import dataclasses
import itertools
import re
from typing import ClassVar

import numpy as np

import gin
from castor.pipelines.document import Document, Element, Rejection
from castor.pipelines.filters.reason import Reason
from castor.pipelines.text import languages
from castor.pipelines.text.tokenized_text import tokenize

_CITATION = re.compile(r"\[\d*\]|\[edit\]|\[citation needed\]")
_POLICY = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")
_END_MARKS = np.array([ord(c) for c in languages.TERMINAL if c not in "'\u2026"])
_SENTENCE_END = re.compile(
    r"[.!?\u0964\u061f\u06d4\u0589]+(?=[\s\"'\u201d\u2019)\]]|$)|[\u3002\uff01\uff1f\uff61\u104b\u1362\u17d4\u17d5\u0f0d]+"
)
_CLAUSE_END = re.compile(
    r"[\u0e01-\u0edf][ \u00a0\n]+(?=[\u0e01-\u0edf])"
)  # Thai and Lao have no full stop: a blank ends a clause
_DOT = ord(".")


def count_sentences(text: str) -> int:
    """Sentences, by their terminal punctuation; in Thai and Lao, which have none, clauses, by the blank between two of their letters."""
    return len(_SENTENCE_END.findall(text)) + len(_CLAUSE_END.findall(text))


def has_sentences(text: str, least: int) -> bool:
    """count_sentences(text) >= least, without a look at the rest of a text that has them."""
    return (
        sum(1 for _ in itertools.islice(_SENTENCE_END.finditer(text), least)) >= least or count_sentences(text) >= least
    )


@gin.configurable(module="c4")
@dataclasses.dataclass(frozen=True)
class Clean:
    """Drops lines without an end mark, with few words, with an overlong word, about JavaScript or policies; deletes citation marks.

    What is left is stripped lines, a blank line where paragraphs met. Rejects `c4.no_lines`.
    """

    min_words_a_line: int = 5
    max_word_length: int = 1000
    end_marks: bool = True
    javascript: bool = True
    policies: bool = True

    name: ClassVar[str] = "c4.lines"

    def __call__(self, document: Document) -> Element:
        text = _CITATION.sub("", document.text) if "[" in document.text else document.text
        tokenized = tokenize(text)
        if not tokenized.num_lines:
            return Rejection(document, "c4.no_lines", "0 of 0")
        keep = np.diff(tokenized.words_before_line) >= self.min_words_a_line
        longest = np.maximum.reduceat(tokenized.word_ends - tokenized.word_starts, tokenized.words_before_line[:-1])
        keep &= longest <= self.max_word_length
        if self.end_marks:
            codes, ends = tokenized.codes, tokenized.line_ends
            dots = (
                (codes[ends - 1] == _DOT)
                & (codes[np.maximum(ends - 2, 0)] == _DOT)
                & (codes[np.maximum(ends - 3, 0)] == _DOT)
            )
            keep &= (codes[ends - 1][:, None] == _END_MARKS).any(1) & ~dots
        unwanted = (("javascript",) if self.javascript else ()) + (_POLICY if self.policies else ())
        lower = text.lower()
        unwanted = tuple(phrase for phrase in unwanted if phrase in lower)
        if unwanted:
            for i in np.flatnonzero(keep).tolist():
                line = text[tokenized.line_starts[i] : tokenized.line_ends[i]].lower()
                keep[i] = not any(phrase in line for phrase in unwanted)
        if not keep.any():
            return Rejection(document, "c4.no_lines", f"0 of {tokenized.num_lines}")
        if keep.all() and text is document.text:
            return document
        return document.replace(text=tokenized.joined(keep))


@gin.configurable(module="c4")
@dataclasses.dataclass(frozen=True)
class Filter:
    """Rules about whole pages."""

    min_sentences: int = 3
    lorem_ipsum: bool = True
    curly_brackets: bool = True

    name: ClassVar[str] = "c4"

    def check(self, document: Document) -> str | None:
        text = document.text
        if self.lorem_ipsum and "lorem ipsum" in text.lower():
            return Reason("c4.lorem_ipsum")
        if self.curly_brackets and "{" in text:
            return Reason("c4.curly_bracket", text.count("{"))
        if not has_sentences(text, self.min_sentences):
            return Reason("c4.few_sentences", count_sentences(text))
        return None
