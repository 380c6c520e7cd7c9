"""Lossless conversion of text to pieces and back: decode(encode(x)) == x for every string of Unicode characters.

The model is SentencePiece's unigram model (Kudo, arXiv 1804.10959) with byte fallback, split digits and identity
normalization. No space is added or removed, so code keeps its indentation. Newline, tab and each printable ASCII
character are pieces. Two things differ from the library. Its space symbol U+2581 is encoded as bytes where a text
contains it. And decoding joins the bytes of the pieces here, so that every sequence of ids has a text. Long texts are
encoded in bounded cuts. sentencepiece is imported on first use. Versions from 0.2.2 on cannot be installed with Beam
(protobuf 7), so constraints.txt excludes them.
"""

import collections
import functools
import io
import re
from collections.abc import Iterable, Iterator, Sequence

from castor.tasks.errors import ConfigurationError, VocabularyError

MIN_PIECES = 512  # 256 bytes, newline, tab, unknown, and room for letters
UNKNOWN = 0

_REMEDY = "Remake the vocabulary with castor data vocabulary."
_SPACE = "\u2581"
_SURROGATES = re.compile("[\ud800-\udfff]")
_CUT = 1 << 15  # characters per call of the encoder
_LINE = 4096  # characters per training sentence
_COVERAGE = 0.9995  # share of characters that get a piece; the library's default for rich character sets


class Pieces:
    """A trained model. Ids start at 0; 0 is `<unk>`, which byte fallback never produces.

    model: serialized SentencePiece model.

    Raises VocabularyError for an unreadable model or one without byte pieces.
    """

    def __init__(self, model: bytes):
        import sentencepiece

        self.model = model
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
            count = self._processor.vocab_size()
            self._bytes = [self._spelling(i) for i in range(count)]
            self._space = [self._processor.piece_to_id(f"<0x{byte:02X}>") for byte in _SPACE.encode()]
        except (RuntimeError, TypeError, ValueError, OSError) as error:
            raise VocabularyError(f"the SentencePiece model cannot be read: {error}.", _REMEDY) from error
        if any(not self._processor.is_byte(i) for i in self._space):
            raise VocabularyError("the SentencePiece model has no byte pieces.", _REMEDY)

    def __reduce__(self):
        return Pieces, (self.model,)

    def __len__(self) -> int:
        return len(self._bytes)

    def encode(self, text: str) -> list[int]:
        """The ids of a text. A lone surrogate, which is not a character, becomes U+FFFD."""
        ids: list[int] = []
        for cut in _cuts(_SURROGATES.sub("\ufffd", text), _CUT):
            for i, part in enumerate(cut.split(_SPACE)):
                if i:
                    ids.extend(self._space)
                if part:
                    ids.extend(self._processor.encode(part, out_type=int))
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids, each in 0..len-1. Bytes that are not UTF-8 become U+FFFD."""
        return b"".join([self._bytes[i] for i in ids]).decode("utf-8", errors="replace")

    def piece(self, i: int) -> str:
        """The library's name of a piece, with U+2581 for each space."""
        return self._processor.id_to_piece(i)

    def byte_lengths(self) -> list[int]:
        """The number of UTF-8 bytes of each piece."""
        return [len(data) for data in self._bytes]

    def _spelling(self, i: int) -> bytes:
        if self._processor.is_byte(i):
            return bytes([int(self._processor.id_to_piece(i)[3:5], 16)])
        if self._processor.is_unknown(i):
            return "\ufffd".encode()
        return self._processor.id_to_piece(i).replace(_SPACE, " ").encode()


def train(texts: Iterable[str], pieces: int) -> bytes:
    """Trains a model of at most `pieces` pieces, fewer for a small sample. Equal texts in equal order give equal bytes.

    texts: texts of the sample.

    pieces: number of pieces, at least MIN_PIECES.

    Raises ConfigurationError for too few pieces and if the library cannot train the model.
    """
    import sentencepiece

    if pieces < MIN_PIECES:
        raise ConfigurationError(
            f"a vocabulary of {pieces} pieces is too small.", f"Set VOCAB_SIZE to {MIN_PIECES} or more."
        )
    sentences = _with_common_characters(
        [line for text in texts for line in _sentences(text)], (pieces - MIN_PIECES // 2) // 2
    )
    buffer = io.BytesIO()
    try:
        sentencepiece.set_random_generator_seed(0)
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sentences),
            model_writer=buffer,
            model_type="unigram",
            vocab_size=pieces,
            hard_vocab_limit=False,
            byte_fallback=True,
            split_digits=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            add_dummy_prefix=False,
            allow_whitespace_only_pieces=True,
            user_defined_symbols=["\n", "\t"],
            character_coverage=1.0,
            max_sentence_length=4 * _LINE,
            shuffle_input_sentence=False,
            num_threads=1,
            unk_id=UNKNOWN,
            bos_id=-1,
            eos_id=-1,
            pad_id=-1,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise ConfigurationError(
            f"SentencePiece cannot train {pieces} pieces: {error}.", "Set another VOCAB_SIZE."
        ) from error
    return buffer.getvalue()


def _sentences(text: str) -> Iterator[str]:
    """Lines in bounded cuts, without characters that the trainer rejects (NUL, U+2581, surrogates)."""
    clean = _SURROGATES.sub("\ufffd", text).replace("\0", "").replace(_SPACE, " ")
    for line in clean.split("\n"):
        for cut in _cuts(line, _LINE):
            if cut.strip():
                yield cut


def _with_common_characters(sentences: Sequence[str], most: int) -> list[str]:
    """The sentences with rare characters removed, and one more sentence of all printable ASCII characters.

    A sentence is cut at each rare character. A character gets a piece if it is among the `most` most common ones and
    among those that make up _COVERAGE of the text. The library's own coverage parameter cannot go low enough for a
    small vocabulary over many scripts. A tab, which is a piece of its own, marks each cut.
    """
    counts = collections.Counter()
    for sentence in sentences:
        counts.update(sentence)
    common, covered, enough = set(map(chr, range(32, 127))), 0, _COVERAGE * sum(counts.values())
    for character, count in sorted(counts.items(), key=_commonest_first)[:most]:
        if covered >= enough:
            break
        common.add(character)
        covered += count
    rare = {ord(character): "\t" for character in counts if character not in common}
    return [*(sentence.translate(rare) for sentence in sentences), " ".join(map(chr, range(32, 127)))]


def _commonest_first(item: tuple[str, int]) -> tuple[int, str]:
    return -item[1], item[0]


def _cuts(text: str, most: int) -> Iterator[str]:
    """`text` in cuts of at most `most` characters, before a space or newline if the second half of a cut has one."""
    start = 0
    while len(text) - start > most:
        stop = max(text.rfind(" ", start + most // 2, start + most), text.rfind("\n", start + most // 2, start + most))
        stop = stop if stop > start else start + most
        yield text[start:stop]
        start = stop
    if start < len(text):
        yield text[start:]


@functools.lru_cache(maxsize=4)
def load(model: bytes) -> Pieces:
    """The model of these bytes, parsed once per process."""
    return Pieces(model)
