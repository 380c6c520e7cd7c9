"""Checkpoints to folders of Hugging Face's and back: what `castor export` and `castor import` do. The mapping is train/huggingface/gemma.py's.

An exported folder holds config.json, generation_config.json, safetensors (one file or shards), the tokenizer's files, castor.json (what
MODEL_DIR/model.json says, so that it can come back) and castor_vocabulary/. An imported MODEL_DIR holds a checkpoint of step 0 with parameters and no optimizer state: a run
begins with it by `castor train --warm_start`.
"""

import dataclasses
import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from castor import tasks
from castor.tasks.errors import CheckpointError, ConfigurationError, VocabularyError
from castor.tasks.integrations import huggingface_tokenizer
from castor.tasks.storage import lock, storage
from castor.train import loop
from castor.train.checkpoints.checkpoints import CheckpointStore
from castor.train.huggingface import gemma, safetensors_files
from castor.train.inference import inference
from castor.train.model.decoder import Transformer, count_parameters
from castor.train.partitioning import Partitioner
from castor.train.step import Trainer

CASTOR_FILE, CASTOR_VOCABULARY = "castor.json", "castor_vocabulary"
CONFIG_FILE, GENERATION_FILE = "config.json", "generation_config.json"
IMPORTED = "imported"  # stands for the fingerprint of a mixture


