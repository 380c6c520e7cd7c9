"""C4's rules: Raffel et al. 2020, arXiv 1910.10683, section 2.2, with the constants of the code that made it.

`Clean` drops lines (it is a function for `stages.Apply`), `Filter` drops pages; C4 is Apply("c4.clean", Clean()) then Check(Filter()).
Where paper and code differ, the code: at least 5 words a line, at least 3 sentences a page. Sentences are counted by their terminal
punctuation, which agrees with a trained splitter closely enough for a threshold of 3. The rule against curly brackets is meant for pages
that show code by mistake; it also throws away every page about programming.
"""

import dataclasses
import re
from typing import ClassVar

import gin

from pipelines import words
from pipelines.document import Document, Element, Rejection

_CITATION = re.compile(r"\[\d*\]|\[edit\]|\[citation needed\]")
_POLICY = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")
_END_MARKS = (".", "?", "!", '"', "\u3002", "\uff01", "\uff1f", "\u201d", "\u0964", "\u061f")
_SENTENCE_END = re.compile(r"[.!?\u0964\u061f]+(?=[\s\"'\u201d\u2019)\]]|$)|[\u3002\uff01\uff1f]+")


@gin.configurable(module="c4")
@dataclasses.dataclass(frozen=True)
class Clean:
    """Drops lines without an end mark, with few words, with an overlong word, about JavaScript or policies; deletes citation marks."""

    min_words_a_line: int = 5
    max_word_length: int = 1000
    end_marks: bool = True
    javascript: bool = True
    policies: bool = True

    def __call__(self, document: Document) -> Element:
        kept = []
        for line in document.text.split("\n"):
            line = _CITATION.sub("", line).strip()
            found = words.words(line)
            lower = line.lower()
            if (
                len(found) >= self.min_words_a_line
                and max(map(len, found)) <= self.max_word_length
                and not (self.end_marks and (not line.endswith(_END_MARKS) or line.endswith("...")))
                and not (self.javascript and "javascript" in lower)
                and not (self.policies and any(phrase in lower for phrase in _POLICY))
            ):
                kept.append(line)
        cleaned = document.replace(text="\n".join(kept))
        return cleaned if kept else Rejection(document, "c4.no_lines")


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
            return "c4.lorem_ipsum"
        if self.curly_brackets and "{" in text:
            return "c4.curly_bracket"
        if len(_SENTENCE_END.findall(text)) < self.min_sentences:
            return "c4.few_sentences"
        return None
