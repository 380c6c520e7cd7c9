"""The transform of C4's deduplication of lines: chooses one page per shared line (shared_lines.py).

Documents are edited without a shuffle of their own: rows name the lines that a page owns, and the sink applies the
rows when it writes the page. 32 bytes per line of the corpus are shuffled. A combiner keeps only the smallest id per
line, so a line that half of the web has does not become a hot key.
"""

import apache_beam as beam

from castor.pipelines.deduplication.rules import KEY_BYTES
from castor.pipelines.deduplication.shared_lines import SharedLines
from castor.pipelines.document import Document

_PAIR = tuple[bytes, bytes]
_GONE = b"-"


class OwnLines(beam.PTransform):
    """(elements, removal rows, ...) -> (owner's id, line key), 16 bytes each, for every line of the kept pages."""

    def __init__(self, rule: SharedLines):
        super().__init__(label="lines")
        self._rule = rule

    def expand(self, inputs):
        elements, *removals = inputs
        pages = [elements | "keys" >> beam.FlatMap(_page, self._rule).with_output_types(_PAIR)]
        pages += [rows | f"gone {i}" >> beam.FlatMap(_gone).with_output_types(_PAIR) for i, rows in enumerate(removals)]
        return (
            pages
            | "all" >> beam.Flatten()
            | "by page" >> beam.GroupByKey()
            | "lines" >> beam.FlatMap(_lines).with_output_types(_PAIR)
            | "owner" >> beam.CombinePerKey(min)
            | "turn" >> beam.Map(_turned).with_output_types(_PAIR)
        )


def _page(element, rule):
    if isinstance(element, Document) and element.text:
        yield bytes.fromhex(element.id), b"".join(rule.keys(element.text))


def _gone(row):
    if len(row) < 4 or not row[3]:  # a removed document, not a survivor
        yield bytes.fromhex(row[0]), _GONE


def _lines(page):
    identifier, contents = page
    keys: set[bytes] = set()
    for content in contents:
        if content == _GONE:
            return
        keys.update(content[i : i + KEY_BYTES] for i in range(0, len(content), KEY_BYTES))
    for key in sorted(keys):
        yield key, identifier


def _turned(pair):
    return pair[1], pair[0]
