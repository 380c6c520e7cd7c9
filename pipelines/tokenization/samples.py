"""A deterministic sample of the documents of a source, and their preparation for the fit of a vocabulary.

A document is sampled if the hash of its id is among the N smallest of its source. The sample is the same on every
runner and for every order of the documents, and a larger sample contains a smaller one. The rank of a document is its
index in the order of hashes. Every eighth rank is held out of the fit of the codecs, to measure them. Pure functions;
no Beam.
"""

import bisect
import dataclasses
import heapq
from collections.abc import Iterable, Sequence
from typing import Any

import msgpack
import numpy as np

from castor.pipelines.corpus.reader import CorpusSource
from castor.pipelines.document import BadInput, Document, Rejection
from castor.pipelines.media.clips import decode_video
from castor.pipelines.media.images import decode_image
from castor.pipelines.media.sounds import decode_audio
from castor.tasks import hashing
from castor.tasks.errors import CorpusError
from castor.tasks.storage import storage
from castor.tasks.vocabulary import audio, image, streams

HELD_OUT_EVERY = 8
NOT_SAMPLED = "draw.not_drawn"  # as in manifests of earlier versions
_SEED = 0


def sample_key(document_id: str) -> int:
    """The hash by which documents are sampled, smallest first. 63 bits, so that Beam's integer coder can encode it."""
    return int(hashing.mix64(np.uint64(hashing.record_hash(_SEED, document_id) ^ _SAMPLING_KEY))) >> 1


_SAMPLING_KEY = hashing.key64("vocabulary draw")


def smallest_keys_of_shard(path: str, count: int) -> list[int]:
    """The `count` smallest sampling keys of the documents of a corpus shard. Reads only the ids."""
    import pyarrow
    import pyarrow.parquet

    try:
        with storage.open_read(path) as file:
            ids = pyarrow.parquet.read_table(file, columns=["id"], use_threads=False)["id"].to_pylist()
    except (pyarrow.ArrowInvalid, OSError, KeyError) as error:
        raise CorpusError(
            f"{path} cannot be read as a corpus shard: {error}.", "Run the job that makes the corpus again."
        ) from error
    return smallest(map(sample_key, ids), count)


def smallest_keys(source: Any, uri: str, count: int) -> list[int]:
    """The `count` smallest sampling keys of the documents of one file of any source. Of a corpus, only ids are read."""
    if isinstance(source, CorpusSource):
        return smallest_keys_of_shard(uri, count)
    return smallest((sample_key(element.id) for element in source.read(uri) if isinstance(element, Document)), count)


def smallest(keys: Iterable[int], count: int) -> list[int]:
    """The `count` smallest keys, ascending."""
    return heapq.nsmallest(count, keys)


@dataclasses.dataclass(frozen=True)
class SelectSample:
    """Document -> the Document with its corpus, rank and URL as metadata, or a Rejection without content.

    corpus: index of the source.
    """

    corpus: int

    def __call__(self, element, sampled: Sequence[int]):
        if not isinstance(element, Document):
            return element
        key = sample_key(element.id)
        rank = bisect.bisect_left(sampled, key)
        if rank == len(sampled) or sampled[rank] != key:
            return Rejection(Document(element.id, element.source, element.modality), NOT_SAMPLED)
        return element.replace(metadata={"corpus": self.corpus, "rank": rank, "url": element.metadata.get("url", "")})


@dataclasses.dataclass(frozen=True)
class PrepareSample:
    """Document -> the Document with a packed `Sample` as its bytes. Raises BadInput for media that cannot be decoded.

    text_characters: characters kept of one text.
    image_token_budget, frame_token_budget, frames_per_second: the values of the later tokenize job.
    max_frames: frames of one clip, evenly spaced.
    max_seconds: seconds kept of one recording.
    """

    text_characters: int
    image_token_budget: int
    frame_token_budget: int
    frames_per_second: float
    max_frames: int = 16
    max_seconds: float = 60.0

    def __call__(self, document: Document) -> Document:
        pictures, sounds = self._arrays(document)
        sample = Sample((document.text or "")[: self.text_characters], tuple(pictures), tuple(sounds))
        return document.replace(text=None, bytes=sample.pack())

    def _arrays(self, document: Document) -> tuple[list[np.ndarray], list[np.ndarray]]:
        if document.modality in ("text", "code"):
            return [], []
        if document.bytes is None:
            raise BadInput("no_content", f"a document of modality {document.modality} without bytes")
        if document.modality == "image":
            return [image.fit_to_budget(decode_image(document.bytes), self.image_token_budget)], []
        if document.modality == "audio":
            return [], [self._levels(decode_audio(document.bytes))]
        clip = decode_video(document.bytes, self.frames_per_second, 512)
        chosen = np.unique(np.linspace(0, len(clip.frames) - 1, min(self.max_frames, len(clip.frames))).astype(int))
        pictures = [image.fit_to_budget(clip.frames[i], self.frame_token_budget) for i in chosen]
        return pictures, [] if clip.waveform is None or not len(clip.waveform) else [self._levels(clip.waveform)]

    def _levels(self, waveform: np.ndarray) -> np.ndarray:
        return streams.audio_levels(waveform[: int(self.max_seconds * audio.SAMPLE_RATE)])


