"""Names and files of a MODEL_DIR, the folder of one training run. This module knows neither JAX nor the trainer.

checkpoint_<step>/     parameters, optimizer state and metadata (train/checkpoints/checkpoints.py)
metrics.jsonl          one line per step; evaluation.jsonl: one line per evaluation
tensorboard/           the same numbers for TensorBoard
config/                the operative gin configuration of every start, as NNN_step_S.gin; never overwritten
model.json             what inference needs: the model's configuration and its vocabulary
vocabulary/            a copy of the vocabulary
logs/                  logs of the hosts of `castor launch local`
COMPLETED              written after the last step, with the checksum of the parameters
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from castor import tasks
from castor.tasks.errors import ConfigurationError, VocabularyError
from castor.tasks.storage import storage

METRICS_FILE, EVALUATION_FILE = "metrics.jsonl", "evaluation.jsonl"
TENSORBOARD_FOLDER = "tensorboard"
CONFIG_FOLDER = "config"
MODEL_FILE = "model.json"
VOCABULARY_FOLDER = "vocabulary"
LOG_FOLDER = "logs"
COMPLETED_FILE = "COMPLETED"


@dataclasses.dataclass(frozen=True)
class ModelDescription:
    """The content of model.json.

    model: the fields of castor.train.model.decoder.DecoderConfig.
    image_token_budget: largest number of image codes that tokenization allowed per picture; 0 if the caches have no
        pictures.
    vocabulary: {"path", "fingerprint", "size"}: its path at training time, its fingerprint and its number of ids. The
        fingerprint is None for an imported model without a vocabulary.
    lengths: {"targets": tokens per row}.
    domains: components of the mixture.
    mixture: fingerprint of the data.
    """

    model: Mapping[str, Any]
    image_token_budget: int
    vocabulary: Mapping[str, Any]
    lengths: Mapping[str, int]
    domains: Sequence[str]
    mixture: str

    @classmethod
    def read(cls, model_dir: str) -> "ModelDescription":
        """Reads model.json. Raises ConfigurationError if the file is missing or unreadable."""
        path = storage.join(model_dir, MODEL_FILE)
        try:
            content = json.loads(storage.read_bytes(path))
            return cls(**{field.name: content[field.name] for field in dataclasses.fields(cls)})
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigurationError(
                f"{model_dir} holds no model: {path} cannot be read.", "Give the MODEL_DIR of a castor train run."
            ) from error

    def write(self, model_dir: str) -> None:
        storage.write_json_atomic(storage.join(model_dir, MODEL_FILE), dataclasses.asdict(self))

    def load_vocabulary(self, model_dir: str, directory: str | None = None) -> tasks.Vocabulary:
        """The vocabulary that the model was trained with.

        model_dir: the MODEL_DIR, whose copy of the vocabulary is preferred to its path at training time.
        directory: a folder to load the vocabulary from instead.

        Raises VocabularyError if the vocabulary is missing or its fingerprint is not the model's.
        """
        copy = storage.join(model_dir, VOCABULARY_FOLDER)
        path = directory or (copy if storage.is_directory(copy) else self.vocabulary["path"])
        if not storage.is_directory(path):
            raise VocabularyError(
                f"the vocabulary of {model_dir} is neither in that folder nor at {path!r}.", "Give --vocabulary=DIR."
            )
        vocabulary = tasks.Vocabulary.load(path)
        expected = self.vocabulary["fingerprint"]
        if vocabulary.fingerprint != expected:
            raise VocabularyError(
                f"{model_dir} was trained with vocabulary {expected}; {path} is {vocabulary.fingerprint}.",
                "Give the vocabulary it was trained with: --vocabulary=DIR.",
            )
        return vocabulary


def write_configuration(model_dir: str, config: str, start: int) -> None:
    """Writes the operative gin configuration of a start as config/NNN_step_S.gin, numbered after the earlier ones.

    config: the gin text.
    start: the step S that the run starts from.
    """
    folder = storage.join(model_dir, CONFIG_FOLDER)
    storage.makedirs(folder)
    number = 1 + max((int(name[:3]) for name in storage.list_files(folder) if name[:3].isdigit()), default=-1)
    storage.write_bytes_atomic(storage.join(folder, f"{number:03d}_step_{start}.gin"), config.encode())


def latest_configuration(model_dir: str) -> str:
    """Path of the gin configuration of the latest start. Raises ConfigurationError if the folder holds none."""
    folder = storage.join(model_dir, CONFIG_FOLDER)
    names = [name for name in storage.list_files(folder) if name.endswith(".gin")]
    if not names:
        raise ConfigurationError(
            f"{model_dir} holds no run: {folder} has no gin configuration.",
            "Give the MODEL_DIR of a castor train run.",
        )
    return storage.join(folder, names[-1])


def write_completed(model_dir: str, step: int, parameters_checksum: str) -> None:
    """Marks the run as finished. The checksum of the parameters lets runs be compared."""
    storage.write_json_atomic(
        storage.join(model_dir, COMPLETED_FILE), {"step": step, "parameters": parameters_checksum}
    )


def remove_completed(model_dir: str) -> None:
    """Removes the COMPLETED file, if any, when a run starts or continues."""
    storage.remove(storage.join(model_dir, COMPLETED_FILE))
