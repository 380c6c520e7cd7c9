"""C4's rules: Raffel et al. 2020, arXiv 1910.10683, section 2.2, with the constants of the published code.

`Clean` is a function that drops lines; `Filter` rejects pages by what remains. C4 runs both, in this order.

At least 5 words per line and 3 sentences per page are the numbers of the code and of the latest arXiv version; the
journal's version swaps the two. A line may end with the terminal punctuation of any script
(pipelines/text/languages.py), except `...`. Sentences are counted by their terminal punctuation, which agrees closely
enough with a trained splitter for a threshold of 3.

C4's deduplication of lines that occur on several pages is in pipelines/deduplication/shared_lines.py.
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
    r"[.!?\u0964\u061f\u06d4\u0589]+(?=[\s\"'\u201d\u2019)\]]|$)"
    r"|[\u3002\uff01\uff1f\uff61\u104b\u1362\u17d4\u17d5\u0f0d]+"
)
# Thai and Lao have no full stop: a space ends a clause.
_CLAUSE_END = re.compile(r"[\u0e01-\u0edf][ \u00a0\n]+(?=[\u0e01-\u0edf])")
_DOT = ord(".")


def count_sentences(text: str) -> int:
    """Number of sentences, counted by terminal punctuation.

    Example: "Is it? Yes." has 2. Thai and Lao have no terminal punctuation; there each space between two letters ends a
    clause, and clauses are counted.
    """
    return len(_SENTENCE_END.findall(text)) + len(_CLAUSE_END.findall(text))


def has_sentences(text: str, least: int) -> bool:
    """Whether `count_sentences(text) >= least`; stops reading the text once enough sentences are found."""
    return (
        sum(1 for _ in itertools.islice(_SENTENCE_END.finditer(text), least)) >= least or count_sentences(text) >= least
    )


@gin.configurable(module="c4")
@dataclasses.dataclass(frozen=True)
class Clean:
    """Drops lines and deletes citation marks. Rejects `c4.no_lines` if no line remains.

    The remaining lines are stripped; an empty line separates paragraphs.

    min_words_a_line: minimum number of words per line.

    max_word_length: maximum length of any word of a line, in characters. 1,000, from the code; not in the paper.

    end_marks: keep only lines that end with terminal punctuation.

    javascript: drop lines that contain `javascript`.

    policies: drop lines that contain a phrase of boilerplate policy notices.
    """

    min_words_a_line: int = 5
    max_word_length: int = 1000
    end_marks: bool = True
    javascript: bool = True
    policies: bool = True

    name: ClassVar[str] = "c4.lines"

    def __call__(self, document: Document) -> Element:
        # "citation markers (e.g. [1], [citation needed], etc.), we removed any such markers"
        text = _CITATION.sub("", document.text) if "[" in document.text else document.text
        tokenized = tokenize(text)
        if not tokenized.num_lines:
            return Rejection(document, "c4.no_lines", "0 of 0")
        # "only retained lines that contained at least 5 words"
        keep = np.diff(tokenized.words_before_line) >= self.min_words_a_line
        longest = np.maximum.reduceat(tokenized.word_ends - tokenized.word_starts, tokenized.words_before_line[:-1])
        keep &= longest <= self.max_word_length
        # "We only retained lines that ended in a terminal punctuation mark"
        if self.end_marks:
            codes, ends = tokenized.codes, tokenized.line_ends
            dots = (
                (codes[ends - 1] == _DOT)
                & (codes[np.maximum(ends - 2, 0)] == _DOT)
                & (codes[np.maximum(ends - 3, 0)] == _DOT)
            )
            keep &= (codes[ends - 1][:, None] == _END_MARKS).any(1) & ~dots
        # "we removed any line with the word Javascript"; "Many pages had boilerplate policy notices, so we removed any
        # lines containing the strings" of _POLICY
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
    """Rejects whole pages: placeholder text, curly brackets, too few sentences.

    min_sentences: minimum number of sentences (`count_sentences`).

    lorem_ipsum: reject pages that contain `lorem ipsum`.

    curly_brackets: reject pages that contain `{`. The rule is meant for pages that show code by mistake; it also
        rejects every page about programming.
    """

    min_sentences: int = 3
    lorem_ipsum: bool = True
    curly_brackets: bool = True

    name: ClassVar[str] = "c4"

    def check(self, document: Document) -> str | None:
        text = document.text
        # "we removed any page where the phrase 'lorem ipsum' appeared"
        if self.lorem_ipsum and "lorem ipsum" in text.lower():
            return Reason("c4.lorem_ipsum")
        # "we removed any pages that contained a curly bracket"
        if self.curly_brackets and "{" in text:
            return Reason("c4.curly_bracket", text.count("{"))
        # "We discarded any page with fewer than 3 sentences"
        if not has_sentences(text, self.min_sentences):
            return Reason("c4.few_sentences", count_sentences(text))
        return None
