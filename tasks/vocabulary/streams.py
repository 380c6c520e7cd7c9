"""The token grammar of a document: writes text, images, audio and video as one stream of ids, and parses a stream.

    text, code   pieces eos
    image        <image> <size_rows> <size_columns> codes </image>
    audio        <audio> codes </audio>
    video        <video> { <frame> <size_rows> <size_columns> codes  <audio> codes </audio> } </video>

Example: an image of 2 x 3 patches is <image> <size_2> <size_3>, six codes row by row, </image>.

A caption, transcript or title comes before or after its span, depending on a hash of the document id, so that a model
learns both directions. In a video, the audio between two frames is placed between them.

Writing is strict. Parsing accepts any ids, including a model's own output: a span ends where its grammar ends,
missing codes are filled in, and every other id becomes a control span. This file reads no files and knows no
pipelines; the vocabulary supplies ids and codecs.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from castor.tasks import hashing
from castor.tasks.vocabulary import audio, image
from castor.tasks.vocabulary.codecs import Codec

AUDIO_FRAMES = 4  # log-mel frames per code: 40 ms, 25 codes per second
IMAGE_PATCH = (image.PATCH, image.PATCH, image.CHANNELS)
AUDIO_PATCH = (AUDIO_FRAMES, audio.BANDS, 1)
SECONDS_PER_CODE = AUDIO_FRAMES * audio.HOP / audio.SAMPLE_RATE
KINDS = ("text", "image", "audio", "video", "control")


class StreamVocabulary(Protocol):
    """The part of tasks.Vocabulary that streams need."""

    @property
    def pad_id(self) -> int: ...

    @property
    def eos_id(self) -> int: ...

    @property
    def text_range(self) -> range: ...

    @property
    def image_range(self) -> range: ...

    @property
    def audio_range(self) -> range: ...

    @property
    def size_range(self) -> range: ...

    def encode(self, text: str) -> list[int]: ...

    def decode(self, ids: Iterable[int]) -> str: ...

    def control(self, name: str) -> int: ...

    def name(self, i: int) -> str: ...

    def need(self, modality: str) -> tuple[Codec, int]: ...


class ModalitySpan(NamedTuple):
    """A contiguous range of a stream with one kind of content.

    kind: one of KINDS.

    ids: the ids of the span, delimiters included.

    value: the content. text: str; image: uint8 [H, W, 3]; audio: float32 [n] at 16 kHz; video: Video; control: the
    name of the id, with consecutive pads as one span. None for an image or audio span without codes. Without
    decoding, None for everything but text and control.
    """

    kind: str
    ids: tuple[int, ...]
    value: Any


class Video(NamedTuple):
    """A decoded video.

    frames: uint8 [h, w, 3] each.

    waveform: float32 [n] at 16 kHz; None without audio.

    order: "frame" and "audio" in the order of the stream.
    """

    frames: tuple[np.ndarray, ...]
    waveform: np.ndarray | None
    order: tuple[str, ...]


def span_first(document_id: str) -> bool:
    """Whether the image, audio or video span of this document comes before its text."""
    return bool(hashing.key64("span_first", document_id) & 1)


def text_document(vocabulary: StreamVocabulary, text: str) -> list[int]:
    """The ids of a text document: pieces eos."""
    return [*vocabulary.encode(text), vocabulary.eos_id]


def described_document(vocabulary: StreamVocabulary, document_id: str, text: str, span: Sequence[int]) -> list[int]:
    """A span and its text, in the order given by `span_first`, then eos.

    vocabulary: the vocabulary.

    document_id: id of the document.

    text: caption, transcript or title.

    span: ids of the span.
    """
    pieces = vocabulary.encode(text)
    return [*span, *pieces, vocabulary.eos_id] if span_first(document_id) else [*pieces, *span, vocabulary.eos_id]


def image_span(vocabulary: StreamVocabulary, pixels: np.ndarray, budget: int) -> list[int]:
    """The ids of an image: at most `budget` codes and four control ids.

    vocabulary: vocabulary with an image codec.

    pixels: uint8 [H, W, 3].

    budget: largest number of codes.

    Raises VocabularyError without an image codec.
    """
    return [vocabulary.control("<image>"), *_sized_codes(vocabulary, pixels, budget), vocabulary.control("</image>")]


def audio_codes(vocabulary: StreamVocabulary, waveform: np.ndarray) -> list[int]:
    """The ids of the audio codes alone, 25 per second. The last code is padded with silence.

    vocabulary: vocabulary with an audio codec.

    waveform: float32 [n] at 16 kHz.

    Raises VocabularyError without an audio codec.
    """
    codec, base = vocabulary.need("audio")
    return (codec.encode(audio_levels(waveform)).ravel() + base).tolist()


def audio_levels(waveform: np.ndarray) -> np.ndarray:
    """The input of the audio codec: log-mel float32 [4 k, 80] in dB of float32 [n] at 16 kHz, padded with silence."""
    levels = audio.log_mel(waveform)
    return np.pad(levels, ((0, -len(levels) % AUDIO_FRAMES), (0, 0)), constant_values=audio.FLOOR_DB)


def audio_span(vocabulary: StreamVocabulary, waveform: np.ndarray) -> list[int]:
    """The ids <audio> codes </audio> of float32 [n] at 16 kHz; see `audio_codes`."""
    return [vocabulary.control("<audio>"), *audio_codes(vocabulary, waveform), vocabulary.control("</audio>")]


def video_span(
    vocabulary: StreamVocabulary,
    frames: Sequence[np.ndarray],
    times: Sequence[float],
    waveform: np.ndarray | None,
    frame_budget: int,
) -> list[int]:
    """The ids of a video. An audio code comes after the last frame shown at its start; earlier audio comes first.

    vocabulary: vocabulary with image and audio codecs.

    frames: uint8 [h, w, 3] each.

    times: ascending times of the frames in seconds.

    waveform: float32 [n] at 16 kHz; None without audio.

    frame_budget: largest number of codes per frame.

    Raises VocabularyError without the codecs.
    """
    codes = [] if waveform is None or not len(waveform) else audio_codes(vocabulary, waveform)
    bounds = [min(max(math.ceil(float(time) / SECONDS_PER_CODE - 1e-9), 0), len(codes)) for time in times]
    bounds.append(len(codes))
    ids = [vocabulary.control("<video>"), *_audio_between(vocabulary, codes[: bounds[0]])]
    for frame, start, stop in zip(frames, bounds[:-1], bounds[1:], strict=True):
        ids.append(vocabulary.control("<frame>"))
        ids.extend(_sized_codes(vocabulary, frame, frame_budget))
        ids.extend(_audio_between(vocabulary, codes[start:stop]))
    return [*ids, vocabulary.control("</video>")]


def _audio_between(vocabulary: StreamVocabulary, codes: Sequence[int]) -> list[int]:
    return [vocabulary.control("<audio>"), *codes, vocabulary.control("</audio>")] if codes else []


def _sized_codes(vocabulary: StreamVocabulary, pixels: np.ndarray, budget: int) -> list[int]:
    codec, base = vocabulary.need("image")
    codes = codec.encode(image.fit_to_budget(pixels, budget))
    return [*(vocabulary.control(f"<size_{side}>") for side in codes.shape), *(codes.ravel() + base).tolist()]


def modality_spans(vocabulary: StreamVocabulary, ids: Iterable[int], decode: bool = True) -> list[ModalitySpan]:
    """Parses any ids into spans; the ids of all spans joined are the input. No value of the ids raises an error.

    vocabulary: the vocabulary.

    ids: any integers.

    decode: whether to decode images, audio and video.
    """
    return _Parser(vocabulary, [int(i) for i in ids], decode).run()


class _Parser:
    """A recursive descent parser with one id of look-ahead."""

    def __init__(self, vocabulary: StreamVocabulary, ids: list[int], decode: bool):
        self.vocabulary = vocabulary
        self.ids = ids
        self.at = 0
        self.decode = decode

    def run(self) -> list[ModalitySpan]:
        found: list[ModalitySpan] = []
        while self.at < len(self.ids):
            start = self.at
            kind, value = self._one()
            found.append(ModalitySpan(kind, tuple(self.ids[start : self.at]), value))
        return found

    def _one(self) -> tuple[str, Any]:
        v, here = self.vocabulary, self.ids[self.at]
        if here in v.text_range:
            return "text", v.decode(self._while_in(v.text_range))
        if here == v.control("<image>") or here in v.image_range:
            return "image", self._image("<image>", "</image>")
        if here == v.control("<frame>"):
            return "image", self._image("<frame>", None)
        if here == v.control("<audio>") or here in v.audio_range:
            codes = self._audio()
            return "audio", self._sound(codes)
        if here == v.control("<video>"):
            return "video", self._video()
        self.at += 1
        while self.at < len(self.ids) and self.ids[self.at] == here == v.pad_id:
            self.at += 1
        return "control", v.name(here)

    def _take(self, name: str | None) -> bool:
        if name is not None and self.at < len(self.ids) and self.ids[self.at] == self.vocabulary.control(name):
            self.at += 1
            return True
        return False

    def _while_in(self, wanted: range, most: int | None = None) -> list[int]:
        start, stop = self.at, len(self.ids) if most is None else min(len(self.ids), self.at + most)
        while self.at < stop and self.ids[self.at] in wanted:
            self.at += 1
        return self.ids[start : self.at]

    def _image(self, opening: str, closing: str | None) -> np.ndarray | None:
        v = self.vocabulary
        self._take(opening)
        sides = [i - v.size_range.start + 1 for i in self._while_in(v.size_range, most=2)]
        codes = self._while_in(v.image_range)
        self._take(closing)
        if not codes or not self.decode:
            return None
        if len(sides) < 2:
            columns = sides[0] if sides else math.isqrt(len(codes) - 1) + 1
            sides = [-(-len(codes) // columns), columns]
        codec, base = v.need("image")
        grid = np.full(sides[0] * sides[1], codec.neutral, np.int64)
        kept = codes[: grid.size]
        grid[: len(kept)] = np.array(kept) - base
        return codec.decode(grid.reshape(sides))

    def _audio(self) -> list[int]:
        self._take("<audio>")
        codes = self._while_in(self.vocabulary.audio_range)
        self._take("</audio>")
        return codes

    def _sound(self, codes: list[int]) -> np.ndarray | None:
        if not codes or not self.decode:
            return None
        codec, base = self.vocabulary.need("audio")
        return audio.waveform_of(codec.decode((np.array(codes) - base)[:, None]))

    def _video(self) -> Video | None:
        v = self.vocabulary
        self._take("<video>")
        frames, sound, order = [], [], []
        while self.at < len(self.ids):
            here = self.ids[self.at]
            if here == v.control("<frame>"):
                frame = self._image("<frame>", None)
                if frame is not None:
                    frames.append(frame)
                order.append("frame")
            elif here == v.control("<audio>"):
                sound.extend(self._audio())
                order.append("audio")
            else:
                break
        self._take("</video>")
        return Video(tuple(frames), self._sound(sound), tuple(order)) if self.decode else None
