"""SantaCoder's "comments-to-code ratio": Ben Allal et al. 2023, arXiv 2301.03988, section 4.2.

The ratio is the characters of comments and docstrings over all characters of the file. pipelines/sourcecode/comments.py
describes how comments are found and how that differs from the published code. The paper filtered Python, Java and
JavaScript; other languages can be named. The rule prefers code that explains itself. Code with few comments need not be
bad, and StarCoder did without the rule, so a job must ask for it by name.

Two filters of the same paper are left out. Characters per token (at least 2.5 Python, 2.9 Java, 2.6 JavaScript) needs
the tokenizer, and here a corpus is made before any vocabulary. Stars of the repository (5 or more) are in no archive
and made the model worse.
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
    """Rejects files with too few or too many comments. Reads metadata `language`.

    min_comments, max_comments: bounds of the share of characters in comments, in [0, 1].

    languages: languages that the rule applies to; ("*",) for all languages in which comments can be found.
    """

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
