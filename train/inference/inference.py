"""Writing, drawing, describing and scoring with a trained model: what `castor infer` and a notebook need of a MODEL_DIR.

    model = Model.load("model")
    model.write("The library")                      # one text
    model.draw("a red square")                      # uint8 [H, W, 3]
    model.answer([model.text_request(t) for t in texts])     # many at once: train/inference/decode.py
    model.score([("The library", " is open"), ("The library", " are open")])
    model.session()                                 # a stream that keeps its cache

How tokens are chosen is train/inference/sampling.py's, what may come next train/inference/grammar.py's, and batches and caches are train/inference/decode.py's.
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
    """Parameters, their shape, and the vocabulary that they speak: what `load` finds in a MODEL_DIR.

    max_length: tokens that it was trained on. image_budget: codes of a picture that it sees. partitioner: the mesh that the parameters lie on.
    step: the checkpoint's.
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
            grammar.Table.of(vocabulary),
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
        """Reads the checkpoint of `step` (default: the latest) onto a mesh (default: one device). vocabulary_dir: see
        `ModelDescription.load_vocabulary`. Raises the CastorError that names what is missing or does not fit."""
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
        """What tells these parameters from others of their shape: a digest of a sample of them."""
        parameters = self.generator.parameters
        sample = jax.device_get((parameters["final_norm"]["scale"], parameters["embedding"][:4]))
        return hashlib.sha256(b"".join(np.asarray(array, np.float32).tobytes() for array in sample)).hexdigest()[:32]

    # One at a time.

    def write(self, prompt: str, sampling: Sampling = Sampling(), max_tokens: int | None = None) -> str:
        """Continues a text until the model ends it, `max_tokens` or the length that it was trained on. Returns the continuation alone."""
        return self.vocabulary.decode(self.answer([self.text_request(prompt, sampling, max_tokens)])[0])

    def draw(self, caption: str, sampling: Sampling = Sampling(), size: tuple[int, int] | None = None) -> np.ndarray:
        """A picture for a caption: uint8 [H, W, 3]. size: rows and columns of patches; None leaves them to the model."""
        return self.picture(self.answer([self.picture_request(caption, sampling, size)])[0])

    def describe(self, pixels: np.ndarray, sampling: Sampling = Sampling(), max_tokens: int = 64) -> str:
        """A caption for a picture, uint8 [H, W, 3], which is seen as large as in training, as far as half the model's length allows."""
        return self.vocabulary.decode(self.answer([self.caption_request(pixels, sampling, max_tokens)])[0])

    def sample(
        self, prompt: Sequence[int], grammar: Grammar, sampling: Sampling, max_tokens: int | None = None
    ) -> Iterator[int]:
        """The ids that follow a prompt, as they come; ends with the grammar, `max_tokens` or the room."""
        session = self.session()
        session.read(prompt)
        for ids in session.write(grammar, sampling, max_tokens):
            yield from ids

    def session(self) -> Session:
        """A new stream that keeps its cache between what it reads and writes."""
        return Session(self.generator)

    # Many at once.

    def answer(self, requests: Sequence[Request], on_done: Callable[[int], None] | None = None) -> list[list[int]]:
        """The ids that follow each request's prompt. on_done is told how many requests each batch finished."""
        return self.generator(requests, on_done)

    def score(self, pairs: Sequence[tuple[str, str]], on_done: Callable[[int], None] | None = None) -> list[Score]:
        """How likely each (prompt, continuation) is, token by token; the continuation's tokens are those that it has alone."""
        encode = self.vocabulary.encode
        return self.scorer([(encode(prompt), encode(continuation)) for prompt, continuation in pairs], on_done)

    def text_request(self, prompt: str, sampling: Sampling = Sampling(), max_tokens: int | None = None) -> Request:
        return Request(self.vocabulary.encode(prompt), Grammar.text(), sampling, max_tokens)

    def picture_request(
        self, caption: str, sampling: Sampling = Sampling(), size: tuple[int, int] | None = None
    ) -> Request:
        """To draw a caption. Raises ConfigurationError where a picture of that size does not fit, VocabularyError where there are no codes."""
        self.vocabulary.need("image")
        prompt = [*self.vocabulary.encode(caption), self.vocabulary.control("<image>")]
        return Request(prompt, self.picture_grammar(len(prompt), size), sampling)

    def caption_request(self, pixels: np.ndarray, sampling: Sampling = Sampling(), max_tokens: int = 64) -> Request:
        self.vocabulary.need("image")
        return Request(self.vocabulary.encode_image(pixels, self.image_budget), Grammar.text(), sampling, max_tokens)

    def picture_grammar(self, before: int, size: tuple[int, int] | None = None) -> Grammar:
        """What follows <image> after so many ids, itself included."""
        room = self.max_length - before - 3  # two sizes and </image>
        if room < 1 or (size and not (min(size) >= 1 and max(size) <= MAX_SIDE and size[0] * size[1] <= room)):
            asked = f"a picture of {size[0]} x {size[1]} patches" if size else "a picture"
            raise ConfigurationError(
                f"{asked} does not fit the {self.max_length} tokens of the model after a caption of {before - 1}."
            )
        return Grammar.picture(room, size)

    def picture(self, ids: Sequence[int]) -> np.ndarray:
        """The answer to a picture_request as pixels: uint8 [H, W, 3]."""
        return self.vocabulary.decode_image([self.vocabulary.control("<image>"), *ids])
