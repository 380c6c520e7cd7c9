"""The vocabulary: one id space for text, images, audio and video, with encoders and decoders for each.

    0 pad, 1 eos, 2.. named control tokens         256 reserved ids
    256..                                          SentencePiece pieces: as many slots as configured, used or not
    then                                           image codes, audio codes (none if the vocabulary lacks the codec)
    up to a multiple of 128                        unused

The layout follows from the configuration alone, never from the size of a sample. A saved vocabulary is a directory:
sentencepiece.model, image_codec.npz, audio_codec.npz, vocabulary.json (the layout) and manifest.json, written last.

`Vocabulary` is also a `seqio.Vocabulary` without importing SeqIO: it registers as a virtual subclass if SeqIO is
loaded. For TensorFlow, tasks/integrations/seqio_vocabulary.py has a true subclass.
"""

import hashlib
import sys
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import numpy as np

from castor.tasks import fingerprint
from castor.tasks.errors import VocabularyError
from castor.tasks.storage import storage
from castor.tasks.vocabulary import sentencepieces, streams
from castor.tasks.vocabulary.codecs import Codec
from castor.tasks.vocabulary.image import MAX_SIDE

FORMAT = 1
PAD_ID = 0
EOS_ID = 1
CONTROL_BLOCK = 256
MULTIPLE = 128  # the size is a multiple, so that an embedding divides over a mesh and fills the lanes of a TPU
SIZES_FROM = 128  # <size_1> is id 128
IMAGE_TOKEN_BUDGET = 1024

_NAMED = ("<pad>", "<eos>", "<image>", "</image>", "<audio>", "</audio>", "<video>", "</video>", "<frame>")
CONTROLS: Mapping[str, int] = {
    **{name: i for i, name in enumerate(_NAMED)},
    **{f"<size_{side}>": SIZES_FROM + side - 1 for side in range(1, MAX_SIDE + 1)},
}
_CONTROL_NAMES = {i: name for name, i in CONTROLS.items()}

MODEL_FILE = "sentencepiece.model"
CODEC_FILES = {"image": "image_codec.npz", "audio": "audio_codec.npz"}
LAYOUT_FILE = "vocabulary.json"
MANIFEST_FILE = "manifest.json"
_REMEDY = "Remake the vocabulary with castor data vocabulary."


