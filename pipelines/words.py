"""Words and lines as the filters count them, the same for every rule set.

A word is a run of non-blank characters; in scripts that set no blanks between words (Chinese, Japanese, Thai, Lao, Khmer, Burmese) each
character is one. So counts of words mean about the same in every language, within a factor of two; word lengths mean something only where
words are set apart.
"""

import re
import unicodedata

_NO_BLANKS = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"
# Vowel signs and tone marks of those scripts belong to the character before them.
_MARKS = "".join(
    c for c in map(chr, [*range(0xE00, 0xF00), *range(0x1000, 0x10A0), *range(0x1780, 0x1800)]) if unicodedata.category(c)[0] == "M"
)
_WORD = re.compile(f"[{_NO_BLANKS}][{_MARKS}]*|[^\\s{_NO_BLANKS}]+")
_UNSPACED = re.compile(f"[{_NO_BLANKS}]")
_LETTER = re.compile(r"[^\W\d_]")

TERMINAL = (
    ".",
    "!",
    "?",
    '"',
    "'",
    "\u201d",
    "\u2019",
    "\u3002",
    "\uff01",
    "\uff1f",
    "\u2026",
    "\u300d",
    "\u300f",
    "\u0964",
    "\u061f",
    "\u06d4",
)


def words(text: str) -> list[str]:
    """The words of a text, in order."""
    return _WORD.findall(text)


def unspaced_share(text: str) -> float:
    """Share of non-blank characters that belong to scripts without blanks between words."""
    solid = len(text) - sum(map(text.count, " \n\t\r"))
    return len(_UNSPACED.findall(text)) / solid if solid else 0.0


def lines(text: str) -> list[str]:
    """Lines that are not blank, stripped."""
    return [stripped for line in text.split("\n") if (stripped := line.strip())]


def has_letter(word: str) -> bool:
    """True if any character is a letter of any script."""
    return _LETTER.search(word) is not None
