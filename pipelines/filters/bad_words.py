"""Rejects pages that contain a listed word: C4's rule (Raffel et al. 2020, arXiv 1910.10683, section 2.2), per
language.

The paper: "removed any page that contained any word on the 'List of Dirty, Naughty, Obscene or Otherwise Bad Words'".
The lists per language follow mC4 (Xue et al. 2021, arXiv 2010.11934).

An entry is a word or a phrase. An entry matches whole words, ignoring case. In scripts without spaces between words
(C4's code names Japanese, Thai and Chinese) an entry matches anywhere. C4 rejects a page for a single listed word.
That removes pages on medicine, law and minorities more often than others (Dodge et al. 2021, arXiv 2104.08758);
`max_words` allows some occurrences.

Entries are found by the hashes of their token n-grams (pipelines/text/tokenized_text.py). Tokens fold accents as well
as case, so each hit is then compared letter by letter: an accent makes a different word. Whitespace and punctuation
between the words of a phrase are ignored.
"""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import numpy as np

import gin
from castor.pipelines.core import lists
from castor.pipelines.document import Document
from castor.pipelines.filters.reason import Reason
from castor.pipelines.text.tokenized_text import tokenize


@gin.configurable(module="bad_words")
@dataclasses.dataclass(frozen=True)
class Filter:
    """Rejects documents with more than `max_words` occurrences of listed words. Reads metadata `language`.

    words: language code (ISO 639-1) -> list of words (pipelines/core/lists.py). The list under `*` also applies to
        documents of every language.

    max_words: number of occurrences that a page may have.
    """

    words: Mapping[str, str] = dataclasses.field(
        default_factory=lambda: {"en": "castor/words_en.txt", "de": "castor/words_de.txt", "zh": "castor/words_zh.txt"}
    )
    max_words: int = 0

    name: ClassVar[str] = "bad_words"

    def reads(self) -> dict[str, str]:
        return lists.reads(self.words.values())

    def prepare(self) -> None:
        for name in self.words.values():
            _index(name)

    def check(self, document: Document) -> str | None:
        names = [self.words[key] for key in (document.metadata.get("language", ""), "*") if key in self.words]
        found = [entry for name in names for entry in occurrences(document.text, name)]
        if len(found) > self.max_words:
            return Reason("bad_words.word", ", ".join(sorted(set(found))[:5]) + f" ({len(found)})")
        return None


def occurrences(text: str, name: str) -> list[str]:
    """The entries of the list `name` found in `text`, one per occurrence."""
    tokenized, found = tokenize(text), []
    for length, (hashes, phrases) in _index(name).items():
        runs = tokenized.token_ngrams(length)
        if not len(runs):
            continue
        places = np.minimum(np.searchsorted(hashes, runs), len(hashes) - 1)
        for i in np.flatnonzero(hashes[places] == runs):
            tokens = tuple(
                text[tokenized.token_starts[j] : tokenized.token_ends[j]].lower() for j in range(i, i + length)
            )
            entry = phrases.get(tokens)
            if entry is not None:
                found.append(entry)
    return found


@lists.kept
def _index(name: str) -> dict[int, tuple[np.ndarray, dict[tuple[str, ...], str]]]:
    """{number of tokens: (sorted hashes of the entries of that length, {the tokens of an entry: the entry})}."""
    phrases: dict[int, dict[tuple[str, ...], str]] = {}
    hashes: dict[int, list[int]] = {}
    for entry in sorted(lists.words((name,))):
        tokenized = tokenize(entry)
        count = tokenized.num_tokens
        if count:
            tokens = tuple(entry[a:b] for a, b in zip(tokenized.token_starts, tokenized.token_ends, strict=True))
            phrases.setdefault(count, {})[tokens] = entry
            hashes.setdefault(count, []).append(tokenized.token_ngrams(count)[0])
    return {count: (np.unique(np.array(hashes[count], np.uint64)), phrases[count]) for count in sorted(phrases)}
