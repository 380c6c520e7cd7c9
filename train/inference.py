"""Writing, drawing and describing with a trained model: prefill, then one token at a time with a key-value cache.

What may come next is a grammar's business, not luck's: before each token a `Grammar` names the ids that are allowed, and the rest are masked. A
drawing is <image>, its rows and columns, exactly so many image codes and </image>, so whatever the model has learned, an image comes out.
Tokens are sampled by temperature and top-k from a seed; temperature 0 takes the likeliest.
"""

import dataclasses
import functools
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

import tasks
from tasks import storage
from tasks.errors import CheckpointError, ConfigurationError, VocabularyError
from tasks.image import MAX_SIDE
from train import attention, loop
from train.checkpoints import CheckpointStore
from train.model import Decoder, KVCache, Transformer
from train.partitioning import Partitioner
from train.step import Trainer

START = 0  # the input before the first token of a segment, as in training (T5X's decoder inputs start with 0)


@dataclasses.dataclass(frozen=True)
class Sampling:
    """temperature 0: the likeliest token. top_k 0: all tokens. Equal seeds give equal tokens."""

    temperature: float = 0.8
    top_k: int = 40
    seed: int = 0

    def __post_init__(self):
        if not self.temperature >= 0 or self.top_k < 0:
            raise ConfigurationError(f"temperature {self.temperature}, top_k {self.top_k}: neither may be negative.")


@dataclasses.dataclass(frozen=True)
class Allowed:
    """The ids that may come next: low <= id < high, and `also` (-1: none). A span and one more id are all that the grammars need."""

    low: int
    high: int
    also: int = -1

    @classmethod
    def only(cls, i: int) -> "Allowed":
        return cls(i, i + 1)


