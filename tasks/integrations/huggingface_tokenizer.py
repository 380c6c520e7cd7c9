"""Converts the vocabulary to Hugging Face tokenizer files with the same ids, and a tokenizer.model to a vocabulary.

Castor's ids are 256 control ids, then SentencePiece pieces, then image and audio codes
(tasks/vocabulary/vocabulary.py). The files are

    tokenizer.model          a SentencePiece model whose piece i is Castor's id i: the pieces shifted by 256, and
                             control tokens and codes as pieces that no text produces
    tokenizer.json           the same for the `tokenizers` library: a unigram model with byte fallback; <pad> (id 0)
                             is put before a text, as in training
    tokenizer_config.json    settings of transformers.AutoTokenizer

A token that is not text has a name: those of tasks/vocabulary/vocabulary.py (<image>, <size_7>, ...), <image_code_N>,
<audio_code_N>, and <unused_ID>. Its score is so low that no text produces it. transformers itself finds the names of
control tokens in a text, unless split_special_tokens=True. One difference remains: `tokenizers` reads U+2581,
SentencePiece's symbol for a space, as a space.
"""

import json
import pathlib
from typing import Any

from castor.tasks.errors import VocabularyError
from castor.tasks.vocabulary.vocabulary import CONTROL_BLOCK, EOS_ID, PAD_ID, Vocabulary

PADDING_ID = 9
"""An unused control id, as the padding id of transformers: it is masked in attention, and id 0 starts each row."""

MODEL_FILE, TOKENIZER_FILE, CONFIG_FILE = "tokenizer.model", "tokenizer.json", "tokenizer_config.json"
MAX_MODEL_BYTES = 64 << 20  # Gemma's model of 256,000 pieces has 4 MB
_NEVER = -1e9  # the likeliest segmentation of a text wins; the log-probabilities of pieces are above -100
_SPACE = "\u2581"
# ModelProto.SentencePiece.Type of sentencepiece_model.proto
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = range(1, 7)


def write(vocabulary: Vocabulary, folder: pathlib.Path, max_length: int) -> None:
    """Writes the three tokenizer files.

    vocabulary: the vocabulary.

    folder: existing folder for the files.

    max_length: tokens of a row; transformers warns about longer texts.
    """
    proto = to_sentencepiece(vocabulary)
    (folder / MODEL_FILE).write_bytes(proto.SerializeToString(deterministic=True))
    tokenizer, config = to_tokenizer(proto), to_config(proto, max_length)
    for name, content in ((TOKENIZER_FILE, tokenizer), (CONFIG_FILE, config)):
        (folder / name).write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")


def to_sentencepiece(vocabulary: Vocabulary):
    """A SentencePiece ModelProto whose piece i is Castor's id i."""
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto.FromString(vocabulary.sentencepiece_model)
    pieces = list(proto.pieces)
    taken = {piece.piece for piece in pieces}
    del proto.pieces[:]
    for i in range(vocabulary.vocab_size):
        if CONTROL_BLOCK <= i < CONTROL_BLOCK + len(pieces):
            proto.pieces.append(pieces[i - CONTROL_BLOCK])
            continue
        name = vocabulary.name(i)
        while name in taken:  # a piece learned from text may equal the name of a token
            name = f"<|{name}|>"
        taken.add(name)
        proto.pieces.add(piece=name, score=0.0, type=_UNUSED if name.startswith("<unused_") else _CONTROL)
    spec = proto.trainer_spec
    spec.vocab_size, spec.unk_id = vocabulary.vocab_size, vocabulary.unk_id
    spec.bos_id, spec.bos_piece, spec.eos_id, spec.eos_piece = (
        PAD_ID,
        proto.pieces[PAD_ID].piece,
        EOS_ID,
        proto.pieces[EOS_ID].piece,
    )
    spec.pad_id, spec.pad_piece = PADDING_ID, proto.pieces[PADDING_ID].piece
    return proto


def to_tokenizer(proto) -> dict[str, Any]:
    """The content of tokenizer.json."""
    start = proto.pieces[PAD_ID].piece
    text = (_NORMAL, _USER_DEFINED)
    special = [
        i for i, piece in enumerate(proto.pieces) if i < CONTROL_BLOCK and (piece.type == _CONTROL or i == PADDING_ID)
    ]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": i, "content": proto.pieces[i].piece, **flags} for i in special],
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE},
        "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": start, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [
                {"SpecialToken": {"id": start, "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}},
                {"Sequence": {"id": "B", "type_id": 0}},
            ],
            "special_tokens": {start: {"id": start, "ids": [PAD_ID], "tokens": [start]}},
        },
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
            ],
        },
        "model": {
            "type": "Unigram",
            "unk_id": proto.trainer_spec.unk_id,
            "vocab": [[piece.piece, piece.score if piece.type in text else _NEVER] for piece in proto.pieces],
            "byte_fallback": True,
        },
    }


def to_config(proto, max_length: int) -> dict[str, Any]:
    """The content of tokenizer_config.json."""
    spec = proto.trainer_spec
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": spec.bos_piece,
        "eos_token": spec.eos_piece,
        "pad_token": spec.pad_piece,
        "unk_token": proto.pieces[spec.unk_id].piece,
        "add_bos_token": True,
        "clean_up_tokenization_spaces": False,
        "model_max_length": max_length,
    }


def from_sentencepiece(path: pathlib.Path) -> Vocabulary:
    """A vocabulary with the pieces of a tokenizer.model, without codes. Piece i gets id 256 + i.

    path: the tokenizer.model.

    Raises VocabularyError for an unreadable file, a model without byte pieces, and a model that normalizes text before
    segmentation, which Castor never does.
    """
    from google.protobuf.message import DecodeError
    from sentencepiece import sentencepiece_model_pb2

    remedy = (
        "Without this file the model is imported with its own ids; or give the Castor vocabulary with these ids: "
        "--vocabulary=DIR."
    )
    try:
        if path.stat().st_size > MAX_MODEL_BYTES:
            raise VocabularyError(f"{path} has {path.stat().st_size:,} bytes, too many for a tokenizer model.", remedy)
        model = path.read_bytes()
        normalizer = sentencepiece_model_pb2.ModelProto.FromString(model).normalizer_spec
    except (OSError, DecodeError) as error:
        raise VocabularyError(f"{path} cannot be read: {error}.", remedy) from error
    changes = [
        name
        for name in ("add_dummy_prefix", "remove_extra_whitespaces", "precompiled_charsmap")
        if getattr(normalizer, name)
    ]
    if changes:
        raise VocabularyError(f"{path} normalizes text before segmentation ({', '.join(changes)}).", remedy)
    return Vocabulary(model)
