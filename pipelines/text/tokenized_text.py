"""Tokenized text, the basis of all rules, signatures and indexes: offsets and hashes of words, tokens, lines,
paragraphs.

    tokenized = tokenize(text)                    # cached: rules that ask for the same text in turn share one object
    tokenized.word_ends - tokenized.word_starts   # lengths of the words, [words] int64
    tokenized.token_ngrams(5)                     # hashes of the runs of five tokens, [tokens - 4] uint64

words       runs of non-whitespace characters. In scripts without spaces between words (Chinese, Japanese, Thai, Lao,
Khmer, Burmese) each character with its marks. So word counts are comparable between languages within a factor of two
tokens      words without case, accents and punctuation: runs of letters and digits, folded. `Cafe's` and `CAFÉS` are
the same token. In scripts without spaces each letter is a token. For comparing texts, not for counting words lines
non-empty lines, stripped paragraphs  runs of lines without an empty line between them

Example: "Hello, big\\nworld" has the words `Hello,`, `big`, `world`, the tokens hello, big, world, two lines and one
paragraph.

All results are arrays over the text's code points, computed on first use in a fixed number of passes, without a loop
over words and without strings.

The hash of a span is a polynomial of its mixed code points modulo 2**64, taken from prefix sums and mixed once more. An
adversary can make two spans collide, since the modulus is public and even; that only harms the adversary's own pages.
Signatures and indexes on disk consist of these hashes, so golden vectors in tests/pipelines/text/test_tokenized_text.py
pin them.

A tokenized text takes about 60 bytes per character while in use. This file knows no Beam.
"""

import functools
import unicodedata
from collections.abc import Iterable, Mapping

import numpy as np

from castor.tasks.hashing import mix64

VERSION = 1

SPACE, LETTER, DIGIT, SOLO, MARK, UPPER = 1, 2, 4, 8, 16, 32
"""Bits of a character's kind. SOLO: of a script without spaces between words. MARK: part of the previous SOLO one."""

# A combining mark of a script with spaces between words (a vowel sign of Hindi): part of a token, but not a letter.
_SIGN = 128
# Neither part of a token nor a break in one: accents, vowel points, apostrophes, soft hyphens, joiners.
_TRANSPARENT = 64
_IN_TOKEN = LETTER | DIGIT | MARK | _SIGN
_BASE = 0x9E3779B97F4A7C15
_INVERSE = pow(_BASE, -1, 1 << 64)
_SOLO_RANGES = (
    (0x0E00, 0x0F00),  # Thai, Lao
    (0x1000, 0x10A0),  # Burmese
    (0x1780, 0x1800),  # Khmer
    (0x3040, 0x3100),  # kana
    (0x3400, 0x4DC0),
    (0x4E00, 0xA000),
    (0xF900, 0xFB00),  # Chinese characters
    (0xFF66, 0xFFA0),
    (0x20000, 0x40000),
)
_MARKED_RANGES = _SOLO_RANGES[:3]
_TRANSPARENT_CODES = (
    *range(0x0300, 0x0370),  # combining accents
    *range(0x0591, 0x05C8),  # Hebrew points
    *range(0x064B, 0x0660),  # Arabic vowel signs
    0x0670,
    0x0640,  # Arabic tatweel
    *(ord(c) for c in "'\u2019\u02bc\uff07\u00ad\u200b\u200c\u200d\u2060\ufeff"),
)
_CODES = 0x110000


