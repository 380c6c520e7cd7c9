"""Renders records of a task cache as one self-contained HTML page: text, images, audio and video decoded from the ids.

Everything is decoded from the cached ids through the vocabulary, so the page shows what survived tokenization,
including the losses of the codecs. The template engine escapes untrusted text, media are inline, and the page may
load no other resource. This file does not depend on training or pipelines.
"""

import base64
import io
import pathlib
import wave
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from castor.tasks.cache.reader import CacheReader
from castor.tasks.vocabulary import audio

if TYPE_CHECKING:
    from castor.tasks.vocabulary.vocabulary import Vocabulary

MAX_TOKENS = 20_000
"""Largest number of tokens shown per record; the page reports the number of omitted tokens."""

_TEMPLATE = pathlib.Path(__file__).with_name("preview.html")
_MAX_IDS_SHOWN = 400
_DECIBELS_SHOWN = 80.0
# Dark violet to yellow through teal. Lightness rises evenly, so the scale is readable in gray too.
_COLOURS = np.array(
    [[13, 8, 40], [62, 20, 104], [40, 90, 140], [30, 150, 130], [130, 205, 80], [253, 231, 60]], dtype=np.float64
)


def render(reader: CacheReader, records: Iterable[int], vocabulary: "Vocabulary | None") -> str:
    """The page as HTML.

    reader: reader of the cache.

    records: records of the reader's split.

    vocabulary: vocabulary of the cache; None to show ids only.

    Raises CacheError for a damaged record.
    """
    import jinja2

    manifest = reader.manifest
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    return template.render(
        name=manifest.name,
        modality=manifest.modality,
        split=reader.split,
        splits=[(split, manifest.records(split), manifest.tokens(split)) for split in manifest.splits],
        vocabulary=manifest.vocabulary.get("fingerprint", "")[:12],
        vocab_size=int(manifest.vocabulary.get("size", 0) or 0),
        fingerprint=manifest.fingerprint,
        decoded=vocabulary is not None,
        records=[_record(reader, record, vocabulary) for record in records],
    )


def choose(total: int, count: int) -> list[int]:
    """`count` records spread evenly over a split: choose(10, 3) is [0, 3, 6]. A cache is shuffled, so this is a fair
    sample.

    total: records of the split.

    count: number of records.
    """
    count = min(count, total)
    return [index * total // count for index in range(count)]


def _record(reader: CacheReader, record: int, vocabulary: "Vocabulary | None") -> dict[str, Any]:
    document, source = reader.document(record)
    features = reader[record]
    ids = features.pop("targets", np.zeros(0, np.int32))
    shown = ids[:MAX_TOKENS].tolist()
    names = [vocabulary.name(i) if vocabulary else "" for i in shown[:_MAX_IDS_SHOWN]]
    return {
        "number": record,
        "document": document,
        "source": source,
        "tokens": len(ids),
        "cut": len(ids) - len(shown),
        "ids": list(zip(shown, names)),  # zip stops with the shorter list, `names`
        "more_ids": len(ids) - len(names),
        "pieces": [piece for span in vocabulary.modality_spans(shown) for piece in _pieces(*span)]
        if vocabulary
        else [],
        "dense": [_dense(name, array) for name, array in sorted(features.items())],
    }


def _pieces(kind: str, ids: Sequence[int], value: Any) -> list[dict[str, Any]]:
    """The page elements of a span: dicts with `kind` text, control, image, audio or video, and their content."""
    if kind == "text":
        return [{"kind": "text", "text": value, "tokens": len(ids)}]
    if value is None or kind == "control":
        return [{"kind": "control", "text": value if kind == "control" else f"empty {kind}", "tokens": len(ids)}]
    if kind == "image":
        return [_image(value, len(ids))]
    if kind == "audio":
        return [_audio(value, len(ids))]
    frames = [_image(frame, 0) for frame in value.frames]
    sound = [_audio(value.waveform, 0)] if value.waveform is not None else []
    return [{"kind": "video", "frames": frames, "sound": sound, "tokens": len(ids)}]


def _image(pixels: np.ndarray, tokens: int) -> dict[str, Any]:
    height, width = pixels.shape[:2]
    return {"kind": "image", "url": _png(pixels), "width": width, "height": height, "tokens": tokens}


def _audio(waveform: np.ndarray, tokens: int) -> dict[str, Any]:
    levels = audio.log_mel(waveform)
    return {
        "kind": "audio",
        "wav": _wav(waveform),
        "spectrogram": _png(_spectrogram(levels)),
        "seconds": len(waveform) / audio.SAMPLE_RATE,
        "frames": len(levels),
        "tokens": tokens,
    }


def _dense(name: str, array: np.ndarray) -> dict[str, Any]:
    picture = _png(_heat(array)) if array.ndim == 2 and array.size else ""
    return {
        "name": name,
        "shape": list(array.shape),
        "dtype": str(array.dtype),
        "url": picture,
        "values": array.ravel()[:20].tolist(),
    }


def _spectrogram(levels: np.ndarray) -> np.ndarray:
    """Log-mel levels in dB [frames, bins] -> uint8 [bins, frames, 3], low frequencies at the bottom, the top 80 dB."""
    top = float(levels.max()) if levels.size else 0.0
    return _heat(np.maximum(levels, top - _DECIBELS_SHOWN).T[::-1])


def _heat(values: np.ndarray) -> np.ndarray:
    """Maps finite values [h, w] to colors, uint8 [h, w, 3], from the smallest to the largest."""
    values = np.nan_to_num(np.asarray(values, dtype=np.float64), posinf=0.0, neginf=0.0)
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    scaled = (values - low) / (high - low or 1.0) * (len(_COLOURS) - 1)
    below = np.minimum(scaled.astype(np.int64), len(_COLOURS) - 2)
    share = (scaled - below)[..., None]
    return (_COLOURS[below] * (1 - share) + _COLOURS[below + 1] * share).round().astype(np.uint8)


def _png(pixels: np.ndarray) -> str:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "PNG")
    return _data_url("image/png", buffer.getvalue())


def _wav(waveform: np.ndarray) -> str:
    """float32 [n] in [-1, 1] at 16 kHz as a 16-bit mono WAV in a data URL."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(audio.SAMPLE_RATE)
        file.writeframes((np.clip(waveform, -1, 1) * 32767).astype("<i2").tobytes())
    return _data_url("audio/wav", buffer.getvalue())


def _data_url(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
