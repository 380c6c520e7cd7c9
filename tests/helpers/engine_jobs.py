"""The jobs that every engine is to run alike, and how their outputs are compared."""

import hashlib
import os
import pathlib

import pytest

import gin
from castor.launch import data_jobs
from castor.launch.engines.processes import EngineError
from castor.tasks import configuration

WEB = {"INPUTS": ["*.warc.gz"], "NUM_SHARDS": 3, "KEEP_REJECTS": True}
VOCABULARY = {"VOCAB_SIZE": 600, "SAMPLE_DOCUMENTS": 40}
TOKENIZE = {"NUM_SHARDS": 2, "SPLITS": {"train": 0.8, "validation": 0.2}}


def make(name: str, **macros):
    """The job as its gin file configures it."""
    bindings = tuple(f"{key} = {value!r}" for key, value in macros.items())
    configuration.parse(configuration.Flags((f"pipelines/{name}.gin",), bindings))
    try:
        return data_jobs.make(name)
    finally:
        gin.clear_config()


def digests(directory) -> dict[str, str]:
    """SHA-256 of every file under a directory, hidden ones included, by relative path."""
    root = pathlib.Path(directory)
    return {
        str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(root.rglob("*"))
        if p.is_file()
    }


def say(capsys, engine: str, name: str, found: dict[str, str]) -> None:
    """One line of the log: the digest of all digests, and the manifest's."""
    whole = hashlib.sha256(
        "".join(f"{digest}  {path}\n" for path, digest in sorted(found.items())).encode()
    ).hexdigest()
    with capsys.disabled():
        print(
            f"\nengine={engine} job={name} files={len(found)} sha256={whole} manifest={found['manifest.json']}",
            flush=True,
        )


def prepare(engine) -> None:
    """Fetches what an engine is made of, or skips the test."""
    try:
        engine.prepare()
    except EngineError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"this engine cannot be had here: {error}")
