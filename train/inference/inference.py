"""Inference with a trained model: text, images, captions and scores.

`castor infer` and notebooks start from a MODEL_DIR:

    model = Model.load("model")
    model.generate_text("The library")                          # one text
    model.generate_image("a red square")                        # uint8 [H, W, 3]
    model.generate([model.text_request(t) for t in texts])      # a batch: train/inference/decode.py
    model.score([("The library", " is open"), ("The library", " are open")])
    model.session()                                             # one stream whose key-value cache persists

Sampling is in train/inference/sampling.py, constraints on the next token in train/inference/grammar.py, batches and
caches in train/inference/decode.py.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import jax
import numpy as np

from castor import tasks
from castor.tasks.errors import ConfigurationError
from castor.tasks.vocabulary.image import MAX_SIDE
from castor.train.checkpoints.parameters import load_parameters
from castor.train.inference import grammar
from castor.train.inference.decode import Generator, Request, Session, compute_parameters
from castor.train.inference.grammar import Grammar
from castor.train.inference.sampling import Sampling
from castor.train.inference.scoring import Score, Scorer
from castor.train.model.decoder import DecoderConfig
from castor.train.model_dir import ModelDescription
from castor.train.partitioning import MeshConfig, Partitioner

__all__ = ["Model", "Request", "Sampling", "Score"]


class Model:
    """A model's configuration, parameters and vocabulary, as loaded from a MODEL_DIR.

    config, parameters, vocabulary: the model.
    max_length: tokens per row in training.
    image_budget: image codes per picture that the model reads.
    partitioner: mesh of the parameters; None: one device.
    batch_size: largest number of rows decoded together.
    step: step of the checkpoint.
    """

    def __init__(
        self,
        config: DecoderConfig,
        parameters,
        vocabulary: tasks.Vocabulary,
        max_length: int,
        image_budget: int = 0,
        partitioner: Partitioner | None = None,
        batch_size: int = 32,
        step: int | None = None,
    ):
        self.config, self.vocabulary, self.max_length = config, vocabulary, max_length
        self.image_budget = min(image_budget or max_length, max_length // 2)
        self.step = step
        self.generator = Generator(
            config,
            compute_parameters(config, parameters),
            grammar.GrammarTokens.of(vocabulary),
            max_length,
            partitioner,
            batch_size,
        )
        self.scorer = Scorer(config, self.generator.parameters, max_length, partitioner)

    @classmethod
    def load(
        cls,
        model_dir: str,
        step: int | None = None,
        vocabulary_dir: str | None = None,
        mesh: MeshConfig | Mapping[str, int] | None = None,
        batch_size: int = 32,
    ) -> "Model":
        """Loads a checkpoint from a MODEL_DIR.

        step: default: the latest checkpoint.
        vocabulary_dir: see `ModelDescription.load_vocabulary`.
        mesh: default: one device.
        batch_size: largest number of rows decoded together.

        Raises the CastorError that names what is missing or does not fit.
        """
        description = ModelDescription.read(model_dir)
        config = DecoderConfig(**description.model)
        vocabulary = description.load_vocabulary(model_dir, vocabulary_dir)
        partitioner = Partitioner.create({}, jax.devices()[:1]) if mesh is None else Partitioner.create(mesh)
        config.check_mesh(partitioner)
        step, parameters = load_parameters(model_dir, config, partitioner, step)
        return cls(
            config,
            parameters,
            vocabulary,
            description.lengths["targets"],
            description.image_token_budget,
            partitioner if partitioner.mesh.size > 1 else None,
            batch_size,
            step,
        )

    def fingerprint(self) -> str:
        """Identifies these parameters: 32 hex digits of SHA-256 over a sample of them."""
        parameters = self.generator.parameters
        sample = jax.device_get((parameters["final_norm"]["scale"], parameters["embedding"][:4]))
        return hashlib.sha256(b"".join(np.asarray(array, np.float32).tobytes() for array in sample)).hexdigest()[:32]

    # Single requests.

    def generate_text(self, prompt: str, sampling: Sampling = Sampling(), max_tokens: int | None = None) -> str:
        """Continues a text up to eos, `max_tokens` or the training length. Returns only the continuation."""
        return self.vocabulary.decode(self.generate([self.text_request(prompt, sampling, max_tokens)])[0])

    def generate_image(
        self, caption: str, sampling: Sampling = Sampling(), size: tuple[int, int] | None = None
    ) -> np.ndarray:
        """An image for a caption: uint8 [H, W, 3]. size: rows and columns of patches; None: the model chooses."""
        return self.decode_image(self.generate([self.image_request(caption, sampling, size)])[0])

    def caption_image(self, pixels: np.ndarray, sampling: Sampling = Sampling(), max_tokens: int = 64) -> str:
        """A caption for an image, uint8 [H, W, 3].

        The image is encoded at its training size, within half of the model's length.
        """
        return self.vocabulary.decode(self.generate([self.caption_request(pixels, sampling, max_tokens)])[0])

    def sample(
        self, prompt: Sequence[int], grammar: Grammar, sampling: Sampling, max_tokens: int | None = None
    ) -> Iterator[int]:
        """Yields the ids after a prompt one by one, until the grammar, `max_tokens` or the training length ends."""
        session = self.session()
        session.read(prompt)
        for ids in session.write(grammar, sampling, max_tokens):
            yield from ids

    def session(self) -> Session:
        """A new stream whose key-value cache persists between reads and writes."""
        return Session(self.generator)

    # Batches.

    def generate(self, requests: Sequence[Request], on_done: Callable[[int], None] | None = None) -> list[list[int]]:
        """The ids after each request's prompt.

        on_done: called after each batch with the number of requests it finished.
        """
        return self.generator(requests, on_done)

    def score(self, pairs: Sequence[tuple[str, str]], on_done: Callable[[int], None] | None = None) -> list[Score]:
        """Log-probabilities of each (prompt, continuation), token by token.

        Prompt and continuation are tokenized separately.
        """
        encode = self.vocabulary.encode
        return self.scorer([(encode(prompt), encode(continuation)) for prompt, continuation in pairs], on_done)

    def text_request(self, prompt: str, sampling: Sampling = Sampling(), max_tokens: int | None = None) -> Request:
        return Request(self.vocabulary.encode(prompt), Grammar.text(), sampling, max_tokens)

    def image_request(
        self, caption: str, sampling: Sampling = Sampling(), size: tuple[int, int] | None = None
    ) -> Request:
        """A request for the image of a caption.

        size: rows and columns of patches; None: the model chooses.

        Raises ConfigurationError if an image of that size does not fit, and VocabularyError if the vocabulary has no
        image codes.
        """
        self.vocabulary.need("image")
        prompt = [*self.vocabulary.encode(caption), self.vocabulary.control("<image>")]
        return Request(prompt, self.image_grammar(len(prompt), size), sampling)

    def caption_request(self, pixels: np.ndarray, sampling: Sampling = Sampling(), max_tokens: int = 64) -> Request:
        self.vocabulary.need("image")
        return Request(self.vocabulary.encode_image(pixels, self.image_budget), Grammar.text(), sampling, max_tokens)

    def image_grammar(self, before: int, size: tuple[int, int] | None = None) -> Grammar:
        """The grammar of an image. before: number of ids up to and including <image>."""
        room = self.max_length - before - 3  # two sizes and </image>
        if room < 1 or (size and not (min(size) >= 1 and max(size) <= MAX_SIDE and size[0] * size[1] <= room)):
            picture = f"a picture of {size[0]} x {size[1]} patches" if size else "a picture"
            raise ConfigurationError(
                f"{picture} does not fit the {self.max_length} tokens of the model after a caption of {before - 1}."
            )
        return Grammar.picture(room, size)

    def decode_image(self, ids: Sequence[int]) -> np.ndarray:
        """Pixels of the ids generated for an image_request: uint8 [H, W, 3]."""
        return self.vocabulary.decode_image([self.vocabulary.control("<image>"), *ids])
