"""Gopher's repetition rules: Rae et al. 2021, arXiv 2112.11446, appendix A.1.1, table A1.

Example: the lines `a`, `b`, `a`, `a` have a duplicate line fraction of 2/4, since the first `a` is not a duplicate.

Public implementations count differently. What is counted here:

- Lines and paragraphs are those of pipelines/text/tokenized_text.py, stripped. A duplicate is a second or later
  occurrence of exactly the same text. Its characters are divided by those of all lines or paragraphs.
- An n-gram is a run of n words with their punctuation, compared exactly. A character counts once, however many runs
  contain it. Whitespace counts neither in the numerator nor in the denominator.
- Top n-gram: all occurrences of the most frequent run. A run that occurs once is not a repetition. Among equally
  frequent runs the longest in characters counts, then the one with the smallest hash.
- Duplicate n-grams: second and later occurrences. With `first_occurrences` the first occurrence counts too, as table A1
  may also be read.
- In scripts without spaces each character is a word. Runs are `unspaced_factor` times as long there, since a word has
  about two characters.

The cost is one sort of all pairs of words, then of ever fewer runs: a run of n + 1 words can only be repeated where its
first n words are.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import ClassVar

import numpy as np

import gin
from castor.pipelines.document import Document
from castor.pipelines.filters.reason import Reason
from castor.pipelines.text.tokenized_text import TokenizedText, tokenize

_NEXT = np.uint64(0x9E3779B97F4A7C15)


@gin.configurable(module="gopher_repetition")
@dataclasses.dataclass(frozen=True)
class Filter:
    """Rejects documents by the thresholds of table A1. All thresholds are maximum shares in [0, 1].

    max_duplicate_lines, max_duplicate_paragraphs: of lines and paragraphs that are duplicates.

    max_duplicate_line_characters, max_duplicate_paragraph_characters: of characters in duplicate lines and paragraphs.

    top_ngram: n -> maximum share of characters in the most frequent n-gram.

    duplicate_ngram: n -> maximum share of characters in duplicate n-grams.

    first_occurrences: also count the first occurrence of a duplicate n-gram.

    unspaced_factor: factor on n in scripts without spaces between words.

    max_unspaced: share of characters from scripts without spaces above which the factor applies.
    """

    max_duplicate_lines: float = 0.30
    max_duplicate_paragraphs: float = 0.30
    max_duplicate_line_characters: float = 0.20
    max_duplicate_paragraph_characters: float = 0.20
    top_ngram: Mapping[int, float] = dataclasses.field(default_factory=lambda: {2: 0.20, 3: 0.18, 4: 0.16})
    duplicate_ngram: Mapping[int, float] = dataclasses.field(
        default_factory=lambda: {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}
    )
    first_occurrences: bool = False
    unspaced_factor: int = 2
    max_unspaced: float = 0.3

    name: ClassVar[str] = "gopher_repetition"

    def check(self, document: Document) -> str | None:
        tokenized = tokenize(document.text)
        lines, characters = duplicates(tokenized.line_hashes, tokenized.line_ends - tokenized.line_starts)
        # "Duplicate line fraction", "Duplicate line character fraction"
        if lines > self.max_duplicate_lines:
            return Reason("gopher_repetition.duplicate_lines", lines)
        if characters > self.max_duplicate_line_characters:
            return Reason("gopher_repetition.duplicate_line_characters", characters)
        paragraphs, characters = duplicates(
            tokenized.paragraph_hashes, tokenized.paragraph_ends - tokenized.paragraph_starts
        )
        # "Duplicate paragraph fraction", "Duplicate paragraph character fraction"
        if paragraphs > self.max_duplicate_paragraphs:
            return Reason("gopher_repetition.duplicate_paragraphs", paragraphs)
        if characters > self.max_duplicate_paragraph_characters:
            return Reason("gopher_repetition.duplicate_paragraph_characters", characters)
        return self._ngrams(tokenized)

    def _ngrams(self, tokenized: TokenizedText) -> str | None:
        factor = self.unspaced_factor if tokenized.unspaced_share > self.max_unspaced else 1
        top, duplicate = (
            {int(n) * factor: (n, most) for n, most in table.items()}
            for table in (self.top_ngram, self.duplicate_ngram)
        )
        lengths = tokenized.word_ends - tokenized.word_starts
        longest = max([*top, *duplicate], default=0)
        for n, starts, groups in repeated_runs(tokenized.word_hashes, longest):
            repeated = covered(lengths, n, starts)  # upper bound of both shares below
            # "Top 2-gram character fraction", also of 3 and 4
            if n in top and repeated > top[n][1]:
                share = top_share(lengths, n, starts, groups)
                if share > top[n][1]:
                    return Reason(f"gopher_repetition.top_{top[n][0]}_gram", share)
            # "Duplicate 5-gram character fraction", up to 10
            if n in duplicate and repeated > duplicate[n][1]:
                share = repeated if self.first_occurrences else covered(lengths, n, _later(starts, groups))
                if share > duplicate[n][1]:
                    return Reason(f"gopher_repetition.duplicate_{duplicate[n][0]}_gram", share)
            # Every repeated run of n + 1 words contains one of n words, so longer runs cannot cover more characters.
            if repeated <= min(
                (most for table in (top, duplicate) for m, (_, most) in table.items() if m > n), default=1.0
            ):
                return None
        return None


def duplicates(hashes: np.ndarray, lengths: np.ndarray) -> tuple[float, float]:
    """(share of spans, share of their characters) that are second or later occurrences; (0, 0) without spans.

    Example: hashes [7, 8, 7] of spans of lengths [5, 5, 5] give (1/3, 1/3).

    hashes: one hash per span, [spans] uint64.

    lengths: length of each span in characters, [spans] int64.
    """
    if len(hashes) < 2:
        return 0.0, 0.0
    first = np.unique(hashes, return_index=True)[1]
    total = int(lengths.sum())
    return (len(hashes) - len(first)) / len(hashes), (total - int(lengths[first].sum())) / total


def repeated_runs(hashes: np.ndarray, longest: int) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yields (n, starts, groups) for n = 2 .. longest, as long as some run of n words occurs more than once.

    Example: words a b c a b repeat the run (a, b), which yields n = 2, starts [0, 3] and two equal groups.

    hashes: one hash per word, [words] uint64.

    longest: largest n.

    starts: word index at which each repeated run begins, sorted by group, then by position, [runs] int64.

    groups: hash of each repeated run, ascending; equal runs have equal values, [runs] uint64.
    """
    starts, own = np.arange(len(hashes)), hashes
    for n in range(2, longest + 1):
        keep = int(starts.searchsorted(len(hashes) - n + 1))  # starts are in ascending order
        starts, own = starts[:keep], own[:keep]
        own = (own ^ (own >> np.uint64(29))) * _NEXT + hashes[starts + (n - 1)]
        order = own.argsort(kind="stable")
        ordered = own[order]
        same = ordered[1:] == ordered[:-1]
        often = np.zeros(len(ordered), bool)
        often[1:] = same
        often[:-1] |= same
        if not same.any():
            return
        groups, places = ordered[often], starts[order[often]]
        by_place = places.argsort()
        yield n, places, groups
        starts, own = places[by_place], groups[by_place]


