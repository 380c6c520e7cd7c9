"""An index of benchmark passages: which of them a document may hold a copy of, told from a few lookups a page.

Passages are cut into folded tokens (pipelines/text/tokenized_text.py) and stand one after another in one array. Their seeds, short runs of tokens, are in
sorted tables with the places where they occur. A document's runs of the same length meet first a bit map, which turns away nearly all of
a clean page's; what is left is looked up, and passages with several seeds at about the same place, in the same order, are candidates.
Whether a candidate is a copy is for pipelines/decontamination/matching.py to say. This file knows no Beam.

Tokens weigh differently by script: in scripts without blanks a token is one character. So passages are of one of three classes, and every
length in words counts as so many tokens: 1 where words are set apart, 1.6 in Chinese and Japanese, 4 in Thai, Lao, Khmer and Burmese.
"""

import dataclasses
import functools
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from castor.pipelines.decontamination import benchmark_files
from castor.pipelines.decontamination.benchmark_files import Benchmark, Passage
from castor.pipelines.text.tokenized_text import SOLO, TokenizedText, ngrams, tokenize
from castor.tasks.storage import storage

SCALES = (1.0, 1.6, 4.0)
"""Tokens a word, by class of script: words set apart, Chinese and Japanese, South-East Asian. Our own estimate of mean word lengths."""

_FILTER_BITS = 24
_PIECE_TOKENS = 512
_SEEDS_A_SEED, _MOST_NEEDED = (
    14,
    10,
)  # a candidate needs one of so many of its seeds; a run of 13 has 11, a span of 25 with five strangers 10
_BLOCK_TOKENS, _OVERLAP_TOKENS = (
    1 << 16,
    1 << 10,
)  # of a document at a time, so that memory is bounded; a piece fits the overlap


@dataclasses.dataclass(frozen=True)
class Seeds:
    """How candidates are found. Lengths are in words, see SCALES.

    length: of a seed. Three stand where every fourth word is replaced, and of 45 words with three of ten replaced at random five
      seeds or so are whole; runs of two would take most of a language's phrases for candidates.
    evidence: length of the runs by which tokens are judged common (8, the least that GPT-3 used: Brown et al. 2020, arXiv 2005.14165, C).
    max_items: seeds and runs in more items of one file are phrases of the file, such as instructions, and no evidence.
    background: Parquet corpora or text files with ordinary documents; runs in more than `max_documents` of them are common phrases and no
      evidence (10 in GPT-3, which counted in the training set itself).
    """

    length: int = 3
    evidence: int = 8
    max_items: int = 10
    background: tuple[str, ...] = ()
    max_documents: int = 10

    def __post_init__(self):
        object.__setattr__(self, "background", tuple(self.background))


@dataclasses.dataclass(frozen=True)
class Entry:
    """A passage in the index, or a piece of a long one. Tokens `start` to `end` of the index; `script` is its class in SCALES."""

    benchmark: str
    file: str
    number: int
    part: str
    start: int
    end: int
    script: int

    @property
    def item(self) -> str:
        return f"{self.file}/{self.number}"


@dataclasses.dataclass(frozen=True)
class _Table:
    """Seeds of one class of script. `needed`: of each entry, how many of its seeds make it a candidate. Sorted hashes; of hash i, the places
    `places[offsets[i]:offsets[i + 1]]`, first tokens in the index.
    """

    length: int
    needed: np.ndarray
    filter: np.ndarray
    hashes: np.ndarray
    offsets: np.ndarray
    places: np.ndarray


@dataclasses.dataclass(frozen=True)
class Candidate:
    """`entry` may stand in the document with its first token at about token `begin`, shifted by at most `slack` on the way."""

    entry: int
    begin: int
    slack: int
    seeds: int