class Vocabulary:
    """An immutable vocabulary. `Vocabulary.load(directory)` reads a saved one.

    model: serialized SentencePiece model.

    image_codec: Codec of images, or None; it gets `num_codes` ids.

    audio_codec: Codec of log-mel spectrograms, or None; it gets `num_codes` ids.

    pieces: number of slots for pieces, at least the number of pieces of the model; None for exactly that number.

    Raises VocabularyError for an unreadable model or too few slots.
    """

    extra_ids: ClassVar[int] = 0
    pad_id: ClassVar[int] = PAD_ID
    eos_id: ClassVar[int] = EOS_ID
    bos_id: ClassVar[int] = PAD_ID  # decoder inputs start with it, as in T5X
    size_range: ClassVar[range] = range(SIZES_FROM, SIZES_FROM + MAX_SIDE)

    def __init__(
        self,
        model: bytes,
        image_codec: Codec | None = None,
        audio_codec: Codec | None = None,
        pieces: int | None = None,
    ):
        self._pieces = sentencepieces.load(model)
        slots = len(self._pieces) if pieces is None else pieces
        if slots < len(self._pieces):
            raise VocabularyError(
                f"a vocabulary of {slots} slots cannot hold {len(self._pieces)} pieces.", "Configure more slots."
            )
        self.image_codec = image_codec
        self.audio_codec = audio_codec
        self.text_range = range(CONTROL_BLOCK, CONTROL_BLOCK + slots)
        self.image_range = _after(self.text_range, image_codec)
        self.audio_range = _after(self.image_range, audio_codec)
        self._text_stop = CONTROL_BLOCK + len(self._pieces)
        self._files = {MODEL_FILE: model}
        for modality, codec in (("image", image_codec), ("audio", audio_codec)):
            if codec is not None:
                self._files[CODEC_FILES[modality]] = codec.to_bytes()
        self._digests = {name: hashlib.sha256(data).hexdigest() for name, data in sorted(self._files.items())}
        self.fingerprint: str = fingerprint.of_json({"layout": self.layout(), "files": self._digests})
        _register()

    @property
    def unk_id(self) -> int:
        """The id of the unknown piece; byte fallback never produces it."""
        return self.text_range.start + sentencepieces.UNKNOWN

    @property
    def sentencepiece_model(self) -> bytes:
        """The serialized SentencePiece model, as given."""
        return self._files[MODEL_FILE]

    @property
    def vocab_size(self) -> int:
        """The number of ids, a multiple of 128: the rows of an embedding."""
        return -(-self.audio_range.stop // MULTIPLE) * MULTIPLE

    @property
    def _base_vocab_size(self) -> int:
        return self.vocab_size

    def layout(self) -> dict[str, Any]:
        """The content of vocabulary.json."""
        return {
            "format": FORMAT,
            "size": self.vocab_size,
            "control": dict(CONTROLS),
            "ranges": {kind: [span.start, span.stop] for kind, span in self._ranges().items()},
            "pieces": len(self._pieces),
            "audio_frames_per_code": streams.AUDIO_FRAMES,
        }

    def sizes(self) -> dict[str, int]:
        """Reserved ids by kind: text, image and audio."""
        return {kind: len(span) for kind, span in self._ranges().items()}

    def __eq__(self, other) -> bool:
        return isinstance(other, Vocabulary) and self.fingerprint == other.fingerprint

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def __repr__(self) -> str:
        parts = ", ".join(f"{kind} {size}" for kind, size in self.sizes().items())
        return f"{type(self).__name__}(size {self.vocab_size}: {parts}; {self.fingerprint})"

    def __reduce__(self):
        return type(self), (self._files[MODEL_FILE], self.image_codec, self.audio_codec, len(self.text_range))

    # Text.

    def encode(self, text: str) -> list[int]:
        """The ids of a text's pieces, without eos. No text produces a control token."""
        base = self.text_range.start
        return [base + i for i in self._pieces.encode(text)]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids` up to the first eos, ignoring other modalities. decode(encode(text)) == text."""
        base, stop = self.text_range.start, self._text_stop
        kept = []
        for i in ids.tolist() if hasattr(ids, "tolist") else ids:
            if i == EOS_ID:
                break
            if base <= i < stop:
                kept.append(i - base)
        return self._pieces.decode(kept)

    def text_bytes(self) -> np.ndarray:
        """The bytes of UTF-8 that each id adds to a text, int32 [vocab_size]; 0 for ids that are not text."""
        found = np.zeros(self.vocab_size, np.int32)
        found[self.text_range.start : self._text_stop] = self._pieces.byte_lengths()
        return found

    # Images and audio.

    def encode_image(self, pixels: np.ndarray, budget: int = IMAGE_TOKEN_BUDGET) -> list[int]:
        """The ids <image> <size> <size> codes </image> of uint8 [H, W, 3], with at most `budget` codes."""
        return streams.image_span(self, pixels, budget)

    def decode_image(self, ids: Iterable[int]) -> np.ndarray:
        """The first image in `ids`, uint8 [H, W, 3]. Raises ValueError if there is none."""
        return self._first("image", ids)

    def encode_audio(self, waveform: np.ndarray) -> list[int]:
        """The ids <audio> codes </audio> of float32 [n] at 16 kHz, 25 codes per second."""
        return streams.audio_span(self, waveform)

    def decode_audio(self, ids: Iterable[int]) -> np.ndarray:
        """The first audio span in `ids`, float32 [n] at 16 kHz. Raises ValueError if there is none."""
        return self._first("audio", ids)

    def modality_spans(self, ids: Iterable[int], decode: bool = True) -> list[streams.ModalitySpan]:
        """Parses any ids into spans (kind, ids, value); see streams.modality_spans."""
        return streams.modality_spans(self, ids, decode)

    def need(self, modality: str) -> tuple[Codec, int]:
        """The codec of "image" or "audio" and its first id. Raises VocabularyError if there is no such codec."""
        codec = self.image_codec if modality == "image" else self.audio_codec
        if codec is None:
            raise VocabularyError(
                f"the vocabulary has no {modality} codes.", f"Make a vocabulary from corpora with {modality} data."
            )
        return codec, (self.image_range if modality == "image" else self.audio_range).start

    # Names.

    def control(self, name: str) -> int:
        """The id of a control token such as "<image>" or "<size_12>". Raises KeyError for an unknown name."""
        return CONTROLS[name]

    def name(self, i: int) -> str:
        """A readable name of any integer id."""
        if i in self.text_range:
            return self._pieces.piece(i - self.text_range.start) if i < self._text_stop else f"<unused_{i}>"
        for kind, span in (("image", self.image_range), ("audio", self.audio_range)):
            if i in span:
                return f"<{kind}_code_{i - span.start}>"
        return _CONTROL_NAMES.get(i, f"<unused_{i}>" if 0 <= i < self.vocab_size else f"<invalid_{i}>")

    # The directory.

    def save(self, directory: str, manifest: Mapping[str, Any] | None = None) -> None:
        """Writes the vocabulary to a directory. The manifest is removed first and written last.

        directory: local path or bucket URI.

        manifest: additional fields of manifest.json.
        """
        storage.makedirs(directory)
        storage.remove(storage.join(directory, MANIFEST_FILE))
        for name in (*CODEC_FILES.values(), MODEL_FILE):
            if name not in self._files:
                storage.remove(storage.join(directory, name))
        for name, data in self._files.items():
            storage.write_bytes_atomic(storage.join(directory, name), data)
        storage.write_json_atomic(storage.join(directory, LAYOUT_FILE), self.layout())
        own = {"kind": "vocabulary", "format": FORMAT, "size": self.vocab_size}
        own |= {"files": self._digests, "vocabulary_fingerprint": self.fingerprint}
        storage.write_json_atomic(storage.join(directory, MANIFEST_FILE), {**(manifest or {}), **own})

    @classmethod
    def load(cls, directory: str) -> "Vocabulary":
        """Reads a saved vocabulary. Raises VocabularyError for a missing, incomplete, damaged or inconsistent file."""
        manifest = _read_json(directory, MANIFEST_FILE)
        layout = _read_json(directory, LAYOUT_FILE)
        if (
            manifest.get("kind") != "vocabulary"
            or manifest.get("format") != FORMAT
            or not isinstance(manifest.get("files"), dict)
        ):
            raise VocabularyError(
                f"{storage.join(directory, MANIFEST_FILE)} is not a vocabulary manifest of format {FORMAT}.", _REMEDY
            )
        known = (MODEL_FILE, *CODEC_FILES.values())
        files = {
            name: _read_checked(directory, name, digest) for name, digest in manifest["files"].items() if name in known
        }
        if MODEL_FILE not in files:
            raise VocabularyError(f"vocabulary {directory} has no {MODEL_FILE}.", _REMEDY)
        paths = {kind: storage.join(directory, name) for kind, name in CODEC_FILES.items() if name in files}
        codecs = {kind: Codec.from_bytes(files[CODEC_FILES[kind]], path) for kind, path in paths.items()}
        try:
            start, stop = layout["ranges"]["text"]
            vocabulary = cls(files[MODEL_FILE], codecs.get("image"), codecs.get("audio"), stop - start)
        except (KeyError, TypeError, ValueError) as error:
            raise VocabularyError(f"{storage.join(directory, LAYOUT_FILE)} is damaged: {error!r}.", _REMEDY) from error
        if vocabulary.layout() != layout or vocabulary.fingerprint != manifest.get("vocabulary_fingerprint"):
            raise VocabularyError(
                f"vocabulary {directory} is inconsistent: its files imply another layout or fingerprint.", _REMEDY
            )
        return vocabulary

    def _ranges(self) -> dict[str, range]:
        return {"text": self.text_range, "image": self.image_range, "audio": self.audio_range}

    def _first(self, kind: str, ids: Iterable[int]) -> np.ndarray:
        for span in streams.modality_spans(self, ids):
            if span.kind == kind and span.value is not None:
                return span.value
        raise ValueError(f"the ids have no {kind}")


def _after(before: range, codec: Codec | None) -> range:
    return range(before.stop, before.stop + (codec.num_codes if codec else 0))


def _register() -> None:
    """Makes isinstance(vocabulary, seqio.Vocabulary) true if SeqIO is loaded."""
    base = getattr(sys.modules.get("seqio"), "Vocabulary", None)
    if base is not None and not issubclass(Vocabulary, base):
        base.register(Vocabulary)


def _read_json(directory: str, name: str) -> dict[str, Any]:
    path = storage.join(directory, name)
    try:
        value = storage.read_json(path)
    except OSError as error:
        what = f"{directory} is not a complete vocabulary: {path} cannot be read ({error.strerror})."
        raise VocabularyError(what, _REMEDY) from error
    except ValueError as error:
        raise VocabularyError(f"{path} is damaged: {error}.", _REMEDY) from error
    if not isinstance(value, dict):
        raise VocabularyError(f"{path} is damaged: it is not an object.", _REMEDY)
    return value


def _read_checked(directory: str, name: str, digest: str) -> bytes:
    path = storage.join(directory, name)
    try:
        data = storage.read_bytes(path)
    except OSError as error:
        raise VocabularyError(f"{path} cannot be read: {error.strerror}.", _REMEDY) from error
    if hashlib.sha256(data).hexdigest() != digest:
        raise VocabularyError(f"{path} is damaged: its checksum differs from the manifest.", _REMEDY)
    return data
