"""An index of benchmark passages: finds candidates for copies in a document with a few lookups per page.

Passages are split into folded tokens (pipelines/text/tokenized_text.py) and stored one after another in one array.
Seeds are short runs of tokens; sorted tables map each seed to its positions. The document's runs of the same length
first pass a bit map, which rejects nearly all runs of a clean page. The rest is looked up. A passage is a candidate
if several of its seeds occur close to each other and in the same order. pipelines/decontamination/matching.py decides
whether a candidate is a copy. No Beam.

In scripts without spaces between words, a token is one character. Lengths in words are therefore converted to tokens
by class of script: 1 token per word in scripts with spaces, 1.6 in Chinese and Japanese, 4 in Thai, Lao, Khmer and
Burmese.
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
"""Tokens per word by class of script: with spaces; Chinese and Japanese; South-East Asian.

The values are our own estimates of mean word lengths.
"""

_FILTER_BITS = 24
_PIECE_TOKENS = 512
# A candidate needs one of every 14 of its seeds, at most 10: a run of 13 has 11 seeds, a span of 25 with 5 others 10.
_SEEDS_PER_NEEDED, _MOST_NEEDED = 14, 10
# A document is searched in overlapping blocks, so that memory is bounded. A piece is shorter than the overlap.
_BLOCK_TOKENS, _OVERLAP_TOKENS = 1 << 16, 1 << 10


@dataclasses.dataclass(frozen=True)
class Seeds:
    """How candidates are found. Lengths are in words, see SCALES.

    length: words per seed. Runs of three survive if every fourth word is replaced. Of 45 words with 30% replaced at
      random, about five seeds stay intact. Runs of two would make most phrases of a language candidates.
    evidence: words per run for the detection of common phrases (8, the smallest value in GPT-3: Brown et al. 2020,
      arXiv 2005.14165, appendix C).
    max_items: seeds and runs in more items of one file are phrases of the file, such as instructions, and are
      ignored.
    background: Parquet corpora or text files with ordinary documents.
    max_documents: runs in more documents of the background are common phrases and are ignored (10 in GPT-3, counted
      in the training set itself).
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
    """A passage in the index, or a piece of a long passage.

    benchmark, file, number, part: see benchmark_files.Passage.
    start, end: range of its tokens in the index.
    script: its class of script, an index of SCALES.
    """

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
    """Seeds of one class of script.

    length: tokens per seed.
    needed: for each entry, the number of seeds that makes it a candidate.
    filter: bit map of the hashes, see `_passes`.
    hashes: sorted, distinct hashes of seeds.
    offsets, positions: the seed with hash i begins at the index tokens `positions[offsets[i]:offsets[i + 1]]`.
    """

    length: int
    needed: np.ndarray
    filter: np.ndarray
    hashes: np.ndarray
    offsets: np.ndarray
    positions: np.ndarray


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A possible copy of a passage in a document.

    entry: index of the passage.
    begin: approximate document token of the passage's first token.
    slack: largest shift, in tokens.
    seeds: number of distinct seeds found.
    """

    entry: int
    begin: int
    slack: int
    seeds: int


class Index:
    """The passages to look for.

    entries: the passages in order.
    tokens: hashes of their folded tokens, [tokens] uint64.
    informative: tokens in at least one run that is not a common phrase, [tokens] bool.
    words: tokens with a letter, [tokens] bool.
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
        """Candidates in a document, most seeds first.

        tokenized: the document.
        min_seeds: seeds that must occur close to each other and in order; long passages need more.
        """
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
        """{file: {benchmark, items, searched}}: numbers of items, and of items with a passage of `min_words` words."""
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
        # One row for each position in the index of each run of the document.
        counts = table.offsets[row + 1] - table.offsets[row]
        ends = np.cumsum(counts)
        positions = table.positions[np.arange(ends[-1]) - np.repeat(ends - counts - table.offsets[row], counts)]
        at = np.repeat(at, counts)
        entries = np.searchsorted(self._starts, positions, side="right") - 1
        begins = at + offset - (positions - self._starts[entries])
        order = np.lexsort((at, begins, entries))
        entries, begins, positions = entries[order], begins[order], positions[order]
        # Rows of one passage with close beginnings form a cluster.
        slack = 4 + self._lengths[entries] // 8
        new = np.ones(len(entries), bool)
        new[1:] = (entries[1:] != entries[:-1]) | (begins[1:] - begins[:-1] > slack[1:])
        first = np.flatnonzero(new)
        last = np.append(first[1:], len(new)) - 1
        seeds = last - first + 1
        needed = np.maximum(table.needed[entries[first]], min_seeds)
        enough = np.flatnonzero(seeds >= needed)
        distinct = np.array([len(np.unique(positions[first[i] : last[i] + 1])) for i in enough], np.int64)
        sure = distinct >= needed[enough]
        enough, distinct = enough[sure], distinct[sure]
        first, last = first[enough], last[enough]
        return entries[first], begins[first], slack[first] + begins[last] - begins[first], distinct

    def _table(self, script: int, scale: float) -> _Table | None:
        mine = [i for i, e in enumerate(self.entries) if e.script == script]
        if not mine:
            return None
        length = round(self.seeds.length * scale)
        positions, hashes, entries = self._runs(mine, length)
        common = self._common(hashes, entries)
        hashes, positions = hashes[~common], positions[~common]
        needed = np.minimum(
            np.bincount(entries[~common], minlength=len(self.entries)) // _SEEDS_PER_NEEDED, _MOST_NEEDED
        )
        by_seed = _covered(len(self.tokens), positions, length)
        evidence = round(self.seeds.evidence * scale)
        runs_at, runs, runs_of = self._runs(mine, evidence)
        common = self._common(runs, runs_of) | self._frequent(runs, evidence)
        short = _covered(len(self.tokens), *self._short(mine, evidence))
        self.informative |= by_seed & (_covered(len(self.tokens), runs_at[~common], evidence) | short)
        order = np.argsort(hashes, kind="stable")
        unique, offsets = np.unique(hashes[order], return_index=True)
        return _Table(length, needed, _filter_of(unique), unique, np.append(offsets, len(hashes)), positions[order])

    def _runs(self, entries: list[int], n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(first tokens, hashes, entries) of all runs of n tokens within entries."""
        positions, hashes, owners = [np.zeros(0, np.int64)], [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)]
        for i in entries:
            entry = self.entries[i]
            runs = ngrams(self.tokens[entry.start : entry.end], n)
            positions.append(np.arange(entry.start, entry.start + len(runs)))
            hashes.append(runs)
            owners.append(np.full(len(runs), i))
        return np.concatenate(positions), np.concatenate(hashes), np.concatenate(owners)

    def _short(self, entries: list[int], n: int) -> tuple[np.ndarray, np.ndarray]:
        """(first tokens, lengths) of the entries of fewer than n tokens."""
        short = [self.entries[i] for i in entries if self._lengths[i] < n]
        return np.array([e.start for e in short], np.int64), np.array([e.end - e.start for e in short], np.int64)

    def _common(self, hashes: np.ndarray, entries: np.ndarray) -> np.ndarray:
        """True for runs that occur in more than `max_items` items of one file."""
        unique, which = np.unique(hashes, return_inverse=True)
        pairs = np.unique(np.stack([which, self._items[entries], self._files[entries]]), axis=1)
        in_file, counts = np.unique(pairs[[0, 2]], axis=1, return_counts=True)
        common = np.zeros(len(unique), bool)
        common[in_file[0][counts > self.seeds.max_items]] = True
        return common[which]

    def _frequent(self, hashes: np.ndarray, n: int) -> np.ndarray:
        """True for runs that occur in more than `max_documents` documents of the background."""
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
    """The index of the benchmarks under `root`, built once per process."""
    return Index(
        (p for b in benchmarks for path in benchmark_files.paths(root, b) for p in benchmark_files.read(path, b)), seeds
    )


def background_texts(paths: tuple[str, ...]) -> Iterator[str]:
    """The documents of corpora (folders of Parquet files with a column `text`) and of text files (one each)."""
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
    """The class of script of most letters of a text, an index of SCALES."""
    if tokenized.share_of(SOLO) <= 0.5:
        return 0
    solo = tokenized.codes[(tokenized.kinds & SOLO) != 0]
    return 2 if 2 * np.count_nonzero(solo < 0x1800) > len(solo) else 1


def _numbered(names: Iterable[str]) -> np.ndarray:
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in names], np.int64)


def _covered(count: int, starts: np.ndarray, lengths: int | np.ndarray) -> np.ndarray:
    """True for the integers below `count` that are in any of the intervals, [count] bool."""
    edges = np.zeros(count + 1, np.int64)
    np.add.at(edges, starts, 1)
    np.add.at(edges, starts + lengths, -1)
    return np.cumsum(edges[:-1]) > 0


def _filter_of(hashes: np.ndarray) -> np.ndarray:
    bits = np.zeros(1 << _FILTER_BITS, np.uint8)
    bits[hashes >> np.uint64(64 - _FILTER_BITS)] = 1
    return np.packbits(bits, bitorder="little")


def _passes(packed: np.ndarray, hashes: np.ndarray) -> np.ndarray:
    """The bit of each hash, [hashes] uint8; 0 means that the hash is not in the table."""
    bits = (hashes >> np.uint64(64 - _FILTER_BITS)).astype(np.uint32)
    return (packed[bits >> np.uint32(3)] >> (bits & np.uint32(7)).astype(np.uint8)) & np.uint8(1)