class TokenizedText:
    """One tokenized text.

    Arrays are read-only by convention. Starts and ends are int64 offsets into the text; ends are exclusive.
    """

    def __init__(self, text: str):
        self.text = text

    @functools.cached_property
    def codes(self) -> np.ndarray:
        """Code points, [characters] uint32."""
        return np.frombuffer(self.text.encode("utf-32-le", "surrogatepass"), dtype="<u4")

    @functools.cached_property
    def kinds(self) -> np.ndarray:
        """Kinds (SPACE, LETTER, ...), [characters] uint8."""
        if self.text.isascii():
            return np.frombuffer(self.text.encode().translate(_kinds_of_ascii()), np.uint8)
        return _kinds()[self.codes]

    # Words.

    @functools.cached_property
    def _word_spans(self) -> tuple[np.ndarray, np.ndarray]:
        kinds = self.kinds
        space, solo = (kinds & SPACE) != 0, (kinds & SOLO) != 0
        other = ~(space | solo)
        begins = other.copy()
        begins[1:] &= ~other[:-1]
        begins_solo = solo.copy()
        begins_solo[1:] &= ~(((kinds[1:] & MARK) != 0) & solo[:-1])
        begins |= begins_solo
        ends = ~space
        ends[:-1] &= space[1:] | begins[1:]
        return np.flatnonzero(begins), np.flatnonzero(ends) + 1

    @property
    def word_starts(self) -> np.ndarray:
        return self._word_spans[0]

    @property
    def word_ends(self) -> np.ndarray:
        return self._word_spans[1]

    @property
    def num_words(self) -> int:
        return len(self._word_spans[0])

    @functools.cached_property
    def word_hashes(self) -> np.ndarray:
        """Hashes of the unnormalized words, [words] uint64."""
        return self.span_hashes(self.word_starts, self.word_ends)

    def share_of(self, kind: int) -> float:
        """Share of the non-whitespace characters that are of a kind; 0 for a text without any."""
        solid = len(self.kinds) - np.count_nonzero(self.kinds & SPACE)
        return np.count_nonzero(self.kinds & kind) / solid if solid else 0.0

    @property
    def unspaced_share(self) -> float:
        """Share of the non-whitespace characters in scripts without spaces between words."""
        return self.share_of(SOLO)

    # Lines and paragraphs.

    @functools.cached_property
    def _line_spans(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        solid = np.flatnonzero((self.kinds & SPACE) == 0)
        before = np.concatenate(([0], np.searchsorted(solid, np.flatnonzero(self.codes == 10)), [len(solid)]))
        number = np.flatnonzero(np.diff(before))  # indexes of the non-empty lines
        return solid[before[number]], solid[before[number + 1] - 1] + 1, number

    @property
    def line_starts(self) -> np.ndarray:
        return self._line_spans[0]

    @property
    def line_ends(self) -> np.ndarray:
        return self._line_spans[1]

    @property
    def num_lines(self) -> int:
        return len(self._line_spans[0])

    @functools.cached_property
    def line_hashes(self) -> np.ndarray:
        """Hashes of the unnormalized, stripped lines, [lines] uint64."""
        return self.span_hashes(self.line_starts, self.line_ends)

    def line(self, index: int) -> str:
        """One line, stripped."""
        return self.text[self.line_starts[index] : self.line_ends[index]]

    def joined(self, keep: np.ndarray, corrected: Mapping[int, str] | None = None) -> str:
        """The selected lines as text, with an empty line between paragraphs.

        keep: lines to select, [lines] bool.

        corrected: index of a line -> text that replaces it.
        """
        corrected = corrected or {}
        starts, ends, number = self._line_spans
        paragraph = np.cumsum(np.diff(number, prepend=number[:1]) > 1)
        parts, previous = [], None
        for i in np.flatnonzero(keep).tolist():
            if parts:
                parts.append("\n" if paragraph[i] == previous else "\n\n")
            parts.append(corrected[i] if i in corrected else self.text[starts[i] : ends[i]])
            previous = paragraph[i]
        return "".join(parts)

    @functools.cached_property
    def words_before_line(self) -> np.ndarray:
        """Number of words before each line, and in total, [lines + 1] int64. `np.diff` gives the number of words per
        line.
        """
        return np.append(np.searchsorted(self.word_starts, self.line_starts), self.num_words)

    @functools.cached_property
    def _paragraph_spans(self) -> tuple[np.ndarray, np.ndarray]:
        starts, ends, number = self._line_spans
        if not len(starts):
            return starts, ends
        gaps = np.flatnonzero(np.diff(number) > 1)
        return starts[np.concatenate(([0], gaps + 1))], ends[np.concatenate((gaps, [len(ends) - 1]))]

    @property
    def paragraph_starts(self) -> np.ndarray:
        return self._paragraph_spans[0]

    @property
    def paragraph_ends(self) -> np.ndarray:
        return self._paragraph_spans[1]

    @functools.cached_property
    def paragraph_hashes(self) -> np.ndarray:
        """Hashes of the unnormalized paragraphs, [paragraphs] uint64."""
        return self.span_hashes(self.paragraph_starts, self.paragraph_ends)

    # Tokens.

    @functools.cached_property
    def _tokens(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        kinds = self.kinds
        kept = np.flatnonzero(((kinds & _IN_TOKEN) != 0) & ((kinds & _TRANSPARENT) == 0))
        if not len(kept):
            empty = np.zeros(0, np.int64)
            return empty, empty, np.zeros(0, np.uint64), np.zeros(0, bool)
        between = np.cumsum((kinds & (_IN_TOKEN | _TRANSPARENT)) == 0)[kept]
        own = kinds[kept]
        solo = (own & SOLO) != 0
        begins = np.ones(len(kept), bool)
        begins[1:] = (between[1:] != between[:-1]) | ((solo[1:] | solo[:-1]) & ~(((own[1:] & MARK) != 0) & solo[:-1]))
        first = np.flatnonzero(begins)
        last = np.append(first[1:], len(kept))
        hashes = _span_hashes(_prefix(_folds()[self.codes[kept]]), first, last)
        letters = np.concatenate(([0], np.cumsum((own & LETTER) != 0)))
        return kept[first], kept[last - 1] + 1, hashes, letters[last] == letters[first]

    @property
    def token_starts(self) -> np.ndarray:
        return self._tokens[0]

    @property
    def token_ends(self) -> np.ndarray:
        return self._tokens[1]

    @property
    def num_tokens(self) -> int:
        return len(self._tokens[0])

    @property
    def token_hashes(self) -> np.ndarray:
        """Hashes of the folded tokens, [tokens] uint64; `hash_tokens` gives those of known words."""
        return self._tokens[2]

    @property
    def token_is_number(self) -> np.ndarray:
        """True for tokens without a letter, [tokens] bool."""
        return self._tokens[3]

    def token_ngrams(self, n: int) -> np.ndarray:
        """Hashes of all runs of n tokens, [max(0, tokens - n + 1)] uint64."""
        return ngrams(self.token_hashes, n)

    # Any span.

    def span_hashes(self, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """Hashes of unnormalized spans of the text, [spans] uint64; equal for equal strings."""
        return _span_hashes(self._sums, starts, ends)

    @functools.cached_property
    def _sums(self) -> np.ndarray:
        return _prefix(self.codes)


@functools.lru_cache(maxsize=2)
def tokenize(text: str) -> TokenizedText:
    """Tokenizes a text. The last two results are cached, so that consecutive rules of a job share one."""
    return TokenizedText(text)


def ngrams(hashes: np.ndarray, n: int) -> np.ndarray:
    """Hashes of all runs of n consecutive hashes, [max(0, len - n + 1)] uint64.

    For n = 1 the hashes are mixed too, so that runs of different n do not collide.

    Raises ValueError for n < 1.
    """
    if n < 1:
        raise ValueError(f"n is {n}; n must be at least 1")
    count = len(hashes) - n + 1
    if count <= 0:
        return np.zeros(0, np.uint64)
    total = np.full(count, n, np.uint64)
    for i in range(n):
        total = total * np.uint64(_BASE) + hashes[i : i + count]
    return mix64(total)


def hash_tokens(tokens: Iterable[str]) -> np.ndarray:
    """The hashes that `token_hashes` has for these words, [words] uint64.

    Raises ValueError for a word that is not exactly one token.
    """
    hashes = []
    for token in tokens:
        found = TokenizedText(token).token_hashes
        if len(found) != 1:
            raise ValueError(f"{token!r} is {len(found)} tokens, not one")
        hashes.append(found[0])
    return np.array(hashes, np.uint64)


def _prefix(codes: np.ndarray) -> np.ndarray:
    sums = np.zeros(len(codes) + 1, np.uint64)
    np.cumsum(mix64(codes) * _powers(_BASE, len(codes)), out=sums[1:])
    return sums


def _span_hashes(sums: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    return mix64((sums[ends] - sums[starts]) * _powers(_INVERSE, len(sums))[starts])


_POWERS: dict[int, np.ndarray] = {}


def _powers(base: int, count: int) -> np.ndarray:
    """base**0, base**1, ... modulo 2**64. Cached up to a bound, so that one huge text does not stay in memory."""
    have = _POWERS.get(base)
    if have is None or len(have) < count:
        size = max(1 << 14, 1 << (count - 1).bit_length())
        have = np.full(size, base, np.uint64)
        have[0] = 1
        have = np.multiply.accumulate(have)
        if size <= 1 << 20:
            _POWERS[base] = have
    return have[:count]


@functools.cache
def _kinds() -> np.ndarray:
    """Kind of every code point, [0x110000] uint8."""
    categories = {
        "Lu": LETTER | UPPER, "Ll": LETTER, "Lt": LETTER | UPPER, "Lm": LETTER, "Lo": LETTER,
        "Nd": DIGIT, "Nl": DIGIT, "No": DIGIT,
        "Mn": _SIGN, "Mc": _SIGN, "Me": _SIGN,
    }  # fmt: skip
    kinds = np.zeros(_CODES, np.uint8)
    # All code points except ranges set below at once, private use, and empty planes.
    for code in (
        *range(0x3400),
        *range(0x4DC0, 0x4E00),
        *range(0xA000, 0xAC00),
        *range(0xD7A4, 0xE000),
        *range(0xF900, 0x20000),
        *range(0xE0000, 0xE0200),
    ):
        character = chr(code)
        kind = categories.get(unicodedata.category(character), 0)
        if character.isspace():
            kind |= SPACE
        kinds[code] = kind
    kinds[0x3400:0x4DC0] = kinds[0x4E00:0xA000] = kinds[0xAC00:0xD7A4] = kinds[0x20000:0x32000] = LETTER
    for begin, end in _SOLO_RANGES:
        kinds[begin:end] |= SOLO
    for begin, end in _MARKED_RANGES:
        for code in range(begin, end):
            if unicodedata.category(chr(code))[0] == "M":
                kinds[code] = SOLO | MARK
    kinds[list(_TRANSPARENT_CODES)] |= _TRANSPARENT
    return kinds


@functools.cache
def _kinds_of_ascii() -> bytes:
    """Kinds of the code points below 256, for bytes.translate."""
    return _kinds()[:256].tobytes()


@functools.cache
def _folds() -> np.ndarray:
    """The code point that replaces each code point in a token, [0x110000] uint32.

    Letters become lower case without accents; compatibility forms and digits become plain ones. Example: `É` becomes
    `e`.
    """
    folds = np.arange(_CODES, dtype=np.uint32)
    for begin, end in (
        (0x41, 0x3400),
        (0xA640, 0xAC00),
        (0xF900, 0x10000),
        (0x10400, 0x10600),
        (0x16E40, 0x16EA0),
        (0x1D400, 0x1D800),
        (0x1E900, 0x1E960),
    ):
        for code in range(begin, end):
            character = chr(code)
            digit = unicodedata.digit(character, None)
            if digit is not None:
                folds[code] = ord("0") + digit
                continue
            plain = unicodedata.normalize("NFKD", character.lower())
            base = "".join(c for c in unicodedata.normalize("NFKD", plain.lower()) if not 0x300 <= ord(c) < 0x370)
            if len(base) == 1:
                folds[code] = ord(base)
    return folds
