"""Gopher's repetition rules: Rae et al. 2021, arXiv 2112.11446, table A1.

Public codebases count differently; what is counted here:

- Lines and paragraphs are those of pipelines/text/tokenized_text.py, stripped. A duplicate is a second or later occurrence, compared as it stands. Its
  characters are divided by those of all lines or paragraphs.
- Runs of n words, their punctuation left on them, compared as they stand. A character of a word counts once however many runs hold it, and
  blanks do not count, on either side of the fraction.
- Top n-gram: all occurrences of the commonest run; one that occurs once is no repetition. Of equally common ones the longest in characters,
  of those the smallest hash.
- Duplicate n-grams: second and later occurrences. With `first_occurrences` the first counts too, as table A1 may be read.
- In scripts without blanks each character is a word; there runs are `unspaced_factor` times as long, since a word has about two characters.

One sort of all pairs of words, then ever smaller ones: a run of n + 1 can only be repeated where its first n words are.
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
    """Thresholds of the paper, greatest shares in [0, 1]. top_ngram, duplicate_ngram: n -> greatest share of characters."""

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
        if lines > self.max_duplicate_lines:
            return Reason("gopher_repetition.duplicate_lines", lines)
        if characters > self.max_duplicate_line_characters:
            return Reason("gopher_repetition.duplicate_line_characters", characters)
        paragraphs, characters = duplicates(
            tokenized.paragraph_hashes, tokenized.paragraph_ends - tokenized.paragraph_starts
        )
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
            repeated = covered(lengths, n, starts)  # no share of some of these runs is greater
            if n in top and repeated > top[n][1]:
                share = top_share(lengths, n, starts, groups)
                if share > top[n][1]:
                    return Reason(f"gopher_repetition.top_{top[n][0]}_gram", share)
            if n in duplicate and repeated > duplicate[n][1]:
                share = repeated if self.first_occurrences else covered(lengths, n, _later(starts, groups))
                if share > duplicate[n][1]:
                    return Reason(f"gopher_repetition.duplicate_{duplicate[n][0]}_gram", share)
            # Words in a repeated run of n + 1 are in one of n too: where these are few, no longer run can go beyond its threshold.
            if repeated <= min(
                (most for table in (top, duplicate) for m, (_, most) in table.items() if m > n), default=1.0
            ):
                return None
        return None


def duplicates(hashes: np.ndarray, lengths: np.ndarray) -> tuple[float, float]:
    """Shares of the spans, and of their characters, that are second or later occurrences; 0 where there is no span."""
    if len(hashes) < 2:
        return 0.0, 0.0
    first = np.unique(hashes, return_index=True)[1]
    total = int(lengths.sum())
    return (len(hashes) - len(first)) / len(hashes), (total - int(lengths[first].sum())) / total


def repeated_runs(hashes: np.ndarray, longest: int) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """(n, starts, groups) for n = 2 .. longest, while any run of n words occurs more than once.

    starts: where such runs begin, in order of group and in a group of place, [runs] int64. groups: equal for equal runs, ascending, [runs] uint64.
    """
    starts, own = np.arange(len(hashes)), hashes
    for n in range(2, longest + 1):
        keep = int(starts.searchsorted(len(hashes) - n + 1))  # they are in order of place
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
    """Share of the characters of words within the commonest run of n words, from what `repeated_runs` yields."""
    begins = np.concatenate(([0], (groups[1:] != groups[:-1]).nonzero()[0] + 1))
    counts = np.diff(begins, append=len(groups))
    most = int(counts.max())
    best = begins[counts == most]
    ends = np.concatenate(([0], lengths.cumsum()))
    first = starts[best]
    chosen = best[np.argmax(ends[first + n] - ends[first])]
    return covered(lengths, n, starts[chosen : chosen + most])


def covered(lengths: np.ndarray, n: int, starts: np.ndarray) -> float:
    """Share of the characters of words (`lengths`, [words]) within the runs of n words that begin at `starts`; each counts once."""
    if not len(starts):
        return 0.0
    edges = np.zeros(len(lengths) + 1, np.int64)
    edges[starts] = 1
    edges[starts + n] -= 1
    return float(lengths[edges[:-1].cumsum() > 0].sum() / lengths.sum())


def _later(starts: np.ndarray, groups: np.ndarray) -> np.ndarray:
    return starts[1:][groups[1:] == groups[:-1]]
