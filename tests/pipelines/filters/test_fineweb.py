"""FineWeb's own rules."""

import pytest
from prose import GOOD, document

from castor.pipelines.filters import fineweb

SENTENCE = GOOD.split("\n")[0]


@pytest.mark.parametrize(
    ("reason", "measure", "text"),
    [
        ("empty", "", " \n "),
        ("terminal_lines", "0.1", "\n".join([SENTENCE, *(f"{SENTENCE[:-1]} {i}" for i in range(9))])),
        ("short_lines", "0.9", "\n".join([SENTENCE] + [f"Item {i}." for i in range(9)])),
        ("repeated_lines", "0.1482", GOOD + "\n" + SENTENCE),
        ("newlines", "0.45", "\n".join(f"Supercalifragilistic expialidocious{i}." for i in range(10))),
    ],
)
def test_rules(reason, measure, text):
    found = fineweb.Filter(short_line=30 if reason != "newlines" else 5).check(document(text))
    assert (found, found.measure) == (f"fineweb.{reason}", measure)


def test_thirty_chinese_characters_are_no_short_line():
    lines = "\n".join(f"\u7b2c{i}\u7ae0\u8bb2\u8ff0\u4e86\u8bfb\u8005\u548c\u4e66\u7c4d\u3002" for i in range(10))
    assert fineweb.Filter().check(document(lines, "zh")) is None
    assert fineweb.Filter(max_unspaced_for_length=1.0).check(document(lines, "zh")) == "fineweb.short_lines"


@pytest.mark.parametrize("mark", [*"\u3002\uff01\uff1f\u0964\u061f\u06d4\u17d4\u104b\u0589\u2026\u300d\u00bb\u201d"])
def test_every_script_has_its_own_full_stop(mark):
    text = "\n".join(line.removesuffix(".") + mark for line in GOOD.split("\n"))
    assert fineweb.Filter().check(document(text)) is None