@dataclasses.dataclass(frozen=True, eq=False)
class Sample:
    """The content of a sampled document.

    text: the text, possibly cut.
    pictures: uint8 [8 h, 8 w, 3] each.
    sounds: log-mel spectrograms, float32 [4 n, 80] each, in dB, rounded to the levels of the codec.
    """

    text: str
    pictures: tuple[np.ndarray, ...] = ()
    sounds: tuple[np.ndarray, ...] = ()

    def arrays(self, kind: str) -> tuple[np.ndarray, ...]:
        """The arrays that the codec of `kind` ("image" or "audio") is fitted to."""
        return self.pictures if kind == "image" else self.sounds

    def pack(self) -> bytes:
        levels = [np.rint((s - audio.FLOOR_DB) / audio.STEP_DB).astype(np.uint8) for s in self.sounds]
        arrays = [[[list(a.shape), a.tobytes()] for a in group] for group in (self.pictures, levels)]
        return msgpack.packb([self.text, *arrays], unicode_errors="surrogatepass")

    @staticmethod
    def unpack(data: bytes) -> "Sample":
        text, pictures, levels = msgpack.unpackb(data, unicode_errors="surrogatepass")
        pictures = tuple(np.frombuffer(content, np.uint8).reshape(shape) for shape, content in pictures)
        sounds = [np.frombuffer(content, np.uint8).reshape(shape) for shape, content in levels]
        return Sample(text, pictures, tuple((s * audio.STEP_DB + audio.FLOOR_DB).astype(np.float32) for s in sounds))


@dataclasses.dataclass(frozen=True)
class SampleRow:
    """One sampled document as it moves between stages.

    rank, corpus: see SelectSample.
    file: path of the packed Sample.
    text_bytes: UTF-8 bytes of the text.
    pictures, sounds: numbers of arrays.
    """

    rank: int
    corpus: int
    file: str
    text_bytes: int
    pictures: int
    sounds: int

    @property
    def held_out(self) -> bool:
        return self.rank % HELD_OUT_EVERY == HELD_OUT_EVERY - 1

    def order(self) -> tuple[int, int, str]:
        """Sort key; rank first, so that a bounded text sample takes evenly from all corpora."""
        return self.rank, self.corpus, self.file

    def arrays(self, kind: str) -> int:
        """Number of arrays of `kind` ("image" or "audio") in the sample."""
        return self.pictures if kind == "image" else self.sounds

    def sample(self) -> Sample:
        return Sample.unpack(storage.read_bytes(self.file))


def store(document: Document, folder: str) -> SampleRow:
    """Writes the sample of a prepared document to its own file in `folder`, and returns the row."""
    sample = Sample.unpack(document.bytes)
    corpus, rank = document.metadata["corpus"], document.metadata["rank"]
    path = storage.join(folder, f"{corpus:04d}-{document.id}")
    storage.makedirs(folder)
    storage.write_bytes_atomic(path, document.bytes)
    return SampleRow(
        rank, corpus, path, len(sample.text.encode("utf-8", "replace")), len(sample.pictures), len(sample.sounds)
    )


def training_texts(rows: Iterable[SampleRow], most_bytes: int):
    """Texts of the rows in order, until they have `most_bytes` bytes of UTF-8."""
    taken = 0
    for row in sorted(rows, key=SampleRow.order):
        if taken >= most_bytes:
            return
        if row.text_bytes:
            taken += row.text_bytes
            yield row.sample().text
