"""The grammar of a document's ids: how text, pictures, sound and video stand in one stream, and how a stream is read back.

    text, code   pieces eos
    image        <image> <size_rows> <size_columns> codes </image>
    audio        <audio> codes </audio>
    video        <video> { <frame> <size_rows> <size_columns> codes  <audio> codes </audio> } </video>

A caption, transcript or title stands before or after its span, by a hash of the document's id, so that a model learns both directions. In
a video the sound heard between a frame and the next stands between them. Codes are row by row.

Writing is strict. Reading takes any ids at all, a model's own output included: a span ends where its grammar does, missing codes are
filled in, what belongs nowhere is a control segment. This file knows no file and no pipeline; the vocabulary gives it ids and codecs.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from castor.tasks import hashing
from castor.tasks.vocabulary import audio, image
from castor.tasks.vocabulary.codecs import Codec

AUDIO_FRAMES = 4  # log-mel frames in one code: 40 ms, 25 codes a second
IMAGE_PATCH = (image.PATCH, image.PATCH, image.CHANNELS)
AUDIO_PATCH = (AUDIO_FRAMES, audio.BANDS, 1)
SECONDS_PER_CODE = AUDIO_FRAMES * audio.HOP / audio.SAMPLE_RATE
KINDS = ("text", "image", "audio", "video", "control")


class StreamVocabulary(Protocol):
    """What a stream needs of a vocabulary; tasks.Vocabulary has it all."""

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


class Segment(NamedTuple):
    """A stretch of a stream. `ids` are its ids, delimiters included; `value` is its content:

    text: str; image: uint8 [H, W, 3]; audio: float32 [n] at 16 kHz; video: Video; control: the name of its id (pads are taken together).
    None for an image or audio span without a single code, and for anything but text and control where decoding was not asked for.
    """

    kind: str
    ids: tuple[int, ...]
    value: Any


class Video(NamedTuple):
    """frames: uint8 [h, w, 3] each; waveform: float32 [n] at 16 kHz, None where there is no sound; order: "frame", "audio" as they come."""

    frames: tuple[np.ndarray, ...]
    waveform: np.ndarray | None
    order: tuple[str, ...]


def span_first(document_id: str) -> bool:
    """True where the picture, sound or video of this document stands before its text."""
    return bool(hashing.key64("span_first", document_id) & 1)


def text_document(vocabulary: StreamVocabulary, text: str) -> list[int]:
    """pieces eos"""
    return [*vocabulary.encode(text), vocabulary.eos_id]


def described_document(vocabulary: StreamVocabulary, document_id: str, text: str, span: Sequence[int]) -> list[int]:
    """A span and its text in the order that the id decides, then eos."""
    pieces = vocabulary.encode(text)
    return [*span, *pieces, vocabulary.eos_id] if span_first(document_id) else [*pieces, *span, vocabulary.eos_id]


def image_span(vocabulary: StreamVocabulary, pixels: np.ndarray, budget: int) -> list[int]:
    """uint8 [H, W, 3] -> ids, at most `budget` codes and four more."""
    return [vocabulary.control("<image>"), *_sized_codes(vocabulary, pixels, budget), vocabulary.control("</image>")]


def audio_codes(vocabulary: StreamVocabulary, waveform: np.ndarray) -> list[int]:
    """float32 [n] at 16 kHz -> ids of the codes alone, 25 a second; the last one is filled up with silence."""
    codec, base = vocabulary.need("audio")
    return (codec.encode(audio_levels(waveform)).ravel() + base).tolist()


def audio_levels(waveform: np.ndarray) -> np.ndarray:
    """float32 [n] at 16 kHz -> log-mel float32 [4 k, 80] in dB, the last code filled up with silence: what the audio codec takes."""
    levels = audio.log_mel(waveform)
    return np.pad(levels, ((0, -len(levels) % AUDIO_FRAMES), (0, 0)), constant_values=audio.FLOOR_DB)


def audio_span(vocabulary: StreamVocabulary, waveform: np.ndarray) -> list[int]:
    """float32 [n] at 16 kHz -> <audio> codes </audio>"""
    return [vocabulary.control("<audio>"), *audio_codes(vocabulary, waveform), vocabulary.control("</audio>")]


def video_span(
    vocabulary: StreamVocabulary,
    frames: Sequence[np.ndarray],
    times: Sequence[float],
    waveform: np.ndarray | None,
    frame_budget: int,
) -> list[int]:
    """Frames uint8 [h, w, 3] at ascending `times` (seconds) and the sound (float32 [n] at 16 kHz or None) -> ids.

    A code of the sound stands after the last frame that is shown when it begins; what is heard before the first frame stands before it.
    """
    codes = [] if waveform is None or not len(waveform) else audio_codes(vocabulary, waveform)
    bounds = [min(max(math.ceil(float(time) / SECONDS_PER_CODE - 1e-9), 0), len(codes)) for time in times]
    bounds.append(len(codes))
    ids = [vocabulary.control("<video>"), *_heard(vocabulary, codes[: bounds[0]])]
    for frame, start, stop in zip(frames, bounds[:-1], bounds[1:], strict=True):
        ids.append(vocabulary.control("<frame>"))
        ids.extend(_sized_codes(vocabulary, frame, frame_budget))
        ids.extend(_heard(vocabulary, codes[start:stop]))
    return [*ids, vocabulary.control("</video>")]


def _heard(vocabulary: StreamVocabulary, codes: Sequence[int]) -> list[int]:
    return [vocabulary.control("<audio>"), *codes, vocabulary.control("</audio>")] if codes else []


def _sized_codes(vocabulary: StreamVocabulary, pixels: np.ndarray, budget: int) -> list[int]:
    codec, base = vocabulary.need("image")
    codes = codec.encode(image.fit_to_budget(pixels, budget))
    return [*(vocabulary.control(f"<size_{side}>") for side in codes.shape), *(codes.ravel() + base).tolist()]


def segments(vocabulary: StreamVocabulary, ids: Iterable[int], decode: bool = True) -> list[Segment]:
    """Cuts any sequence of ids into segments; their ids, put together, are the input. Never raises on the ids' values."""
    return _Parser(vocabulary, [int(i) for i in ids], decode).run()


class _Parser:
    """Recursive descent with one id of look-ahead."""

    def __init__(self, vocabulary: StreamVocabulary, ids: list[int], decode: bool):
        self.vocabulary = vocabulary
        self.ids = ids
        self.at = 0
        self.decode = decode

    def run(self) -> list[Segment]:
        found: list[Segment] = []
        while self.at < len(self.ids):
            start = self.at
            kind, value = self._one()
            found.append(Segment(kind, tuple(self.ids[start : self.at]), value))
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
