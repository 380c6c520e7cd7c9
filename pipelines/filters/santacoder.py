"""The share of comments of SantaCoder: Ben Allal et al. 2023, arXiv 2301.03988, section 4.2, "comments-to-code ratio".

The characters of comments and docstrings over all characters of the file (pipelines/sourcecode/comments.py says how they are told and how that differs from
the published code). Published for Python, Java and JavaScript; other languages can be named. The rule prefers code that explains itself: what it
turns away for too few comments need not be bad, and StarCoder did without it: a job asks for it by name.

Left out, of the same paper: characters a token (at least 2.5 Python, 2.9 Java, 2.6 JavaScript), which needs the tokenizer, and a corpus here is made
before any vocabulary; stars of the repository (5 or more), which no archive carries, and which made the model worse.
"""

import dataclasses
from typing import ClassVar

import gin
from castor.pipelines.document import Document
from castor.pipelines.filters.reason import Reason
from castor.pipelines.sourcecode import comments


@gin.configurable(module="santacoder")
@dataclasses.dataclass(frozen=True)
class Filter:
    """min_comments, max_comments: shares of a file's characters. languages: those the rule is for; ("*",) is all that comments can be told in."""

    min_comments: float = 0.01
    max_comments: float = 0.8
    languages: tuple[str, ...] = ("python", "java", "javascript")

    name: ClassVar[str] = "santacoder"

    def check(self, document: Document) -> str | None:
        language = document.metadata.get("language", "")
        if language not in self.languages and "*" not in self.languages:
            return None
        share = comments.comment_share(document.text, language)
        if share is None or self.min_comments <= share <= self.max_comments:
            return None
        return Reason("santacoder.few_comments" if share < self.min_comments else "santacoder.mostly_comments", share)
