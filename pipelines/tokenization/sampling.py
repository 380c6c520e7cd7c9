"""Beam transforms for deterministic sampling: the documents with the smallest hashed ids of each source (samples.py).

Only rows (`samples.SampleRow`, about a hundred bytes per document) move between stages. The samples themselves are
files in the staging folder.
"""

from collections.abc import Iterable, Sequence

import apache_beam as beam
from apache_beam.pvalue import AsSingleton

from castor.pipelines.core.stages import Read, Source
from castor.pipelines.document import Document, Element
from castor.pipelines.tokenization import samples
from castor.pipelines.tokenization.samples import SampleRow
from castor.tasks.storage import storage


class SampleDocuments(beam.PTransform):
    """Pipeline -> (elements, counts) of all sources.

    sources: (source, number of documents to sample from it).

    Elements are the sampled documents, and a Rejection for every other document. Counts are those of Read.
    """

    def __init__(self, sources: Sequence[tuple[Source, int]]):
        super().__init__(label="sample")
        self._sources = tuple(sources)

    def expand(self, root):
        sampled, counts = [], []
        for index, (source, count) in enumerate(self._sources):
            smallest = (
                root
                | f"files {index}" >> beam.Create(source.files(), reshuffle=False)
                | f"spread {index}" >> beam.Reshuffle()
                | f"keys {index}" >> beam.Map(_keys, source, count)
                | f"smallest {index}" >> beam.CombineGlobally(_Smallest(count))
            )
            elements, read = root | f"read {index}" >> Read(source)
            sampled.append(elements | f"select {index}" >> beam.Map(samples.SelectSample(index), AsSingleton(smallest)))
            counts.append(read)
        return sampled | "elements" >> beam.Flatten(), counts | "counts" >> beam.Flatten()


class StoreSamples(beam.PTransform):
    """Prepared elements -> their rows. Writes the samples to files under `staging`."""

    def __init__(self, staging: str):
        super().__init__(label="store")
        self._staging = staging

    def expand(self, elements):
        return (
            elements
            | "rows" >> beam.FlatMap(_store, storage.join(self._staging, "samples"))
            | "spread" >> beam.Reshuffle()
        )


class _Smallest(beam.CombineFn):
    """Combines lists of integers to the `count` smallest, ascending."""

    def __init__(self, count: int):
        self._count = count

    def create_accumulator(self):
        return []

    def add_input(self, accumulator, keys):
        return samples.smallest([*accumulator, *keys], self._count)

    def merge_accumulators(self, accumulators):
        return samples.smallest((key for keys in accumulators for key in keys), self._count)

    def extract_output(self, accumulator):
        return accumulator


def _keys(uri: str, source, count: int) -> list[int]:
    return samples.smallest_keys(source, uri, count)


def _store(element: Element, folder: str) -> Iterable[SampleRow]:
    if isinstance(element, Document):
        yield samples.store(element, folder)
