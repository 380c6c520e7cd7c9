"""Rules of The Stack and StarCoder for source files: Kocetkov et al. 2022, arXiv 2211.15533; Li et al. 2023, arXiv 2305.06161, section 3.

Lengths are in characters, lines as `str.splitlines` has them. Semantics where public code leaves a choice:

- Shares of letters and digits are over all characters of the file, blanks too, as published; a character counts by its Unicode category.
- The line and character limits are those of the table by file extension that was made for StarCoder from a look at 1,000 files of each
  (`visual_inspection.csv`): limits that it lifts, tightens or adds, and extensions that it leaves out. The table drops what it does not know;
  here that gets the general limits of 1,000, 100 and 0.25.
- XML is told by `<?xml version=` in the first 100 characters and turned away in every language but XSLT.
- The visible text of HTML is what stands outside of tags, scripts and styles, with runs of blanks as one (published: blanks as they are).

The share of comments is SantaCoder's (filters/santacoder.py).
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import ClassVar

import numpy as np

import gin
from castor.pipelines.document import Document
from castor.pipelines.filters.reason import Reason
from castor.pipelines.text.tokenized_text import DIGIT, LETTER, tokenize

_TAGS = re.compile(
    r"(?is)<script\b.*?(?:</script\s*>|\Z)|<style\b.*?(?:</style\s*>|\Z)|<!--.*?(?:-->|\Z)|<[^<>]{0,5000}>"
)
_BIDI = re.compile("[\u202a-\u202e\u2066-\u2069]")

# From the published table. Extensions left out, most as data, generated or meaningless.
EXCLUDED = (
    "al", "aux", "bison", "cats", "cdf", "cl2", "csx", "dpr", "f77", "frg", "frx", "geo", "grt", "ihlp", "ltx", "nbp", "pck", "ph", "pls", "plx",
    "rest", "rkt", "rktd", "rktl", "sexp", "sig", "sthlp", "tab", "toc", "vhf", "vht", "vrx", "w", "wlt", "xrl", "yy",
)  # fmt: skip
# Extensions without a limit on lines (0), or with another.
LINE_LIMITS = (
    *((extension, 0) for extension in (
        "ado", "asm", "bbx", "bib", "bsv", "cbx", "cmake", "do", "dtx", "frm", "ins", "json", "lbx", "ma", "markdown", "matlab", "md", "mkd", "mkdn",
        "mkii", "mkiv", "mkvi", "nb", "r", "rmd", "ron", "rst", "sql", "sty", "tex",
    )),
    ("fsh", 500),
)  # fmt: skip
# Extensions with a least share of letters, most of them since data hides behind them.
LETTERS = (
    *((extension, 0.25) for extension in (
        "ads", "aug", "bas", "fp", "ma", "matlab", "mpl", "nb", "prc", "scm", "sld", "sps", "sv", "vhd", "wl", "y",
    )),
    ("json", 0.5), ("yaml", 0.5), ("yml", 0.5),
)  # fmt: skip
ANY_ALPHANUMERIC = ("frm", "ma", "nb", "sas")


@gin.configurable(module="stack")
@dataclasses.dataclass(frozen=True)
class Filter:
    """Published thresholds. Our own are min_characters and the refusal of bidirectional controls, which show other code than runs (CVE-2021-42574).

    excluded, line_limits, letters, any_alphanumeric: the table by extension (lower case, no dot); pairs or a mapping where they carry a value.
    min_lines, max_lines: off (0); NeMo Curator takes 10 and 20,000, StarCoder2 at most 100,000.
    """

    min_characters: int = 10
    max_line: int = 1000
    max_mean_line: float = 100.0
    min_alphanumeric: float = 0.25
    excluded: tuple[str, ...] = EXCLUDED
    line_limits: Mapping[str, int] | tuple[tuple[str, int], ...] = LINE_LIMITS
    letters: Mapping[str, float] | tuple[tuple[str, float], ...] = LETTERS
    any_alphanumeric: tuple[str, ...] = ANY_ALPHANUMERIC
    min_lines: int = 0
    max_lines: int = 0
    xml_languages: tuple[str, ...] = ("xsl",)
    data_languages: tuple[str, ...] = ("json", "yaml")
    min_data_characters: int = 100
    max_data_characters: int = 5000
    min_visible_html: float = 0.2
    min_visible_html_characters: int = 100
    unwanted_languages: tuple[str, ...] = ("csv", "tsv", "svg", "jsonl")

    name: ClassVar[str] = "stack"

    def check(self, document: Document) -> str | None:
        text, language = document.text, document.metadata.get("language", "")
        extension = _extension(document.metadata.get("path", ""))
        if language in self.unwanted_languages:
            return Reason("stack.data", language)
        if extension in self.excluded:
            return Reason("stack.extension", extension)
        if len(text.strip()) < self.min_characters:
            return Reason("stack.short", len(text.strip()))
        if _BIDI.search(text):
            return Reason("stack.bidi_controls", f"U+{ord(_BIDI.search(text).group()):04X}")
        return self._lines(text, extension) or self._characters(text, extension) or self._data(text, language)

    def _lines(self, text: str, extension: str) -> Reason | None:
        lengths = [len(line) for line in text.splitlines()]
        limit = dict(self.line_limits).get(extension, self.max_line)
        if limit and max(lengths) > limit:
            return Reason("stack.long_line", max(lengths))
        if limit and sum(lengths) > self.max_mean_line * len(lengths):
            return Reason("stack.long_lines", sum(lengths) / len(lengths))
        if len(lengths) < self.min_lines or 0 < self.max_lines < len(lengths):
            return Reason("stack.lines", len(lengths))
        return None

    def _characters(self, text: str, extension: str) -> Reason | None:
        kinds = tokenize(text).kinds
        share = np.count_nonzero(kinds & (LETTER | DIGIT)) / len(text)
        if share < self.min_alphanumeric and extension not in self.any_alphanumeric:
            return Reason("stack.few_alphanumeric", share)
        least = dict(self.letters).get(extension)
        if least is not None:
            share = np.count_nonzero(kinds & LETTER) / len(text)
            if share < least:
                return Reason("stack.few_letters", share)
        return None

    def _data(self, text: str, language: str) -> Reason | None:
        if language not in self.xml_languages and "<?xml version=" in text[:100]:
            return Reason("stack.xml", language)
        if language in self.data_languages and not self.min_data_characters <= len(text) <= self.max_data_characters:
            return Reason("stack.data_size", len(text))
        if language == "html":
            visible = len(" ".join(_TAGS.sub(" ", text).split()))
            if visible <= self.min_visible_html_characters or visible <= self.min_visible_html * len(text):
                return Reason("stack.little_visible_text", f"{visible} of {len(text)} characters")
        return None


def _extension(path: str) -> str:
    name = path.rpartition("/")[2].lower()
    return name.rpartition(".")[2] if "." in name[1:] else ""
