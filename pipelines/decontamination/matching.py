"""Finds copies of benchmark passages in a document: exact, re-cased, re-punctuated, or with words changed.

A candidate of the index is compared token by token with the document at the candidate's position. If no token was
added or removed, the comparison runs along one diagonal; otherwise it uses the longest common subsequence. A span is
a sequence of equal tokens with few strangers (other tokens) between them. The measures of a passage are

    run        the tokens of the longest run of equal tokens
    span       the equal tokens of the longest span; gaps have at most `max_gap` strangers on either side
    coverage   the share of the passage's tokens in its spans
    ngrams     the share of the passage's 8-grams in its spans

A passage is a copy if any of five rules holds, tried in this order:

    ngram      a run of 13 words (Brown et al. 2020, arXiv 2005.14165, appendix C; 8 to 13 there)
    whole      a whole passage of fewer than 13 words; passages of fewer than 8 words are too common to look for
    short      80% of a passage of fewer than 13 words, at least 8 words; not for answers, because short lines of code
               are alike in all code
    coverage   70% of the 8-grams (Chowdhery et al. 2022, arXiv 2204.02311, section 8)
    span       60% of the tokens, or a span of 20 words with at most 20% strangers, which is the gap budget of Touvron
               et al. 2023, arXiv 2307.09288, section A.6. Singh et al. 2024, arXiv 2411.03923, find the longest span
               the best measure

Tokens of common phrases (benchmark_index.Seeds) do not count. Under every rule, the equal tokens must contain seven
different words with letters; otherwise a row of page numbers would be a copy of any list. Lengths are in words; in
scripts without spaces, benchmark_index.SCALES converts words to tokens. Pure functions of arrays; no Beam.
"""

import dataclasses

import numpy as np

from castor.pipelines.decontamination.benchmark_index import SCALES, Entry, Index
from castor.pipelines.text.tokenized_text import TokenizedText

ANSWERS = ("answer", "plain")


@dataclasses.dataclass(frozen=True)
class Thresholds:
    """When a passage counts as copied; the module docstring explains the rules. Lengths are in words.

    ngram: run of the rule `ngram`; 0 turns the rule off.
    coverage_ngram, coverage: n-gram length and share of the rule `coverage`.
    min_words: shorter passages are not searched.
    short: share of the rule `short`.
    span, max_strangers, reworded: span, share of strangers and share of tokens of the rule `span`; span 0 turns the
      span off.
    max_gap: strangers between equal tokens of one span.
    different_words: different words with letters among the equal tokens.
    max_candidates: passages compared per document, those with the most seeds first. A page that contains a whole test
      set is found with far fewer.
    """

    ngram: int = 13
    coverage_ngram: int = 8
    coverage: float = 0.7
    min_words: int = 8
    short: float = 0.8
    span: int = 20
    max_strangers: float = 0.2
    reworded: float = 0.6
    max_gap: int = 4
    different_words: int = 7
    max_candidates: int = 5000


@dataclasses.dataclass(frozen=True)
class Match:
    """A copy of a passage in a document.

    entry: the passage.
    kind: the rule that holds.
    run, span, coverage, ngrams: the measures, see the module docstring.
    begin, end: offsets into the document's text, in characters.
    """

    entry: Entry
    kind: str
    run: int
    span: int
    coverage: float
    ngrams: float
    begin: int
    end: int


def find(tokenized: TokenizedText, index: Index, limits: Thresholds = Thresholds()) -> list[Match]:
    """The copies of passages in a document, in order of position."""
    matches = []
    for count, candidate in enumerate(index.candidates(tokenized)):
        if count >= limits.max_candidates:
            break
        match = compare(tokenized, index, index.entries[candidate.entry], candidate.begin, candidate.slack, limits)
        if match is not None:
            matches.append(match)
    return sorted(_strongest(matches), key=_position)


def _strongest(matches: list[Match]) -> list[Match]:
    """The strongest of overlapping matches of one file.

    Items made from one template resemble each other, but only one of them was copied.
    """
    kept: list[Match] = []
    taken: dict[str, list[tuple[int, int, int]]] = {}
    for match in sorted(matches, key=_strength):
        mine = taken.setdefault(match.entry.file, [])
        begins, ends, numbers = np.array(mine, np.int64).reshape(-1, 3).T
        overlaps = np.minimum(ends, match.end) - np.maximum(begins, match.begin)
        if overlaps[(numbers != match.entry.number) & (overlaps > 0)].sum() <= 0.5 * (match.end - match.begin):
            mine.append((match.begin, match.end, match.entry.number))
            kept.append(match)
    return kept


