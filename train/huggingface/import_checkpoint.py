"""Imports a Hugging Face folder as a MODEL_DIR (`castor import`). train/huggingface/gemma.py maps the parameters.

The MODEL_DIR holds a checkpoint of step 0 with parameters and no optimizer state. A run starts from it with `castor
train --warm_start`.
"""

import contextlib
import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from castor import tasks
from castor.tasks.checks import check_integer
from castor.tasks.errors import CheckpointError, ConfigurationError, VocabularyError
from castor.tasks.integrations import huggingface_tokenizer
from castor.tasks.storage import lock, storage
from castor.train.checkpoints.checkpoints import CheckpointStore
from castor.train.huggingface import gemma, safetensors_files
from castor.train.huggingface.folder import CASTOR_FILE, CASTOR_VOCABULARY, CONFIG_FILE
from castor.train.model.decoder import DecoderConfig, count_parameters
from castor.train.model_dir import VOCABULARY_FOLDER, ModelDescription

IMPORTED = "imported"  # in place of a mixture's fingerprint


def import_checkpoint(
    source: str, model_dir: str, vocabulary_dir: str | None = None, dtype: str = "float32"
) -> tuple[DecoderConfig, int]:
    """Imports the folder `source` into `model_dir`, which must have no checkpoint.

    Returns (model, number of parameters).

    source: folder with config.json and *.safetensors.
    vocabulary_dir: the model's vocabulary; default: the one that `castor export` put into the folder.
    dtype: "float32" or "bfloat16", of the model's matrix products.

    Without either vocabulary, tokenizer.model becomes a vocabulary, and the rows of the embedding move to the ids of
    its pieces (`remap_embedding`). Without that file the ids are unchanged, and the model has no vocabulary.
    """
    folder = pathlib.Path(source)
    if not folder.is_dir():
        raise CheckpointError(
            f"the folder {source} does not exist.", "Give a folder with config.json and *.safetensors."
        )
    config = safetensors_files.read_json(folder / CONFIG_FILE)
    model, length = gemma.from_config(config, dtype)
    own, pieces = folder / CASTOR_VOCABULARY, folder / huggingface_tokenizer.MODEL_FILE
    path = vocabulary_dir or (str(own) if own.is_dir() else None)
    remaps = path is None and pieces.is_file()
    vocabulary = None
    if path:
        vocabulary = tasks.Vocabulary.load(path)
    elif remaps:
        vocabulary = huggingface_tokenizer.from_sentencepiece(pieces)
    if path and vocabulary.vocab_size > model.vocab_size:
        raise VocabularyError(
            f"the vocabulary {path} has {vocabulary.vocab_size} ids; the embedding of {source} has {model.vocab_size} "
            "rows.",
            "Give the vocabulary that the model was trained with.",
        )
    with lock.hold(model_dir, "MODEL_DIR") as held:
        with contextlib.closing(CheckpointStore(model_dir, read_only=True)) as store:
            if store.latest() is not None:
                raise ConfigurationError(f"{model_dir} already has a checkpoint.", "Give a new MODEL_DIR.")
        with safetensors_files.Reader(folder) as read:
            parameters = gemma.from_state_dict(read, read.names, model)
        if remaps:
            parameters["embedding"] = remap_embedding(parameters["embedding"], config, vocabulary)
            model = dataclasses.replace(model, vocab_size=vocabulary.vocab_size)
        description = ModelDescription(
            model=dataclasses.asdict(model),
            image_token_budget=_image_token_budget(folder),
            vocabulary={
                "path": path or "",
                "fingerprint": vocabulary.fingerprint if vocabulary else None,
                "size": model.vocab_size,
            },
            lengths={"targets": length},
            domains=[],
            mixture=IMPORTED,
        )
        metadata = {"mixture": IMPORTED, "vocabulary": description.vocabulary["fingerprint"], "domains": []}
        held.check()
        with contextlib.closing(CheckpointStore(model_dir)) as store:
            store.save(0, jax.tree.map(jax.device_put, parameters), {"count": jax.device_put(np.int32(0))}, metadata)
            store.wait()
        if vocabulary:
            vocabulary.save(storage.join(model_dir, VOCABULARY_FOLDER))
        description.write(model_dir)
    return model, count_parameters(model)


def remap_embedding(embedding_VxD: np.ndarray, config: Mapping[str, Any], vocabulary: tasks.Vocabulary) -> np.ndarray:
    """A foreign model's embedding with its rows moved to the ids of `vocabulary`: float32 [V', D].

    embedding: [V, D].
    config: the model's config.json.
    vocabulary: made from the model's tokenizer.

    Castor's id 0, the first input of a row, gets the row of the model's bos, and Castor's eos that of the model's eos.
    Ids unknown to the model start at the mean of all rows.
    """
    pieces = vocabulary.layout()["pieces"]
    if pieces > len(embedding_VxD):
        raise VocabularyError(
            f"tokenizer.model has {pieces} pieces; the embedding has only {len(embedding_VxD)} rows.",
            "Download all files of the folder again.",
        )
    result = np.tile(embedding_VxD.mean(axis=0, dtype=np.float64).astype(np.float32), (vocabulary.vocab_size, 1))
    result[vocabulary.text_range.start :][:pieces] = embedding_VxD[:pieces]
    for castor_id, key, default in ((vocabulary.bos_id, "bos_token_id", 2), (vocabulary.eos_id, "eos_token_id", 1)):
        model_id = config.get(key, default)
        model_id = model_id[0] if isinstance(model_id, list) and model_id else model_id
        check_integer(f"config.json: {key}", model_id, at_least=0, at_most=len(embedding_VxD) - 1)
        result[castor_id] = embedding_VxD[model_id]
    return result


def _image_token_budget(folder: pathlib.Path) -> int:
    """The image token budget in castor.json; 0 if missing or malformed."""
    path = folder / CASTOR_FILE
    content = safetensors_files.read_json(path) if path.is_file() else {}
    budget = content.get("image_token_budget", 0) if isinstance(content, dict) else 0
    return budget if isinstance(budget, int) else 0