class Index:
    """Passages to look for.

    entries: passages in order. tokens: their folded hashes, [tokens] uint64. informative: tokens in at least one run that is no common
    phrase, [tokens] bool. words: tokens with a letter, [tokens] bool.
    """

    def __init__(self, passages: Iterable[Passage], seeds: Seeds = Seeds()):
        self.seeds = seeds
        self.entries: list[Entry] = []
        tokens, words, total = [np.zeros(0, np.uint64)], [np.zeros(0, bool)], 0
        for passage in passages:
            tokenized = TokenizedText(passage.text)
            script = script_of(tokenized)
            for begin in range(0, tokenized.num_tokens, _PIECE_TOKENS):
                piece = tokenized.token_hashes[begin : begin + _PIECE_TOKENS]
                self.entries.append(
                    Entry(
                        passage.benchmark, passage.file, passage.number, passage.part, total, total + len(piece), script
                    )
                )
                tokens.append(piece)
                words.append(~tokenized.token_is_number[begin : begin + _PIECE_TOKENS])
                total += len(piece)
        self.tokens, self.words = np.concatenate(tokens), np.concatenate(words)
        self._starts = np.array([e.start for e in self.entries], np.int64)
        self._lengths = np.array([e.end - e.start for e in self.entries], np.int64)
        self._files = _numbered(e.file for e in self.entries)
        self._items = _numbered(e.item for e in self.entries)
        self.informative = np.zeros(total, bool)
        self._tables = [self._table(script, scale) for script, scale in enumerate(SCALES)]

    def candidates(self, tokenized: TokenizedText, min_seeds: int = 2) -> Iterator[Candidate]:
        """Passages of which `min_seeds` seeds, more of long ones, stand in the document near one another and in their order; most seeds first."""
        found = [
            self._candidates(table, runs[at : at + _BLOCK_TOKENS], at, min_seeds)
            for table in self._tables
            if table is not None
            for runs in (tokenized.token_ngrams(table.length),)
            for at in range(0, max(1, len(runs) - _OVERLAP_TOKENS), _BLOCK_TOKENS - _OVERLAP_TOKENS)
        ]
        if not any(len(entries) for entries, *_ in found):
            return
        entries, begins, slacks, counts = (np.concatenate(arrays) for arrays in zip(*found))
        known = set()
        for i in np.lexsort((begins, entries, -counts)):
            candidate = Candidate(int(entries[i]), int(begins[i]), int(slacks[i]), int(counts[i]))
            if (candidate.entry, candidate.begin) not in known:
                known.add((candidate.entry, candidate.begin))
                yield candidate

    def totals(self, min_words: int) -> dict[str, dict[str, Any]]:
        """{file: {benchmark, items, searched}}; searched are items with a passage of at least `min_words` words."""
        totals: dict[str, dict[str, Any]] = {}
        for entry in self.entries:
            total = totals.setdefault(entry.file, {"benchmark": entry.benchmark, "items": set(), "searched": set()})
            total["items"].add(entry.number)
            if entry.end - entry.start >= round(min_words * SCALES[entry.script]):
                total["searched"].add(entry.number)
        return {
            file: {**total, "items": len(total["items"]), "searched": len(total["searched"])}
            for file, total in totals.items()
        }

    def _candidates(self, table: _Table, runs: np.ndarray, offset: int, min_seeds: int):
        at = np.flatnonzero(_passes(table.filter, runs))
        if len(at) >= min_seeds:
            row = np.searchsorted(table.hashes, runs[at])
            same = table.hashes[np.minimum(row, len(table.hashes) - 1)] == runs[at]
            at, row = at[same], row[same]
        if len(at) < min_seeds:
            return _NONE
        # One row for each place in the index that a run of the document stands at.
        counts = table.offsets[row + 1] - table.offsets[row]
        ends = np.cumsum(counts)
        places = table.places[np.arange(ends[-1]) - np.repeat(ends - counts - table.offsets[row], counts)]
        at = np.repeat(at, counts)
        entries = np.searchsorted(self._starts, places, side="right") - 1
        begins = at + offset - (places - self._starts[entries])
        order = np.lexsort((at, begins, entries))
        entries, begins, places = entries[order], begins[order], places[order]
        # Rows of one passage whose beginnings lie close to one another make a cluster.
        slack = 4 + self._lengths[entries] // 8
        new = np.ones(len(entries), bool)
        new[1:] = (entries[1:] != entries[:-1]) | (begins[1:] - begins[:-1] > slack[1:])
        first = np.flatnonzero(new)
        last = np.append(first[1:], len(new)) - 1
        seeds = last - first + 1
        needed = np.maximum(table.needed[entries[first]], min_seeds)
        enough = np.flatnonzero(seeds >= needed)
        distinct = np.array([len(np.unique(places[first[i] : last[i] + 1])) for i in enough], np.int64)
        sure = distinct >= needed[enough]
        enough, distinct = enough[sure], distinct[sure]
        first, last = first[enough], last[enough]
        return entries[first], begins[first], slack[first] + begins[last] - begins[first], distinct

    def _table(self, script: int, scale: float) -> _Table | None:
        mine = [i for i, e in enumerate(self.entries) if e.script == script]
        if not mine:
            return None
        length = round(self.seeds.length * scale)
        places, hashes, entries = self._runs(mine, length)
        common = self._common(hashes, entries)
        hashes, places = hashes[~common], places[~common]
        needed = np.minimum(np.bincount(entries[~common], minlength=len(self.entries)) // _SEEDS_A_SEED, _MOST_NEEDED)
        by_seed = _covered(len(self.tokens), places, length)
        evidence = round(self.seeds.evidence * scale)
        runs_at, runs, runs_of = self._runs(mine, evidence)
        common = self._common(runs, runs_of) | self._frequent(runs, evidence)
        short = _covered(len(self.tokens), *self._short(mine, evidence))
        self.informative |= by_seed & (_covered(len(self.tokens), runs_at[~common], evidence) | short)
        order = np.argsort(hashes, kind="stable")
        unique, offsets = np.unique(hashes[order], return_index=True)
        return _Table(length, needed, _filter_of(unique), unique, np.append(offsets, len(hashes)), places[order])

    def _runs(self, entries: list[int], n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(first tokens, hashes, entries) of all runs of n tokens inside of entries."""
        places, hashes, owners = [np.zeros(0, np.int64)], [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)]
        for i in entries:
            entry = self.entries[i]
            runs = ngrams(self.tokens[entry.start : entry.end], n)
            places.append(np.arange(entry.start, entry.start + len(runs)))
            hashes.append(runs)
            owners.append(np.full(len(runs), i))
        return np.concatenate(places), np.concatenate(hashes), np.concatenate(owners)

    def _short(self, entries: list[int], n: int) -> tuple[np.ndarray, np.ndarray]:
        """(first tokens, lengths) of the entries of fewer than n tokens."""
        short = [self.entries[i] for i in entries if self._lengths[i] < n]
        return np.array([e.start for e in short], np.int64), np.array([e.end - e.start for e in short], np.int64)

    def _common(self, hashes: np.ndarray, entries: np.ndarray) -> np.ndarray:
        """True for runs that stand in more than `max_items` items of one file."""
        unique, which = np.unique(hashes, return_inverse=True)
        pairs = np.unique(np.stack([which, self._items[entries], self._files[entries]]), axis=1)
        in_file, counts = np.unique(pairs[[0, 2]], axis=1, return_counts=True)
        common = np.zeros(len(unique), bool)
        common[in_file[0][counts > self.seeds.max_items]] = True
        return common[which]

    def _frequent(self, hashes: np.ndarray, n: int) -> np.ndarray:
        """True for runs that stand in more than `max_documents` documents of the background."""
        if not self.seeds.background:
            return np.zeros(len(hashes), bool)
        unique, which = np.unique(hashes, return_inverse=True)
        counts = np.zeros(len(unique), np.int64)
        for text in background_texts(self.seeds.background):
            runs = np.unique(tokenize(text).token_ngrams(n))
            row = np.searchsorted(unique, runs)
            row = row[unique[np.minimum(row, len(unique) - 1)] == runs] if len(unique) else row[:0]
            counts[row] += 1
        return (counts > self.seeds.max_documents)[which]


_NONE = tuple(np.zeros(0, np.int64) for _ in range(4))


@functools.cache
def load(root: str, benchmarks: tuple[Benchmark, ...], seeds: Seeds) -> Index:
    """The index of the benchmarks in a folder, built once a process."""
    return Index(
        (p for b in benchmarks for path in benchmark_files.paths(root, b) for p in benchmark_files.read(path, b)), seeds
    )


def background_texts(paths: tuple[str, ...]) -> Iterator[str]:
    """The documents of corpora (folders of Parquet files with a column `text`), and plain text files, each one document."""
    import pyarrow.parquet

    for path in paths:
        if not storage.is_directory(path):
            yield storage.read_bytes(path).decode("utf-8", "replace")
            continue
        for name in parquet_files(path):
            with storage.open_read(storage.join(path, name)) as file:
                for batch in pyarrow.parquet.ParquetFile(file).iter_batches(
                    batch_size=256, columns=["text"], use_threads=False
                ):
                    yield from (text for text in batch.column(0).to_pylist() if text)


def parquet_files(directory: str) -> list[str]:
    """Names of the Parquet files in a folder, in order."""
    return sorted(name for name in storage.list_files(directory) if name.endswith(".parquet"))


def script_of(tokenized: TokenizedText) -> int:
    """The class of script of a text, an index of SCALES: that of most of its letters."""
    if tokenized.share_of(SOLO) <= 0.5:
        return 0
    solo = tokenized.codes[(tokenized.kinds & SOLO) != 0]
    return 2 if 2 * np.count_nonzero(solo < 0x1800) > len(solo) else 1


def _numbered(names: Iterable[str]) -> np.ndarray:
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in names], np.int64)


def _covered(count: int, starts: np.ndarray, lengths: int | np.ndarray) -> np.ndarray:
    """True for the elements of [count] that lie in any of the intervals."""
    edges = np.zeros(count + 1, np.int64)
    np.add.at(edges, starts, 1)
    np.add.at(edges, starts + lengths, -1)
    return np.cumsum(edges[:-1]) > 0


def _filter_of(hashes: np.ndarray) -> np.ndarray:
    bits = np.zeros(1 << _FILTER_BITS, np.uint8)
    bits[hashes >> np.uint64(64 - _FILTER_BITS)] = 1
    return np.packbits(bits, bitorder="little")


def _passes(packed: np.ndarray, hashes: np.ndarray) -> np.ndarray:
    """Whether the bit of each hash is set, [hashes] uint8: 0 means that the hash is not in the table."""
    bits = (hashes >> np.uint64(64 - _FILTER_BITS)).astype(np.uint32)
    return (packed[bits >> np.uint32(3)] >> (bits & np.uint32(7)).astype(np.uint8)) & np.uint8(1)
