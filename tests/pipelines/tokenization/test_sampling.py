"""Sampling as Beam transforms: the sampled documents, their ranks, and the rows of stored samples."""

import pathlib

import apache_beam as beam
import pytest
from apache_beam.testing.util import assert_that, equal_to
from small_corpora import write_corpus

from castor.pipelines.corpus.reader import CorpusSource
from castor.pipelines.document import Document, Rejection, document_id
from castor.pipelines.tokenization import samples
from castor.pipelines.tokenization.sampling import SampleDocuments, StoreSamples


def documents(corpus: str, count: int) -> list[Document]:
    return [Document(document_id(corpus, str(n)), f"{corpus}/{n}", "text", f"text {n}") for n in range(count)]


def by_sampling_key(made: list[Document]) -> list[str]:
    return sorted((d.id for d in made), key=samples.sample_key)


@pytest.fixture
def sources(tmp_path) -> list[tuple[CorpusSource, int]]:
    return [
        (CorpusSource(write_corpus(tmp_path / name, name, "text", documents(name, count))), sampled)
        for name, count, sampled in (("a", 20, 5), ("b", 3, 10))
    ]


def describe(element) -> tuple:
    if isinstance(element, Rejection):
        return "rejected", element.document.id, element.reason, element.document.text
    return "sampled", element.id, element.metadata["corpus"], element.metadata["rank"]


def test_each_source_yields_its_smallest_keys_and_rejects_the_rest(sources):
    a, b = by_sampling_key(documents("a", 20)), by_sampling_key(documents("b", 3))
    expected = [("sampled", identifier, 0, rank) for rank, identifier in enumerate(a[:5])]
    expected += [("sampled", identifier, 1, rank) for rank, identifier in enumerate(b)]
    expected += [("rejected", identifier, samples.NOT_SAMPLED, None) for identifier in a[5:]]
    with beam.Pipeline() as pipeline:
        elements, counts = pipeline | SampleDocuments(sources)
        total = counts | beam.Values() | beam.CombineGlobally(sum)
        assert_that(elements | beam.Map(describe), equal_to(expected), "elements")
        assert_that(total, equal_to([23]), "counts")


def test_samples_are_stored_and_rejections_have_no_row(tmp_path):
    prepare = samples.PrepareSample(4, 16, 16, 1.0)
    made = [d.replace(metadata={"corpus": 7, "rank": n}) for n, d in enumerate(documents("a", 3))]
    elements = [prepare(d) for d in made] + [Rejection(documents("b", 1)[0], samples.NOT_SAMPLED)]
    expected = [(n, 7, "text", 4, d.id) for n, d in enumerate(made)]
    with beam.Pipeline() as pipeline:
        rows = pipeline | beam.Create(elements) | StoreSamples(str(tmp_path))
        assert_that(rows | beam.Map(describe_row), equal_to(expected))


def describe_row(row: samples.SampleRow) -> tuple:
    return row.rank, row.corpus, row.sample().text, row.text_bytes, pathlib.Path(row.file).name.partition("-")[2]
