"""Text to pieces and back, without loss: decode(encode(x)) == x for every string of Unicode characters.

SentencePiece's unigram model (Kudo, arXiv 1804.10959) with byte fallback and split digits, identity normalization, and no blank added or
removed, so that code keeps its indentation. Newline and tab are pieces of their own, and so is each printable ASCII character. Two things
are done around the library: its blank U+2581 is spelled in bytes where it occurs in a text, and decoding joins the bytes of the pieces
here, so that any sequence of ids has a text. Long texts are encoded in bounded cuts. sentencepiece is imported when it is first used;
0.2.2 and later cannot be installed beside Beam (protobuf 7), so constraints.txt holds it below.
"""

import collections
import functools
import io
import re
from collections.abc import Iterable, Iterator, Sequence

from castor.tasks.errors import ConfigurationError, VocabularyError

MIN_PIECES = 512  # 256 bytes, newline, tab, unknown, and room for letters
UNKNOWN = 0

_REMEDY = "Make the vocabulary again with castor data vocabulary."
_BLANK = "\u2581"
_SURROGATES = re.compile("[\ud800-\udfff]")
_CUT = 1 << 15  # characters encoded at a time
_LINE = 4096  # characters of one training sentence
_COVERAGE = 0.9995  # share of characters that get a piece; the library's default for rich character sets


class Pieces:
    """A trained model. Ids run from 0; 0 is `<unk>`, which byte fallback leaves unused."""

    def __init__(self, model: bytes):
        import sentencepiece

        self.model = model
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
            count = self._processor.vocab_size()
            self._bytes = [self._spelling(i) for i in range(count)]
            self._blank = [self._processor.piece_to_id(f"<0x{byte:02X}>") for byte in _BLANK.encode()]
        except (RuntimeError, TypeError, ValueError, OSError) as error:
            raise VocabularyError(f"the SentencePiece model cannot be read: {error}.", _REMEDY) from error
        if any(not self._processor.is_byte(i) for i in self._blank):
            raise VocabularyError("the SentencePiece model has no byte pieces.", _REMEDY)

    def __reduce__(self):
        return Pieces, (self.model,)

    def __len__(self) -> int:
        return len(self._bytes)

    def encode(self, text: str) -> list[int]:
        """Text -> ids. A lone surrogate, which is no character, becomes U+FFFD."""
        ids: list[int] = []
        for cut in _cuts(_SURROGATES.sub("\ufffd", text), _CUT):
            for i, part in enumerate(cut.split(_BLANK)):
                if i:
                    ids.extend(self._blank)
                if part:
                    ids.extend(self._processor.encode(part, out_type=int))
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """Ids, each in 0..len-1 -> text. Bytes that are no UTF-8 become U+FFFD."""
        return b"".join([self._bytes[i] for i in ids]).decode("utf-8", errors="replace")

    def piece(self, i: int) -> str:
        """The library's name of a piece."""
        return self._processor.id_to_piece(i)

    def byte_lengths(self) -> list[int]:
        """Bytes of UTF-8 that each piece stands for."""
        return [len(data) for data in self._bytes]

    def _spelling(self, i: int) -> bytes:
        if self._processor.is_byte(i):
            return bytes([int(self._processor.id_to_piece(i)[3:5], 16)])
        if self._processor.is_unknown(i):
            return "\ufffd".encode()
        return self._processor.id_to_piece(i).replace(_BLANK, " ").encode()


def train(texts: Iterable[str], pieces: int) -> bytes:
    """Trains a model of at most `pieces` pieces (fewer for a small sample). Equal texts in equal order give equal bytes.

    Raises ConfigurationError where `pieces` is below MIN_PIECES.
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
    """Lines in bounded cuts, without what the trainer cannot take (NUL, its own blank, half characters)."""
    clean = _SURROGATES.sub("\ufffd", text).replace("\0", "").replace(_BLANK, " ")
    for line in clean.split("\n"):
        for cut in _cuts(line, _LINE):
            if cut.strip():
                yield cut


def _with_common_characters(sentences: Sequence[str], most: int) -> list[str]:
    """The sentences, cut where a character is too rare for a piece of its own, with one more that holds all of printable ASCII.

    A character has a piece if it is among the `most` commonest and among those that make up _COVERAGE of the text. The library's own
    coverage cannot go low enough for a small vocabulary over many scripts. It takes a tab, which is a piece by itself, for a boundary.
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
    """`text` in pieces of at most `most` characters, cut before a blank or newline where the last half of the piece has one."""
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
    """The model in these bytes, parsed once a process."""
    return Pieces(model)