def top_share(lengths: np.ndarray, n: int, starts: np.ndarray, groups: np.ndarray) -> float:
    """Share of the words' characters inside the most frequent run of n words. Takes what `repeated_runs` yields."""
    begins = np.concatenate(([0], (groups[1:] != groups[:-1]).nonzero()[0] + 1))
    counts = np.diff(begins, append=len(groups))
    most = int(counts.max())
    best = begins[counts == most]
    ends = np.concatenate(([0], lengths.cumsum()))
    first = starts[best]
    chosen = best[np.argmax(ends[first + n] - ends[first])]
    return covered(lengths, n, starts[chosen : chosen + most])


def covered(lengths: np.ndarray, n: int, starts: np.ndarray) -> float:
    """Share of the words' characters inside the runs of n words that begin at `starts`; each character counts once.

    Example: four words of lengths [1, 1, 1, 1] with runs of n = 2 at [0, 1] cover 3/4.

    lengths: length of each word in characters, [words] int64.
    """
    if not len(starts):
        return 0.0
    edges = np.zeros(len(lengths) + 1, np.int64)
    edges[starts] = 1
    edges[starts + n] -= 1
    return float(lengths[edges[:-1].cumsum() > 0].sum() / lengths.sum())


def _later(starts: np.ndarray, groups: np.ndarray) -> np.ndarray:
    return starts[1:][groups[1:] == groups[:-1]]
