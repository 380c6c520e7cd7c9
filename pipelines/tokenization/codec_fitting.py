"""The Beam half of the vocabulary job: the draw, the closed-form fit of a codec in three sums, and the measures taken with what came out.

Only rows (`samplings.Row`, a hundred bytes a document) move between stages; the samples themselves lie in files of the staging folder.
Sums are of integers, so neither order nor number of workers shows in the result.
"""

from collections.abc import Iterable

import apache_beam as beam
import numpy as np
from apache_beam.pvalue import AsSingleton

from castor.pipelines.core import dead_letters
from castor.pipelines.core.funnel import Funnel
from castor.pipelines.core.stages import Read, Source, read_counts
from castor.pipelines.document import DeadLetter, Document, Element, Rejection
from castor.pipelines.tokenization import samples
from castor.pipelines.tokenization.samples import Row
from castor.tasks.storage import storage
from castor.tasks.vocabulary import audio, codecs, sentencepieces, streams

_PATCHES = {"image": (streams.IMAGE_PATCH, 0.0, 1.0), "audio": (streams.AUDIO_PATCH, audio.FLOOR_DB, audio.STEP_DB)}
_MOST_MILLIDECIBELS = 100_000  # what an array without any error counts as


class DrawFrom(beam.PTransform):
    """Pipeline -> elements of one source (a corpus, or pages): the `count` documents of the draw, a Rejection for each other one."""

    def __init__(self, index: int, source: Source, count: int):
        super().__init__(label=f"draw {index}")
        self._index = index
        self._source = source
        self._count = count

    def expand(self, root):
        drawn = (
            root
            | "shards" >> beam.Create(self._source.files(), reshuffle=False)
            | "spread" >> beam.Reshuffle()
            | "places" >> beam.Map(_places, self._source, self._count)
            | "smallest" >> beam.CombineGlobally(_Smallest(self._count))
        )
        return root | Read(self._source) | "choose" >> beam.Map(samples.Draw(self._index), AsSingleton(drawn))


class Account(beam.PTransform):
    """Elements -> nothing: the fate of every record goes into `funnel.json` under `staging`, dead letters beside it."""

    def __init__(self, staging: str):
        super().__init__(label="account")
        self._staging = staging

    def expand(self, elements):
        reads = [
            counts | f"read {i}" >> beam.MapTuple(_read_fate) for i, counts in enumerate(read_counts(elements.pipeline))
        ]
        fates = [elements | "fates" >> beam.Map(_fate), *reads] | beam.Flatten() | "count" >> beam.CombinePerKey(sum)
        _ = (
            fates
            | "all fates" >> beam.combiners.ToList()
            | "funnel" >> beam.Map(_write_pairs, storage.join(self._staging, "funnel.json"))
        )
        letters = elements | "dead" >> beam.Filter(_is_dead) | "all dead" >> beam.combiners.ToList()
        return letters | "letters" >> beam.Map(_write_letters, self._staging)


class Keep(beam.PTransform):
    """Prepared elements -> their rows. Samples go to files under `staging`."""

    def __init__(self, staging: str):
        super().__init__(label="keep")
        self._staging = staging

    def expand(self, elements):
        return (
            elements
            | "rows" >> beam.FlatMap(_keep, storage.join(self._staging, "samples"))
            | "spread" >> beam.Reshuffle()
        )


class TrainPieces(beam.PTransform):
    """Rows -> one SentencePiece model (bytes), which also goes to `path`. The library trains in one process: the sample is bounded."""

    def __init__(self, pieces: int, most_bytes: int, path: str):
        super().__init__(label="pieces")
        self._arguments = pieces, most_bytes, path

    def expand(self, rows):
        return rows | "all" >> beam.combiners.ToList() | "train" >> beam.Map(_train, *self._arguments)


class FitCodec(beam.PTransform):
    """Rows -> a tuple of one PatchCodec for "image" or "audio", empty where the sample has no such data; the codec also goes to `path`."""

    def __init__(self, kind: str, num_codes: int, path: str):
        super().__init__(label=f"{kind} codec")
        self._kind = kind
        self._num_codes = num_codes
        self._path = path

    def expand(self, rows):
        patch, low, step = _PATCHES[self._kind]
        state = rows.pipeline | "begin" >> beam.Create([codecs.Fitting(patch, self._num_codes, low, step)])
        for number in range(codecs.Fitting.PASSES):
            total = (
                rows
                | f"measure {number}" >> beam.FlatMap(_measure, self._kind, AsSingleton(state))
                | f"sum {number}" >> beam.CombineGlobally(_Sum())
            )
            state = state | f"advance {number}" >> beam.Map(_advance, AsSingleton(total))
        return state | "save" >> beam.Map(_save_codec, self._path)


class MeasureCodec(beam.PTransform):
    """(rows, codec) -> `path`: sums of error by corpus and by whether the codec was fitted on the document."""

    def __init__(self, kind: str, path: str):
        super().__init__(label=f"{kind} quality")
        self._kind = kind
        self._path = path

    def expand(self, inputs):
        rows, codec = inputs
        sums = (
            rows
            | "errors" >> beam.FlatMap(_errors, self._kind, AsSingleton(codec))
            | "sum" >> beam.CombinePerKey(_SumTuples())
        )
        return sums | "all" >> beam.combiners.ToList() | "write" >> beam.Map(_write_pairs, self._path)