def compare(
    tokenized: TokenizedText, index: Index, entry: Entry, begin: int, slack: int, limits: Thresholds
) -> Match | None:
    """The copy of `entry` that begins within `slack` tokens of token `begin` of the document, or None."""
    scale = SCALES[entry.script]
    passage = index.tokens[entry.start : entry.end]
    length = len(passage)
    informative = index.informative[entry.start : entry.end]
    weight = np.count_nonzero(informative)
    if length < round(limits.min_words * scale) or not weight:
        return None
    low, high = max(0, begin - slack), min(tokenized.num_tokens, begin + length + slack)
    window = tokenized.token_hashes[low:high]
    if not _possible(np.isin(passage, window, kind="sort"), informative, weight, limits, scale):
        return None
    if np.array_equal(passage, tokenized.token_hashes[begin : begin + length]):
        ours, theirs = np.arange(length), np.arange(length) + begin - low
    else:
        ours, theirs = _align(passage, window)
    gap = round(limits.max_gap * scale)
    ours, theirs = _without_strays(ours, theirs, gap)
    if not len(ours):
        return None
    breaks = np.flatnonzero((np.diff(ours) > gap + 1) | (np.diff(theirs) > gap + 1)) + 1
    first, last = np.concatenate(([0], breaks)), np.append(breaks, len(ours)) - 1
    spans = np.add.reduceat(informative[ours].astype(np.int64), first)
    best = int(np.argmax(spans))
    a, b = first[best], last[best] + 1
    strangers = 1 - (b - a) / max(ours[b - 1] - ours[a] + 1, theirs[b - 1] - theirs[a] + 1)
    runs = np.flatnonzero((np.diff(ours) > 1) | (np.diff(theirs) > 1)) + 1
    run_first, run_last = np.concatenate(([0], runs)), np.append(runs, len(ours))
    n = round(limits.coverage_ngram * scale)
    in_runs = np.add.reduceat(informative[ours].astype(np.int64), run_first)
    ngrams = float(np.maximum(in_runs - n + 1, 0).sum() / max(1, weight - n + 1))
    coverage = float(np.count_nonzero(informative[ours]) / weight)
    if _words_of(index, entry, ours) < round(limits.different_words * scale):
        return None
    kind = ""
    if limits.ngram and _has_run(index, entry, ours, run_first, run_last, in_runs, limits, scale):
        kind = "ngram"
    elif length < round(limits.ngram * scale):
        near = entry.part not in ANSWERS and len(ours) >= max(limits.short * length, round(limits.min_words * scale))
        kind = "whole" if len(ours) == length and len(run_first) == 1 else "short" if near else ""
    elif ngrams >= limits.coverage:
        kind = "coverage"
    elif coverage >= limits.reworded or _is_span(int(spans[best]), strangers, limits, scale):
        kind = "span"
    if not kind:
        return None
    begin, end = tokenized.token_starts[low + theirs[a]], tokenized.token_ends[low + theirs[b - 1]]
    return Match(
        entry, kind, int(in_runs.max()), int(spans[best]), round(coverage, 4), round(ngrams, 4), int(begin), int(end)
    )


def _is_span(span: int, strangers: float, limits: Thresholds, scale: float) -> bool:
    return bool(limits.span) and span >= round(limits.span * scale) and strangers <= limits.max_strangers


def _possible(known: np.ndarray, informative: np.ndarray, weight: int, limits: Thresholds, scale: float) -> bool:
    """False if no rule can hold in any order of tokens when the document has only the `known` tokens of a passage."""
    ngram, span = round(limits.ngram * scale), round(limits.span * scale)
    if ngram and _densest(known, ngram) >= min(ngram, len(known)):
        return True
    known = known & informative
    if np.count_nonzero(known) >= min(limits.reworded, limits.coverage) * weight:
        return True
    return bool(span) and _densest(known, int(span / (1 - limits.max_strangers))) >= span


def _densest(marks: np.ndarray, width: int) -> int:
    """The largest number of marks in a window of `width`."""
    sums = np.concatenate(([0], np.cumsum(marks)))
    return int((sums[width:] - sums[:-width]).max()) if len(marks) > width else int(sums[-1])


def _has_run(index: Index, entry: Entry, ours, first, last, lengths, limits: Thresholds, scale: float) -> bool:
    """True if any run is long enough and has enough different words."""
    long = np.flatnonzero(lengths >= round(limits.ngram * scale))
    return any(_words_of(index, entry, ours[first[i] : last[i]]) >= round(limits.different_words * scale) for i in long)


def _words_of(index: Index, entry: Entry, ours: np.ndarray) -> int:
    """The number of different words with letters among the tokens `ours` of a passage."""
    at = entry.start + ours
    return len(np.unique(index.tokens[at][index.words[at]]))


def _align(passage: np.ndarray, window: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ascending indices, in both arrays, of a longest common subsequence; of several, the one that ends first."""
    equal = passage[:, None] == window[None, :]
    lengths = np.zeros((len(passage) + 1, len(window) + 1), np.int16)
    for i in range(len(passage)):
        np.maximum(lengths[i, 1:], lengths[i, :-1] + equal[i], out=lengths[i + 1, 1:])
        np.maximum.accumulate(lengths[i + 1], out=lengths[i + 1])
    ours, theirs = [], []
    i, j = len(passage), int(np.argmax(lengths[-1]))
    while i and j:
        here = lengths[i, j]
        if lengths[i - 1, j] == here:
            i -= 1
        elif lengths[i, j - 1] == here:
            j -= 1
        else:
            i, j = i - 1, j - 1
            ours.append(i)
            theirs.append(j)
    return np.array(ours[::-1], np.int64), np.array(theirs[::-1], np.int64)


def _without_strays(ours: np.ndarray, theirs: np.ndarray, gap: int) -> tuple[np.ndarray, np.ndarray]:
    """Drops tokens with a gap on both sides: a single common word in the window is not part of a copy."""
    if len(ours) < 2:
        return ours[:0], theirs[:0]
    wide = (np.diff(ours) > gap + 1) | (np.diff(theirs) > gap + 1)
    alone = np.append(wide, True) & np.concatenate(([True], wide))
    return ours[~alone], theirs[~alone]


def _strength(match: Match) -> tuple:
    return -match.span * match.coverage, match.entry.number, match.entry.part, match.begin


def _position(match: Match) -> tuple[int, int, str, int, str]:
    return match.begin, match.end, match.entry.file, match.entry.number, match.entry.part
