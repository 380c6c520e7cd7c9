"""Rules of The Stack and StarCoder for source files.

Kocetkov et al. 2022, arXiv 2211.15533, and Li et al. 2023, arXiv 2305.06161, section 3.

Lengths are in characters; lines are those of `str.splitlines`. Where the public code leaves a choice:

- Shares of letters and digits are taken over all characters of the file, whitespace included, as published. The Unicode
  category decides what a letter or digit is.
- The line and character limits come from StarCoder's table by file extension (`visual_inspection.csv`), made by
  inspecting 1,000 files per extension. The table lifts, tightens or adds limits and excludes extensions. Files with an
  extension that the table lacks are dropped there; here they get the general limits of 1,000, 100 and 0.25.
- XML is recognized by `<?xml version=` in the first 100 characters and rejected in every language except XSLT.
- The visible text of HTML is the text outside of tags, scripts and styles, with runs of whitespace collapsed to one
  space. The published code keeps whitespace as it is.

The share of comments is SantaCoder's rule (filters/santacoder.py).
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

# From the published table: excluded extensions, most of them data, generated or meaningless.
EXCLUDED = (
    "al", "aux", "bison", "cats", "cdf", "cl2", "csx", "dpr", "f77", "frg", "frx", "geo", "grt", "ihlp", "ltx", "nbp",
    "pck", "ph", "pls", "plx",
    "rest", "rkt", "rktd", "rktl", "sexp", "sig", "sthlp", "tab", "toc", "vhf", "vht", "vrx", "w", "wlt", "xrl", "yy",
)  # fmt: skip
# From the published table: extensions without a limit on line length (0), or with a different one.
LINE_LIMITS = (
    *((extension, 0) for extension in (
        "ado", "asm", "bbx", "bib", "bsv", "cbx", "cmake", "do", "dtx", "frm", "ins", "json", "lbx", "ma", "markdown",
        "matlab", "md", "mkd", "mkdn",
        "mkii", "mkiv", "mkvi", "nb", "r", "rmd", "ron", "rst", "sql", "sty", "tex",
    )),
    ("fsh", 500),
)  # fmt: skip
# From the published table: minimum share of letters for extensions that often hold data.
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
    """Rejects source files by the published thresholds.

    min_characters and the rejection of bidirectional controls are Castor's own. Such controls display code in another
    order than it runs (CVE-2021-42574).

    min_characters: minimum length of the stripped text.

    max_line, max_mean_line: maximum and maximum mean length of the lines.

    min_alphanumeric: minimum share of letters and digits.

    excluded: excluded extensions, in lower case, without the dot.

    line_limits: extension -> limit that replaces `max_line`; 0 lifts both limits on lines. Pairs or a mapping.

    letters: extension -> minimum share of letters. Pairs or a mapping.

    any_alphanumeric: extensions that `min_alphanumeric` does not apply to.

    min_lines, max_lines: bounds of the number of lines; 0 is off. NeMo Curator uses 10 and 20,000, StarCoder2 at most
        100,000.

    xml_languages: languages that may be XML.

    data_languages: languages whose length must be between `min_data_characters` and `max_data_characters`.

    min_visible_html, min_visible_html_characters: share and number of visible characters that HTML must exceed.

    unwanted_languages: languages that are always rejected.
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
        # Maximum line length of 1,000 and mean line length of 100 characters, or the table's limits.
        if limit and max(lengths) > limit:
            return Reason("stack.long_line", max(lengths))
        if limit and sum(lengths) > self.max_mean_line * len(lengths):
            return Reason("stack.long_lines", sum(lengths) / len(lengths))
        if len(lengths) < self.min_lines or 0 < self.max_lines < len(lengths):
            return Reason("stack.lines", len(lengths))
        return None

    def _characters(self, text: str, extension: str) -> Reason | None:
        kinds = tokenize(text).kinds
        # At least 25 % alphanumeric characters, or the table's limits.
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
        # "<?xml version=" "within the first 100 characters of the file"
        if language not in self.xml_languages and "<?xml version=" in text[:100]:
            return Reason("stack.xml", language)
        # JSON and YAML: StarCoder keeps files of limited length, since most of them are data.
        if language in self.data_languages and not self.min_data_characters <= len(text) <= self.max_data_characters:
            return Reason("stack.data_size", len(text))
        # "the visible text makes up at least 20% of the HTML code and has a minimum length of 100 characters"
        if language == "html":
            visible = len(" ".join(_TAGS.sub(" ", text).split()))
            if visible <= self.min_visible_html_characters or visible <= self.min_visible_html * len(text):
                return Reason("stack.little_visible_text", f"{visible} of {len(text)} characters")
        return None


def _extension(path: str) -> str:
    name = path.rpartition("/")[2].lower()
    return name.rpartition(".")[2] if "." in name[1:] else ""