class Model:
    """Parameters, their shape, and the vocabulary that they speak: what `load` finds in a MODEL_DIR."""

    def __init__(self, config: Transformer, parameters, vocabulary: tasks.Vocabulary, max_length: int, image_budget: int = 0):
        self.config, self.parameters, self.vocabulary, self.max_length = config, parameters, vocabulary, max_length
        self.image_budget = min(image_budget or max_length, max_length // 2)
        self._decode = jax.jit(functools.partial(_decode, Decoder(config)), donate_argnums=4)

    @classmethod
    def load(cls, model_dir: str, step: int | None = None, vocabulary_dir: str | None = None) -> "Model":
        """Reads the checkpoint of `step` (default: the latest), on one device. Raises CastorErrors for what is missing or does not fit."""
        told = loop.read_model_file(model_dir)
        config = Transformer(**told["model"])
        vocabulary = _vocabulary(model_dir, told["vocabulary"], vocabulary_dir)
        store = CheckpointStore(model_dir, read_only=True)
        try:
            step = store.latest() if step is None else step
            if step is None:
                raise CheckpointError(f"there is no checkpoint in {model_dir} yet.", "Train first: castor train.")
            place = Partitioner.create({}, jax.devices()[:1])
            abstract = Trainer(config, loop.AdamW(), place, 1).abstract_state().parameters
            parameters, _ = store.restore(step, abstract)
        finally:
            store.close()
        return cls(config, parameters, vocabulary, told["lengths"]["targets"], told["image_token_budget"])

    def write(self, prompt: str, sampling: Sampling = Sampling(), max_tokens: int | None = None) -> str:
        """Continues a text until the model ends it, `max_tokens` or the length that it was trained on. Returns the continuation alone."""
        ids = self.vocabulary.encode(prompt)
        return self.vocabulary.decode(list(self.sample(ids, self._text_only(), sampling, max_tokens)))

    def draw(self, caption: str, sampling: Sampling = Sampling(), size: tuple[int, int] | None = None) -> np.ndarray:
        """A picture for a caption: uint8 [H, W, 3]. size: rows and columns of patches; None leaves them to the model."""
        v = self.vocabulary
        v.need("image")
        prompt = [*v.encode(caption), v.control("<image>")]
        room = self.max_length - len(prompt) - 3  # two sizes and </image>
        if room < 1 or (size and not (min(size) >= 1 and max(size) <= MAX_SIDE and size[0] * size[1] <= room)):
            asked = f"a picture of {size[0]} x {size[1]} patches" if size else "a picture"
            raise ConfigurationError(f"{asked} does not fit the {self.max_length} tokens of the model after a caption of {len(prompt) - 1}.")
        ids = list(self.sample(prompt, self._picture(room, size), sampling))
        return v.decode_image([v.control("<image>"), *ids])

    def describe(self, pixels: np.ndarray, sampling: Sampling = Sampling(), max_tokens: int = 64) -> str:
        """A caption for a picture, uint8 [H, W, 3], which is seen as large as in training, as far as half the model's length allows."""
        self.vocabulary.need("image")
        ids = self.vocabulary.encode_image(pixels, self.image_budget)
        return self.vocabulary.decode(list(self.sample(ids, self._text_only(), sampling, max_tokens)))

    def sample(self, prompt: Sequence[int], grammar: "Iterator[Allowed]", sampling: Sampling, max_tokens: int | None = None) -> Iterator[int]:
        """The ids that follow a prompt, each allowed by the grammar, which is sent the id chosen; ends with the grammar or the room."""
        room = self.max_length - len(prompt)
        if room < 1:
            raise ConfigurationError(f"the prompt is {len(prompt)} tokens long; the model was trained on {self.max_length}.", "Shorten it.")
        tokens = [START, *prompt]
        # Prompts are padded to a few lengths, so that few programs are compiled.
        padded = min(-(-len(tokens) // 32) * 32, self.max_length + 1)
        cache = KVCache.create(self.config, 1, self.max_length + 1)
        ids = np.zeros((1, padded), np.int32)
        ids[0, : len(tokens)] = tokens
        key = jax.random.key(sampling.seed)
        settings = (np.float32(sampling.temperature), np.int32(sampling.top_k or self.config.vocab_size))
        position, length = 0, len(tokens)
        allowed = next(grammar)
        for _ in range(room if max_tokens is None else min(room, max_tokens)):
            mask = np.array([allowed.low, allowed.high, allowed.also], np.int32)
            chosen, cache = self._decode(self.parameters, ids, np.int32(position), np.int32(length), cache, mask, key, *settings)
            chosen = int(chosen)
            yield chosen
            position, length = position + length, 1
            ids = np.array([[chosen]], np.int32)
            try:
                allowed = grammar.send(chosen)
            except StopIteration:
                return

    def _text_only(self) -> "Iterator[Allowed]":
        v = self.vocabulary
        while True:
            chosen = yield Allowed(v.text_range.start, v.text_range.stop, v.eos_id)
            if chosen == v.eos_id:
                return

    def _picture(self, room: int, size: tuple[int, int] | None) -> "Iterator[Allowed]":
        v = self.vocabulary
        first = v.size_range.start

        def side(given: int | None, most: int) -> Allowed:
            return Allowed.only(first + given - 1) if given else Allowed(first, first + min(most, MAX_SIDE))

        rows = (yield side(size and size[0], room)) - first + 1
        columns = (yield side(size and size[1], room // rows)) - first + 1
        for _ in range(rows * columns):
            yield Allowed(v.image_range.start, v.image_range.stop)
        yield Allowed.only(v.control("</image>"))


def _decode(decoder: Decoder, parameters, tokens_1xL, position, length, cache: KVCache, mask, key, temperature, top_k):
    """Reads `length` of the tokens [1, L], standing from `position` on, and samples the id that follows. Returns (int32 [], cache)."""
    positions_1xL = position + jnp.arange(tokens_1xL.shape[1], dtype=jnp.int32)[None]
    logits_1xV, cache = decoder.apply({"params": parameters}, tokens_1xL, positions_1xL, length[None], cache, method="decode")
    ids_V = jnp.arange(logits_1xV.shape[1])
    allowed_V = ((ids_V >= mask[0]) & (ids_V < mask[1])) | (ids_V == mask[2])
    logits_V = jnp.where(allowed_V, logits_1xV[0], attention.MASKED)
    kth = jnp.sort(logits_V)[jnp.maximum(ids_V.shape[0] - top_k, 0)]
    kept_V = jnp.where(logits_V >= kth, logits_V, attention.MASKED)
    sampled = jax.random.categorical(jax.random.fold_in(key, position + length), kept_V / jnp.maximum(temperature, 1e-6))
    return jnp.where(temperature > 0, sampled, jnp.argmax(logits_V)).astype(jnp.int32), cache


def _vocabulary(model_dir: str, told: dict, given: str | None) -> tasks.Vocabulary:
    copy = storage.join(model_dir, loop.VOCABULARY_FOLDER)
    path = given or (copy if storage.is_directory(copy) else told["path"])
    if not storage.is_directory(path):
        raise VocabularyError(f"the vocabulary of {model_dir} is neither in it nor at {path!r}.", "Give --vocabulary=DIR.")
    vocabulary = tasks.Vocabulary.load(path)
    if vocabulary.fingerprint != told["fingerprint"]:
        raise VocabularyError(
            f"{model_dir} was trained with vocabulary {told['fingerprint']}; {path} is {vocabulary.fingerprint}.", "Give the one it was trained with: --vocabulary=DIR."
        )
    return vocabulary
