"""The vocabulary job: a deterministic sample of documents from all corpora -> SentencePiece model, image codec, audio codec.

    castor data vocabulary --gin.CORPORA='["corpora/web", "corpora/image"]' --gin.OUTPUT='"vocabulary"'

Image codes come from the pictures of image corpora and the frames of video, audio codes from recordings and the sound of video; what no
corpus holds gets no codes. The manifest and the console report tokens per character and reconstruction PSNR, the latter on documents the
codecs were not fitted on.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import gin
from castor.pipelines.core import dead_letters
from castor.pipelines.core.sandbox import Sandbox
from castor.pipelines.corpus.layout import MANIFEST
from castor.pipelines.corpus.reader import CorpusSource, load_manifest
from castor.pipelines.execution.job import BaseJob, check_funnel
from castor.pipelines.tokenization.samples import PrepareSample
from castor.tasks.errors import ConfigurationError
from castor.tasks.storage import storage
from castor.tasks.vocabulary import codecs, psnr
from castor.tasks.vocabulary.sentencepieces import MIN_PIECES
from castor.tasks.vocabulary.vocabulary import CODEC_FILES, MODEL_FILE, Vocabulary

_TEXT = ("text", "code")


@gin.configurable(module="pipelines.vocabulary")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Job(BaseJob):
    """corpora: directories. pieces, image_codes, audio_codes: sizes of the three parts of the vocabulary.

    documents, media: sampled from each corpus of text or code, and of pictures, sound or video. document_characters: of one text, at most;
    text_bytes: of text in all, taken from every corpus alike. image_token_budget, frame_token_budget, frames_per_second: those of the
    tokenize job to come, since a codec is best fitted to the sizes it will meet.
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
        (rows, model) | MeasureSentencePiece(storage.join(staging, "pieces.json"))
        for kind, codes in (("image", self.image_codes), ("audio", self.audio_codes)):
            codec = rows | FitCodec(kind, codes, storage.join(staging, CODEC_FILES[kind]))
            (rows, codec) | MeasureCodec(kind, storage.join(staging, f"{kind}.json"))

    def input_state(self) -> dict[str, Any]:
        return {"corpora": [load_manifest(directory)["fingerprint"] for directory in self.corpora]}

    def finish(self, staging: str) -> dict[str, Any]:
        from castor.pipelines.tokenization.funnel_sink import read_funnel

        funnel = read_funnel(staging)
        check_funnel(funnel, self.name, self.dead_letter_threshold)
        fitted = {kind: self._codec(staging, name) for kind, name in CODEC_FILES.items()}
        vocabulary = Vocabulary(
            storage.read_bytes(storage.join(staging, MODEL_FILE)), fitted["image"], fitted["audio"], self.pieces
        )
        manifest = {
            "name": self.name,
            "funnel": funnel.to_json(),
            "config": self.config(),
            "fingerprint": self.fingerprint(),
            "code_fingerprint": self.code(),
            "inputs": self.input_state(),
            "summary": self._summary(staging, vocabulary),
        }
        storage.remove_tree(storage.join(self.output, dead_letters.FOLDER))
        vocabulary.save(self.output, manifest)
        if funnel.dead_total:
            storage.rename(storage.join(staging, dead_letters.FOLDER), storage.join(self.output, dead_letters.FOLDER))
        return storage.read_json(storage.join(self.output, MANIFEST))

    def report(self, manifest: dict[str, Any]) -> list[str]:
        """Lines for the console, under the funnel."""
        summary = manifest["summary"]
        sizes = ", ".join(f"{kind} {size:,}" for kind, size in summary["sizes"].items())
        lines = [f"vocabulary of {manifest['size']:,} ids: {sizes}"]
        for name, row in summary["text"].items():
            if row["characters"]:
                lines.append(
                    f"  {name}: {row['tokens_per_character']:.3f} tokens per character ({row['characters']:,} characters sampled)"
                )
        for kind in CODEC_FILES:
            for name, row in summary[kind].items():
                shown = "held_out" if "held_out" in row else "fitted"
                what = f"{row[shown]['arrays']} {shown.replace('_', ' ')} arrays"
                lines.append(f"  {name}: {kind} PSNR {row[shown]['psnr']:.2f} dB over {what}")
        return lines

    def _count(self, directory: str) -> int:
        return self.documents if load_manifest(directory)["modality"] in _TEXT else self.media

    def _codec(self, staging: str, name: str) -> codecs.Codec | None:
        path = storage.join(staging, name)
        return codecs.Codec.load(path) if storage.exists(path) else None

    def _summary(self, staging: str, vocabulary: Vocabulary) -> dict[str, Any]:
        """What was measured, by name of corpus; PSNR is the mean over arrays, `psnr_overall` that of their joint error, in dB."""
        names = [load_manifest(directory)["name"] for directory in self.corpora]
        names = [name if names.count(name) == 1 else f"{name} ({i})" for i, name in enumerate(names)]
        summary: dict[str, Any] = {"sizes": vocabulary.sizes(), "levels": {}, "text": {}, "image": {}, "audio": {}}
        for (index,), (documents, characters, size, tokens) in storage.read_json(storage.join(staging, "pieces.json")):
            summary["text"][names[index]] = {
                "documents": documents,
                "characters": characters,
                "bytes": size,
                "tokens": tokens,
                "tokens_per_character": round(tokens / max(characters, 1), 4),
            }
        for kind in CODEC_FILES:
            for (index, part), (arrays, millidecibels, error, elements) in storage.read_json(
                storage.join(staging, f"{kind}.json")
            ):
                overall = round(psnr.psnr_of_error(error, elements), 2) if error else None
                row = {"arrays": arrays, "psnr": round(millidecibels / arrays / 1000, 2), "psnr_overall": overall}
                summary[kind].setdefault(names[index], {})[part] = row
        for kind, codec in (("image", vocabulary.image_codec), ("audio", vocabulary.audio_codec)):
            if codec is not None:
                summary["levels"][kind] = codec.levels.tolist()
        return summary
