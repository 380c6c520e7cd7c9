"""The sink of jobs that do not write a corpus: the funnel of all records, and the dead letters through the commit."""

import apache_beam as beam

from castor.pipelines.core import dead_letters
from castor.pipelines.core.funnel import Funnel
from castor.pipelines.document import DeadLetter, Document, Rejection, document_id
from castor.pipelines.tokenization.funnel_sink import WriteFunnel, read_funnel, replace_output_letters


def document(n: int) -> Document:
    return Document(document_id("c", str(n)), f"c/{n}", "text", "a text")


LETTERS = [DeadLetter(document_id("c", f"dead {n}"), f"c/dead {n}", "decode", "truncated", "no end") for n in range(2)]
ELEMENTS = [
    *map(document, range(3)),
    Rejection(document(3), "length.short"),
    Rejection(document(4), "page.empty"),
    *LETTERS,
]


def write(staging, elements, counts) -> Funnel:
    with beam.Pipeline() as pipeline:
        made = pipeline | "elements" >> beam.Create(elements), pipeline | "counts" >> beam.Create(counts)
        _ = made | WriteFunnel(str(staging))
    return read_funnel(str(staging))


def test_the_funnel_counts_every_outcome(tmp_path):
    funnel = write(tmp_path, ELEMENTS, [("file a", 4), ("file b", 3)])
    rejected = {"length.short": 1, "page.empty": 1}
    assert funnel == Funnel(7, 3, rejected=rejected, dead_letters={"decode.truncated": 2})
    assert funnel.adds_up
    assert list(dead_letters.read(str(tmp_path))) == sorted(LETTERS, key=lambda letter: letter.id)


def test_a_lost_record_shows_in_the_funnel(tmp_path):
    assert not write(tmp_path, ELEMENTS[1:], [("file a", 4), ("file b", 3)]).adds_up


def test_a_commit_replaces_the_dead_letters_and_removes_the_manifest(tmp_path):
    first, second, output = tmp_path / "first", tmp_path / "second", tmp_path / "output"
    output.mkdir()
    replace_output_letters(str(first), str(output), write(first, ELEMENTS, [("file", 7)]))
    assert len(list(dead_letters.read(str(output)))) == 2
    (output / "manifest.json").write_text("{}")
    replace_output_letters(str(second), str(output), write(second, ELEMENTS[:1], [("file", 1)]))
    assert not (output / dead_letters.FOLDER).exists() and not (output / "manifest.json").exists()