class MeasurePieces(beam.PTransform):
    """(rows, model) -> `path`: documents, characters, UTF-8 bytes and tokens of the sample by corpus."""

    def __init__(self, path: str):
        super().__init__(label="piece quality")
        self._path = path

    def expand(self, inputs):
        rows, model = inputs
        sums = rows | "tokens" >> beam.Map(_tokens, AsSingleton(model)) | "sum" >> beam.CombinePerKey(_SumTuples())
        return sums | "all" >> beam.combiners.ToList() | "write" >> beam.Map(_write_pairs, self._path)


def read_funnel(staging: str) -> Funnel:
    """What `Account` wrote."""
    funnel = Funnel()
    for (fate, reason), count in storage.read_json(storage.join(staging, "funnel.json")):
        if fate in ("read", "kept"):
            setattr(funnel, fate, count)
        else:
            (funnel.rejected if fate == "rejected" else funnel.dead_letters)[reason] = count
    return funnel


class _Smallest(beam.CombineFn):
    """The `count` smallest integers, ascending, of lists of integers."""

    def __init__(self, count: int):
        self._count = count

    def create_accumulator(self):
        return []

    def add_input(self, accumulator, places):
        return samples.smallest([*accumulator, *places], self._count)

    def merge_accumulators(self, accumulators):
        return samples.smallest((place for places in accumulators for place in places), self._count)

    def extract_output(self, accumulator):
        return accumulator


class _Sum(beam.CombineFn):
    """Measures of a fit, added up."""

    def create_accumulator(self):
        return ()

    def add_input(self, accumulator, measure):
        return codecs.Fitting.merge([accumulator, measure])

    def merge_accumulators(self, accumulators):
        return codecs.Fitting.merge(list(accumulators))

    def extract_output(self, accumulator):
        return accumulator


class _SumTuples(beam.CombineFn):
    """Tuples of integers, added up place by place."""

    def create_accumulator(self):
        return ()

    def add_input(self, accumulator, values):
        return self.merge_accumulators([accumulator, values])

    def merge_accumulators(self, accumulators):
        return tuple(map(sum, zip(*(a for a in accumulators if a), strict=True)))

    def extract_output(self, accumulator):
        return accumulator


def _places(uri: str, source, count: int) -> list[int]:
    return samples.places_in(source, uri, count)


def _keep(element: Element, folder: str) -> Iterable[Row]:
    if isinstance(element, Document):
        yield samples.keep(element, folder)


def _fate(element: Element) -> tuple[tuple[str, str], int]:
    if isinstance(element, Document):
        return ("kept", ""), 1
    if isinstance(element, Rejection):
        return ("rejected", element.reason), 1
    return ("dead", f"{element.stage}.{element.error}"), 1


def _read_fate(_: str, count: int) -> tuple[tuple[str, str], int]:
    return ("read", ""), count


def _is_dead(element: Element) -> bool:
    return isinstance(element, DeadLetter)


def _write_letters(letters: list, staging: str) -> None:
    storage.makedirs(storage.join(staging, dead_letters.FOLDER))
    storage.write_bytes_atomic(storage.join(staging, dead_letters.file_name(0, 1)), dead_letters.encode(letters))


def _write_pairs(pairs: list, path: str) -> None:
    storage.write_json_atomic(path, sorted([list(key), values] for key, values in pairs))


def _train(rows: list[Row], pieces: int, most_bytes: int, path: str) -> bytes:
    model = sentencepieces.train(samples.training_texts(rows, most_bytes), pieces)
    storage.write_bytes_atomic(path, model)
    return model


def _measure(row: Row, kind: str, state: codecs.Fitting | None):
    if state is not None and not row.held_out and row.arrays(kind):
        yield codecs.Fitting.merge([state.measure(array) for array in row.sample().arrays(kind)])


def _advance(state, total):
    return state.advance(total) if state is not None and total else None


def _save_codec(codec: codecs.PatchCodec | None, path: str) -> tuple[codecs.PatchCodec, ...]:
    """None or one: not every runner carries None to a side input (Beam's Flink runner does not)."""
    if codec is None:
        return ()
    codec.save(path)
    return (codec,)


def _errors(row: Row, kind: str, fitted: tuple[codecs.PatchCodec, ...]):
    if not fitted or not row.arrays(kind):
        return
    (codec,) = fitted
    for array in row.sample().arrays(kind):
        difference = np.rint(
            (array.astype(np.float64) - codec.decode(codec.encode(array))) / codec.step
        )  # in whole levels of the codec
        error, elements = int((difference**2).sum()), array.size
        decibels = round(1000 * codecs.psnr_of_error(error, elements)) if error else _MOST_MILLIDECIBELS
        yield (row.corpus, "held_out" if row.held_out else "fitted"), (1, decibels, error, elements)


def _tokens(row: Row, model: bytes):
    text = row.sample().text
    return (row.corpus,), (1, len(text), row.text_bytes, len(sentencepieces.load(model).encode(text)))