def export(
    model_dir: str,
    output: str,
    step: int | None = None,
    vocabulary_dir: str | None = None,
    dtype: str = "float32",
    max_shard_bytes: int = safetensors_files.MAX_SHARD_BYTES,
) -> tuple[int, list[str]]:
    """Writes the checkpoint of `step` (default: the latest) into `output`, a new folder. Returns (step, the files of weights)."""
    told = loop.read_model_file(model_dir)
    model, length = Transformer(**told["model"]), told["lengths"]["targets"]
    folder = pathlib.Path(output)
    with lock.hold(output, "--output") as held:
        if any(path.name != lock.LOCK_FILE for path in folder.iterdir()):
            raise ConfigurationError(f"{output} is not empty.", "Give a new folder.")
        vocabulary = inference.find_vocabulary(model_dir, told["vocabulary"], vocabulary_dir)
        step, parameters = restore(model_dir, model, step)
        held.check()
        vocabulary.save(str(folder / CASTOR_VOCABULARY))
        huggingface_tokenizer.write(vocabulary, folder, length)
        sizes = {name: math.prod(shape) for name, shape in gemma.shapes(model).items()}
        files = safetensors_files.write(folder, sizes, gemma.to_state_dict(parameters, model), dtype, max_shard_bytes)
        config = gemma.to_config(model, length, dtype)
        ids = {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
        castor = {**told, "vocabulary": {**told["vocabulary"], "path": CASTOR_VOCABULARY}, "step": step}
        # The configuration last: a folder without it is not whole.
        for name, content in ((CASTOR_FILE, castor), (GENERATION_FILE, ids), (CONFIG_FILE, config)):
            (folder / name).write_text(json.dumps(content, indent=1), encoding="utf-8")
    return step, files


def take(
    source: str, model_dir: str, vocabulary_dir: str | None = None, dtype: str = "float32"
) -> tuple[Transformer, int]:
    """Reads the folder `source` into `model_dir`, which must hold no checkpoint. Returns (the model, its number of parameters).

    The model's ids are those of the vocabulary given, or of the one that `export` put there. Where there is neither, tokenizer.model becomes a
    vocabulary and the rows of the embedding move to where its pieces stand (`adopt`); without that file the ids stay and have no vocabulary.
    """
    folder = pathlib.Path(source)
    if not folder.is_dir():
        raise CheckpointError(f"there is no folder {source}.", "Give a folder with config.json and *.safetensors.")
    config = safetensors_files.read_json(folder / CONFIG_FILE)
    model, length = gemma.from_config(config, dtype)
    told = safetensors_files.read_json(folder / CASTOR_FILE) if (folder / CASTOR_FILE).is_file() else {}
    budget = told.get("image_token_budget", 0) if isinstance(told, dict) else 0
    own, pieces = folder / CASTOR_VOCABULARY, folder / huggingface_tokenizer.MODEL_FILE
    given = vocabulary_dir or (str(own) if own.is_dir() else None)
    adopted = given is None and pieces.is_file()
    vocabulary = (
        tasks.Vocabulary.load(given) if given else huggingface_tokenizer.from_sentencepiece(pieces) if adopted else None
    )
    if given and vocabulary.vocab_size > model.vocab_size:
        raise VocabularyError(
            f"the vocabulary {given} has {vocabulary.vocab_size} ids, the embedding of {source} {model.vocab_size}.",
            "Give the one that the model was trained with.",
        )
    with lock.hold(model_dir, "MODEL_DIR") as held:
        _check_new(model_dir)
        with safetensors_files.Reader(folder) as read:
            parameters = gemma.from_state_dict(read, read.names, model)
        if adopted:
            parameters["embedding"] = adopt(parameters["embedding"], config, vocabulary)
            model = dataclasses.replace(model, vocab_size=vocabulary.vocab_size)
        facts = {"mixture": IMPORTED, "vocabulary": vocabulary.fingerprint if vocabulary else None, "domains": []}
        held.check()
        store = CheckpointStore(model_dir)
        try:
            store.save(0, jax.tree.map(jax.device_put, parameters), {"count": jax.device_put(np.int32(0))}, facts)
            store.wait()
        finally:
            store.close()
        if vocabulary:
            vocabulary.save(storage.join(model_dir, loop.VOCABULARY_FOLDER))
        content = {
            "model": dataclasses.asdict(model),
            "image_token_budget": budget if isinstance(budget, int) else 0,
            "vocabulary": {
                "path": given or "",
                "fingerprint": vocabulary.fingerprint if vocabulary else None,
                "size": model.vocab_size,
            },
            "lengths": {"targets": length},
            "domains": [],
            "mixture": IMPORTED,
        }
        storage.write_json_atomic(storage.join(model_dir, loop.MODEL_FILE), content)
    return model, count_parameters(model)


def adopt(embedding_VxD: np.ndarray, config: Mapping[str, Any], vocabulary: tasks.Vocabulary) -> np.ndarray:
    """The embedding of a model from elsewhere, its rows where `vocabulary`, made of its tokenizer, has their pieces.

    Castor's 0, which a row starts with, takes the row of their bos and Castor's 1 that of their eos; ids that are new begin at the mean of all rows.
    """
    pieces = vocabulary.layout()["pieces"]
    if pieces > len(embedding_VxD):
        raise VocabularyError(
            f"tokenizer.model has {pieces} pieces, the embedding {len(embedding_VxD)} rows.",
            "Fetch the folder again, all of its files.",
        )
    result = np.tile(embedding_VxD.mean(axis=0, dtype=np.float64).astype(np.float32), (vocabulary.vocab_size, 1))
    result[vocabulary.text_range.start :][:pieces] = embedding_VxD[:pieces]
    for ours, key, default in ((vocabulary.bos_id, "bos_token_id", 2), (vocabulary.eos_id, "eos_token_id", 1)):
        theirs = config.get(key, default)
        theirs = theirs[0] if isinstance(theirs, list) and theirs else theirs
        if isinstance(theirs, bool) or not isinstance(theirs, int) or not 0 <= theirs < len(embedding_VxD):
            raise ConfigurationError(
                f"config.json says {key} = {config.get(key)!r}.", f"It is an id below {len(embedding_VxD)}."
            )
        result[ours] = embedding_VxD[theirs]
    return result


def _check_new(model_dir: str) -> None:
    store = CheckpointStore(model_dir, read_only=True)
    try:
        if store.latest() is not None:
            raise ConfigurationError(f"{model_dir} holds a checkpoint already.", "Give a new MODEL_DIR.")
    finally:
        store.close()


def restore(model_dir: str, model: Transformer, step: int | None):
    """(step, parameters on the first device) of a checkpoint; step None is the latest."""
    store = CheckpointStore(model_dir, read_only=True)
    try:
        step = store.latest() if step is None else step
        if step is None:
            raise CheckpointError(f"there is no checkpoint in {model_dir} yet.", "Train first: castor train.")
        abstract = (
            Trainer(model, loop.AdamW(), Partitioner.create({}, jax.devices()[:1]), 1).abstract_state().parameters
        )
        return step, store.restore(step, abstract)[0]
    finally:
        store.close()
