"""Reads and writes folders of safetensors in Hugging Face's layout: one file, or shards with an index.

The module knows no model. Input is untrusted. Only safetensors are read: pickled weights (.bin, .pt) can run code when
opened and are rejected by name. Before the library opens a file, the header length is checked against a limit and the
file's size. Shard names must be plain file names inside the folder, and JSON files have a size limit. Tensors are
memory-mapped and read one at a time.
"""

import contextlib
import json
import os
import pathlib
import struct
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from castor.tasks.errors import CheckpointError, ConfigurationError

ONE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
MAX_SHARD_BYTES = 5_000_000_000  # the default of transformers
MAX_HEADER_BYTES = 16 << 20  # about 100 bytes per tensor: 100,000 tensors fit
MAX_JSON_BYTES = 64 << 20
DTYPES = ("float32", "bfloat16")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".msgpack", ".h5")
_AGAIN = "Download all files of the folder again."


def read_json(path: pathlib.Path) -> Any:
    """The content of a JSON file of limited size.

    Raises CheckpointError if the file is missing, malformed or too large.
    """
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise CheckpointError(
                f"{path} has {path.stat().st_size:,} bytes; at most {MAX_JSON_BYTES:,} are read.",
                "Check that the file is what its name says.",
            )
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path} cannot be read: {error}.", "Give the folder of a model with config.json and *.safetensors."
        ) from error


# -------------------------------------------------------------------------------------------------------------- writing


def write(
    folder: pathlib.Path,
    sizes: Mapping[str, int],
    tensors: Iterable[tuple[str, np.ndarray]],
    dtype: str,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> list[str]:
    """Writes tensors as safetensors. Returns the file names.

    folder: where to write.
    sizes: name -> number of elements.
    tensors: (name, tensor) in the order of `sizes`.
    dtype: "float32" or "bfloat16".
    max_shard_bytes: largest size of a shard, unless one tensor is larger. One shard is held in memory.

    A file gets its final name only when complete.
    """
    if dtype not in DTYPES:
        raise ConfigurationError(f"dtype {dtype!r}.", f"Choose one of {', '.join(DTYPES)}.")
    import ml_dtypes
    from safetensors.numpy import save_file

    kind = np.dtype(ml_dtypes.bfloat16) if dtype == "bfloat16" else np.dtype(np.float32)
    shards = _cut({name: size * kind.itemsize for name, size in sizes.items()}, max_shard_bytes)
    count, rest, where = len(shards), iter(tensors), {}
    files = [ONE_FILE] if count == 1 else [f"model-{i:05d}-of-{count:05d}.safetensors" for i in range(1, count + 1)]
    for file, names in zip(files, shards):
        held = {}
        for name in names:
            given, tensor = next(rest)
            assert given == name, (given, name)
            held[name] = np.ascontiguousarray(tensor, kind)
        partial = folder / f".{file}.partial"
        save_file(held, partial, metadata={"format": "pt"})
        os.replace(partial, folder / file)
        where |= dict.fromkeys(names, file)
    if count > 1:
        total = sum(sizes.values()) * kind.itemsize
        (folder / INDEX_FILE).write_text(
            json.dumps({"metadata": {"total_size": total}, "weight_map": where}, indent=1), encoding="utf-8"
        )
    return files


def _cut(sizes: Mapping[str, int], most: int) -> list[list[str]]:
    """Names in order, in groups of at most `most` bytes."""
    groups, filled = [[]], 0
    for name, size in sizes.items():
        if groups[-1] and filled + size > most:
            groups.append([])
            filled = 0
        groups[-1].append(name)
        filled += size
    return groups


# -------------------------------------------------------------------------------------------------------------- reading


class Reader(contextlib.AbstractContextManager):
    """The tensors of a folder, by name.

    Raises CheckpointError for files that are missing, damaged or not safetensors.
    """

    def __init__(self, folder: pathlib.Path):
        self._stack, self._opened, self._where = contextlib.ExitStack(), {}, {}
        index, one = folder / INDEX_FILE, folder / ONE_FILE
        if index.is_file():
            self._where = _weight_map(index)
            files = sorted(set(self._where.values()))
        elif one.is_file():
            files = [ONE_FILE]
        else:
            raise CheckpointError(f"{folder} has neither {ONE_FILE} nor {INDEX_FILE}.", _what_else(folder))
        for file in files:
            self._opened[file] = self._open(folder / file)
        held = {name: file for file, opened in self._opened.items() for name in opened.keys()}
        for name, file in self._where.items():
            if name not in self._opened[file].keys():
                raise CheckpointError(f"{folder / file} lacks {name}, which {INDEX_FILE} lists there.", _AGAIN)
        self._where = self._where or held
        self._folder = folder

    @property
    def names(self) -> set[str]:
        return set(self._where)

    def __call__(self, name: str) -> np.ndarray:
        """A tensor in its stored dtype (bfloat16 by ml_dtypes)."""
        try:
            return self._opened[self._where[name]].get_tensor(name)
        except Exception as error:  # the library's own error, or numpy's for unknown dtypes
            raise CheckpointError(
                f"{self._folder / self._where[name]}: {name} cannot be read: {error}.", _AGAIN
            ) from error

    def __exit__(self, *_) -> None:
        self._stack.close()

    def _open(self, path: pathlib.Path):
        from safetensors import SafetensorError, safe_open

        try:
            size = path.stat().st_size
            with open(path, "rb") as file:
                (header,) = struct.unpack("<Q", file.read(8))
            if header > min(MAX_HEADER_BYTES, size - 8):
                limits = f"the file has {size:,}, the limit is {MAX_HEADER_BYTES:,}"
                what = f"{path} claims a header of {header:,} bytes ({limits})."
                raise CheckpointError(what, "The file is not in safetensors format.")
            return self._stack.enter_context(safe_open(path, framework="numpy"))
        except (OSError, struct.error, SafetensorError) as error:
            raise CheckpointError(f"{path} cannot be read: {error}.", _AGAIN) from error


def _weight_map(index: pathlib.Path) -> dict[str, str]:
    """Tensor -> shard, each a plain file name next to the index."""
    content = read_json(index)
    found = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(found, dict) or not found:
        raise CheckpointError(f"{index} has no weight_map.", _AGAIN)
    for file in found.values():
        if (
            not isinstance(file, str)
            or pathlib.PurePath(file).name != file
            or "\\" in file
            or not file.endswith(".safetensors")
        ):
            raise CheckpointError(
                f"{index} names the shard {file!r}, which is not a safetensors file in the same folder.",
                "Only safetensors are read.",
            )
    return found


def _what_else(folder: pathlib.Path) -> str:
    pickles = sorted(path.name for path in folder.glob("*") if path.suffix in _PICKLES) if folder.is_dir() else []
    if pickles:
        return (
            f"{pickles[0]} may run code when opened and is not read: convert it with transformers (save_pretrained "
            "writes safetensors)."
        )
    return "Give the folder of a model with config.json and *.safetensors."
