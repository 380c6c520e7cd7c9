"""The vocabulary job: a deterministic sample of all corpora -> SentencePiece model, image codec, audio codec.

    castor data vocabulary --gin.CORPORA='["corpora/web", "corpora/image"]' --gin.OUTPUT='"vocabulary"'

Image codes are fitted to the pictures of image corpora and the frames of video, audio codes to recordings and the
sound of video. A kind of data that no corpus contains gets no codes. The manifest and the console report tokens per
character and reconstruction PSNR, measured on documents that the codecs were not fitted to if there are any.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import gin
from castor.pipelines.core.sandbox import Sandbox
from castor.pipelines.corpus.layout import MANIFEST
from castor.pipelines.corpus.reader import CorpusSource, load_manifest
from castor.pipelines.execution.job import BaseJob, check_funnel
from castor.pipelines.tokenization import vocabulary_report
from castor.pipelines.tokenization.samples import PrepareSample
from castor.tasks.errors import ConfigurationError
from castor.tasks.storage import storage
from castor.tasks.vocabulary import codecs
from castor.tasks.vocabulary.sentencepieces import MIN_PIECES
from castor.tasks.vocabulary.vocabulary import CODEC_FILES, MODEL_FILE

_TEXT = ("text", "code")


@gin.configurable(module="pipelines.vocabulary")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Job(BaseJob):
    """The vocabulary job.

    corpora: directories of corpora.
    pieces, image_codes, audio_codes: sizes of the three parts of the vocabulary.
    documents: documents sampled from each corpus of text or code.
    media: documents sampled from each corpus of pictures, sound or video.
    document_characters: characters kept of one text.
    text_bytes: bytes of text in total, taken evenly from the corpora.
    image_token_budget, frame_token_budget, frames_per_second: the values of the later tokenize job, because a codec
      is best fitted to the picture sizes that it will encode.
    dead_letter_threshold: share of records read that may become dead letters before the job fails.
    sandbox: limits on the preparation of one sample.
    """

    corpora: Sequence[str]
    pieces: int = 32_000
    image_codes: int = 65_536
    audio_codes: int = 8_192
    documents: int = 5_000
    media: int = 1_000
    document_characters: int = 65_536
    text_bytes: int = 10_000_000
    image_token_budget: int = 1024
    frame_token_budget: int = 128
    frames_per_second: float = 1.0
    dead_letter_threshold: float = 0.1
    sandbox: Sandbox = Sandbox(cpu_seconds=120.0, memory_bytes=4 << 30)

    not_configuration: ClassVar[tuple[str, ...]] = ("output", "corpora")

    def __post_init__(self):
        if isinstance(self.corpora, str) or not self.corpora:
            raise ConfigurationError(
                f"CORPORA is {self.corpora!r}.", 'Write a list of directories: CORPORA=["corpora/web"].'
            )
        for macro, value, low, high in (
            ("VOCAB_SIZE", self.pieces, MIN_PIECES, 1 << 22),
            ("IMAGE_CODES", self.image_codes, 2, codecs.MAX_CODES),
            ("AUDIO_CODES", self.audio_codes, 2, codecs.MAX_CODES),
            ("SAMPLE_DOCUMENTS", self.documents, 1, 1 << 24),
            ("SAMPLE_MEDIA", self.media, 1, 1 << 24),
        ):
            if not low <= value <= high:
                raise ConfigurationError(f"{macro} is {value}.", f"Give it a value between {low} and {high}.")

    def build(self, pipeline, staging):
        from castor.pipelines.core.stages import Apply
        from castor.pipelines.tokenization.codec_fitting import (
            FitCodec,
            MeasureCodec,
            MeasureSentencePiece,
            TrainSentencePiece,
        )
        from castor.pipelines.tokenization.funnel_sink import WriteFunnel
        from castor.pipelines.tokenization.sampling import SampleDocuments, StoreSamples

        prepare = PrepareSample(
            self.document_characters, self.image_token_budget, self.frame_token_budget, self.frames_per_second
        )
        sources = [(CorpusSource(directory), self._count(directory)) for directory in self.corpora]
        sampled, counts = pipeline | SampleDocuments(sources)
        prepared = sampled | Apply("prepare", prepare, self.sandbox)
        (prepared, counts) | WriteFunnel(staging)
        rows = prepared | StoreSamples(staging)
        model = rows | TrainSentencePiece(self.pieces, self.text_bytes, storage.join(staging, MODEL_FILE))
        (rows, model) | MeasureSentencePiece(storage.join(staging, vocabulary_report.PIECES))
        for kind, codes in (("image", self.image_codes), ("audio", self.audio_codes)):
            codec = rows | FitCodec(kind, codes, storage.join(staging, CODEC_FILES[kind]))
            (rows, codec) | MeasureCodec(kind, storage.join(staging, vocabulary_report.quality_file(kind)))

    def input_state(self) -> dict[str, Any]:
        return {"corpora": [load_manifest(directory)["fingerprint"] for directory in self.corpora]}

    def finish(self, staging: str) -> dict[str, Any]:
        from castor.pipelines.tokenization.funnel_sink import read_funnel, replace_output_letters

        funnel = read_funnel(staging)
        check_funnel(funnel, self.name, self.dead_letter_threshold)
        vocabulary = vocabulary_report.staged_vocabulary(staging, self.pieces)
        names = [load_manifest(directory)["name"] for directory in self.corpora]
        manifest = {
            **self.manifest(funnel),
            "summary": vocabulary_report.summary(staging, names, vocabulary),
        }
        replace_output_letters(staging, self.output, funnel)
        vocabulary.save(self.output, manifest)
        return storage.read_json(storage.join(self.output, MANIFEST))

    def report(self, manifest: dict[str, Any]) -> list[str]:
        return vocabulary_report.lines(manifest)

    def _count(self, directory: str) -> int:
        return self.documents if load_manifest(directory)["modality"] in _TEXT else self.media
