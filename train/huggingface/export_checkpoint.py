"""Exports a checkpoint as a Hugging Face folder that `transformers` loads (`castor export`).

train/huggingface/gemma.py maps the parameters. The folder holds config.json, generation_config.json, safetensors (one
file or shards), the tokenizer's files, castor.json (the content of MODEL_DIR/model.json, for `import_checkpoint`) and
castor_vocabulary/.
"""

import dataclasses
import json
import math
import pathlib

import jax

from castor.tasks.errors import ConfigurationError
from castor.tasks.integrations import huggingface_tokenizer
from castor.tasks.storage import lock
from castor.train.checkpoints.parameters import load_parameters
from castor.train.huggingface import gemma, safetensors_files
from castor.train.huggingface.folder import CASTOR_FILE, CASTOR_VOCABULARY, CONFIG_FILE, GENERATION_FILE
from castor.train.model.decoder import DecoderConfig
from castor.train.model_dir import ModelDescription
from castor.train.partitioning import Partitioner


def export_checkpoint(
    model_dir: str,
    output: str,
    step: int | None = None,
    vocabulary_dir: str | None = None,
    dtype: str = "float32",
    max_shard_bytes: int = safetensors_files.MAX_SHARD_BYTES,
) -> tuple[int, list[str]]:
    """Writes a checkpoint into the new folder `output`. Returns (step, names of the safetensors files).

    step: default: the latest checkpoint.
    vocabulary_dir: the model's vocabulary, if it is not in MODEL_DIR.
    dtype: "float32" or "bfloat16", dtype of the tensors written.
    max_shard_bytes: largest size of a safetensors file.

    Raises ConfigurationError if `output` is not empty.
    """
    description = ModelDescription.read(model_dir)
    model, length = DecoderConfig(**description.model), description.lengths["targets"]
    folder = pathlib.Path(output)
    with lock.hold(output, "--output") as held:
        if any(path.name != lock.LOCK_FILE for path in folder.iterdir()):
            raise ConfigurationError(f"{output} is not empty.", "Give a new folder.")
        vocabulary = description.load_vocabulary(model_dir, vocabulary_dir)
        step, parameters = load_parameters(model_dir, model, Partitioner.create({}, jax.devices()[:1]), step)
        held.check()
        vocabulary.save(str(folder / CASTOR_VOCABULARY))
        huggingface_tokenizer.write(vocabulary, folder, length)
        sizes = {name: math.prod(shape) for name, shape in gemma.shapes(model).items()}
        files = safetensors_files.write(folder, sizes, gemma.to_state_dict(parameters, model), dtype, max_shard_bytes)
        config = gemma.to_config(model, length, dtype)
        ids = {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
        moved = dataclasses.replace(description, vocabulary={**description.vocabulary, "path": CASTOR_VOCABULARY})
        castor = {**dataclasses.asdict(moved), "step": step}
        # config.json is written last: a folder without it is incomplete.
        for name, content in ((CASTOR_FILE, castor), (GENERATION_FILE, ids), (CONFIG_FILE, config)):
            (folder / name).write_text(json.dumps(content, indent=1), encoding="utf-8")
    return step, files
