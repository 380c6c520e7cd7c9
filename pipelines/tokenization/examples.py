"""Document -> example: a pure function, run in the sandbox, from a document of any kind to the ids of its `targets`.

The result is the Document with its content replaced by its ids (int32 little-endian in `bytes`), or a Rejection.
`split_of` chooses the split of a document. No Beam.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping
from fractions import Fraction

import numpy as np

from castor.pipelines.document import BadInput, Document, Rejection
from castor.pipelines.media.clips import decode_video
from castor.pipelines.media.images import decode_image
from castor.pipelines.media.sounds import decode_audio
from castor.tasks import hashing
from castor.tasks.errors import ConfigurationError
from castor.tasks.vocabulary import streams
from castor.tasks.vocabulary.image import PATCH
from castor.tasks.vocabulary.vocabulary import Vocabulary

_DTYPE = np.dtype("<i4")
load_vocabulary = functools.lru_cache(maxsize=2)(Vocabulary.load)


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """Callable: Document -> Document of ids | Rejection. Raises BadInput for content that cannot be decoded.

    vocabulary: directory.
    fingerprint: expected fingerprint of the vocabulary; a worker that finds another one stops the job.
    image_token_budget: largest number of codes per picture.
    frame_token_budget: largest number of codes per frame of video.
    frames_per_second: sampling rate of video frames.
    max_frames: longer videos are dead letters.
    min_tokens, max_tokens: bounds of an example's length, eos included. Shorter examples are rejected as
      tokenize.empty, longer ones as tokenize.too_long.
    """

    vocabulary: str
    fingerprint: str
    image_token_budget: int = 1024
    frame_token_budget: int = 128
    frames_per_second: float = 1.0
    max_frames: int = 600
    min_tokens: int = 2
    max_tokens: int = 262_144

    def prepare(self) -> None:
        if load_vocabulary(self.vocabulary).fingerprint != self.fingerprint:
            raise ConfigurationError(f"vocabulary {self.vocabulary} changed while the job ran.", "Run the job again.")

    def __call__(self, document: Document) -> Document | Rejection:
        # The cheapest check first: no piece is longer than 16 characters, so a longer text has too many tokens.
        if len(document.text or "") > 16 * self.max_tokens:
            return Rejection(document, "tokenize.too_long", f"{len(document.text)} characters")
        ids = self._ids(document)
        if len(ids) < self.min_tokens:
            return Rejection(document, "tokenize.empty", str(len(ids)))
        if len(ids) > self.max_tokens:
            return Rejection(document, "tokenize.too_long", str(len(ids)))
        return document.replace(
            text=None, bytes=np.array(ids, _DTYPE).tobytes(), metadata={"characters": len(document.text or "")}
        )

    def _ids(self, document: Document) -> list[int]:
        vocabulary = load_vocabulary(self.vocabulary)
        if document.modality in ("text", "code"):
            return streams.text_document(vocabulary, document.text or "")
        if document.bytes is None:
            raise BadInput("no_content", f"a document of modality {document.modality} without bytes")
        span = self._span(vocabulary, document)
        return streams.described_document(vocabulary, document.id, document.text or "", span)

    def _span(self, vocabulary: Vocabulary, document: Document) -> list[int]:
        if document.modality == "image":
            return vocabulary.encode_image(decode_image(document.bytes), self.image_token_budget)
        if document.modality == "audio":
            return vocabulary.encode_audio(decode_audio(document.bytes))
        if document.modality == "video":
            # About three times the final size: swscale does the coarse scaling, the antialiased filter the rest.
            side = min(max(4 * PATCH * math.isqrt(self.frame_token_budget), 64), 1024)
            clip = decode_video(
                document.bytes, self.frames_per_second, side, with_audio=vocabulary.audio_codec is not None
            )
            if len(clip.frames) > self.max_frames:
                raise BadInput("too_long", f"{len(clip.frames)} frames, at most {self.max_frames}")
            return streams.video_span(vocabulary, clip.frames, clip.times, clip.waveform, self.frame_token_budget)
        raise BadInput("modality", f"unknown modality {document.modality!r}")


def ids_of(document: Document) -> np.ndarray:
    """The ids that a Tokenizer left in a document: int32 [n]."""
    return np.frombuffer(document.bytes, _DTYPE)


def split_thresholds(splits: Mapping[str, float]) -> tuple[tuple[str, int], ...]:
    """(split, end of its interval of 64-bit hashes) for each split, in order of name.

    Raises ConfigurationError unless the shares are non-negative and sum to 1.
    """
    shares = {name: Fraction(str(share)) for name, share in splits.items()}
    if not shares or min(shares.values()) < 0 or sum(shares.values()) != 1:
        example = "Write for example SPLITS={'train': 0.98, 'validation': 0.02}."
        raise ConfigurationError(f"SPLITS is {dict(splits)}: the shares must sum to 1.", example)
    ends, end = [], Fraction(0)
    for name in sorted(shares):
        end += shares[name]
        ends.append((name, int(end * (1 << 64))))
    return tuple(ends)


def split_of(seed: int, document_id: str, thresholds: tuple[tuple[str, int], ...]) -> str:
    """The split of a document, by a hash of its id and the seed that is independent of the hash for shards."""
    position = int(hashing.mix64(np.uint64(hashing.record_hash(seed, document_id) ^ _split_key(seed))))
    return next(name for name, end in thresholds if position < end)


@functools.cache
def _split_key(seed: int) -> int:
    return hashing.key64("split", seed)
