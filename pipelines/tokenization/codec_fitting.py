"""Beam transforms that fit the parts of a vocabulary to sampled documents and measure them: codecs and SentencePiece.

A codec has a closed form in three sums. Sums are of integers, so the result does not depend on the order of the
documents or the number of workers.
"""

import apache_beam as beam
import numpy as np
from apache_beam.pvalue import AsSingleton

from castor.pipelines.tokenization import samples
from castor.pipelines.tokenization.funnel_sink import write_pairs
from castor.pipelines.tokenization.samples import SampleRow
from castor.tasks.storage import storage
from castor.tasks.vocabulary import audio, codec_fit, codecs, psnr, sentencepieces, streams

_PATCHES = {"image": (streams.IMAGE_PATCH, 0.0, 1.0), "audio": (streams.AUDIO_PATCH, audio.FLOOR_DB, audio.STEP_DB)}
_MOST_MILLIDECIBELS = 100_000  # for an array without any error


class TrainSentencePiece(beam.PTransform):
    """Rows -> one SentencePiece model (bytes), also written to `path`.

    The library trains in one process, so the sample is bounded to `most_bytes` of text.
    """

    def __init__(self, pieces: int, most_bytes: int, path: str):
        super().__init__(label="pieces")
        self._arguments = pieces, most_bytes, path

    def expand(self, rows):
        return rows | "all" >> beam.combiners.ToList() | "train" >> beam.Map(_train, *self._arguments)


class FitCodec(beam.PTransform):
    """Rows -> a tuple of one PatchCodec for `kind` ("image" or "audio"), also written to `path`.

    The tuple is empty if the sample has no data of this kind.
    """

    def __init__(self, kind: str, num_codes: int, path: str):
        super().__init__(label=f"{kind} codec")
        self._kind = kind
        self._num_codes = num_codes
        self._path = path

    def expand(self, rows):
        patch, low, step = _PATCHES[self._kind]
        state = rows.pipeline | "begin" >> beam.Create([codec_fit.Fitting(patch, self._num_codes, low, step)])
        for number in range(codec_fit.Fitting.PASSES):
            total = (
                rows
                | f"measure {number}" >> beam.FlatMap(_measure, self._kind, AsSingleton(state))
                | f"sum {number}" >> beam.CombineGlobally(_Sum())
            )
            state = state | f"advance {number}" >> beam.Map(_advance, AsSingleton(total))
        return state | "save" >> beam.Map(_save_codec, self._path)


class MeasureCodec(beam.PTransform):
    """(rows, codec) -> `path`: sums of squared error by corpus and by held-out or fitted documents."""

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
        return sums | "all" >> beam.combiners.ToList() | "write" >> beam.Map(write_pairs, self._path)


class MeasureSentencePiece(beam.PTransform):
    """(rows, model) -> `path`: documents, characters, UTF-8 bytes and tokens of the sample by corpus."""

    def __init__(self, path: str):
        super().__init__(label="piece quality")
        self._path = path

    def expand(self, inputs):
        rows, model = inputs
        sums = rows | "tokens" >> beam.Map(_tokens, AsSingleton(model)) | "sum" >> beam.CombinePerKey(_SumTuples())
        return sums | "all" >> beam.combiners.ToList() | "write" >> beam.Map(write_pairs, self._path)


class _Sum(beam.CombineFn):
    """Adds up the measures of a fit."""

    def create_accumulator(self):
        return ()

    def add_input(self, accumulator, measure):
        return codec_fit.Fitting.merge([accumulator, measure])

    def merge_accumulators(self, accumulators):
        return codec_fit.Fitting.merge(list(accumulators))

    def extract_output(self, accumulator):
        return accumulator


class _SumTuples(beam.CombineFn):
    """Adds up tuples of integers element by element."""

    def create_accumulator(self):
        return ()

    def add_input(self, accumulator, values):
        return self.merge_accumulators([accumulator, values])

    def merge_accumulators(self, accumulators):
        return tuple(map(sum, zip(*(a for a in accumulators if a), strict=True)))

    def extract_output(self, accumulator):
        return accumulator


def _train(rows: list[SampleRow], pieces: int, most_bytes: int, path: str) -> bytes:
    model = sentencepieces.train(samples.training_texts(rows, most_bytes), pieces)
    storage.write_bytes_atomic(path, model)
    return model


def _measure(row: SampleRow, kind: str, state: codec_fit.Fitting | None):
    if state is not None and not row.held_out and row.arrays(kind):
        yield codec_fit.Fitting.merge([state.measure(array) for array in row.sample().arrays(kind)])


def _advance(state, total):
    return state.advance(total) if state is not None and total else None


def _save_codec(codec: codecs.PatchCodec | None, path: str) -> tuple[codecs.PatchCodec, ...]:
    """Saves the codec. Returns a tuple of zero or one codec, because Beam's Flink runner loses a None side input."""
    if codec is None:
        return ()
    codec.save(path)
    return (codec,)


def _errors(row: SampleRow, kind: str, fitted: tuple[codecs.PatchCodec, ...]):
    if not fitted or not row.arrays(kind):
        return
    (codec,) = fitted
    for array in row.sample().arrays(kind):
        # In integer levels of the codec.
        difference = np.rint((array.astype(np.float64) - codec.decode(codec.encode(array))) / codec.step)
        error, elements = int((difference**2).sum()), array.size
        decibels = round(1000 * psnr.psnr_of_error(error, elements)) if error else _MOST_MILLIDECIBELS
        yield (row.corpus, "held_out" if row.held_out else "fitted"), (1, decibels, error, elements)


def _tokens(row: SampleRow, model: bytes):
    text = row.sample().text
    return (row.corpus,), (1, len(text), row.text_bytes, len(sentencepieces.load(model).encode(text)))
