"""Small real task caches and a small real vocabulary, written once a session, and a `castor` to run on them."""

import contextlib
import dataclasses
import hashlib
import io
import os
import pathlib
import signal
import subprocess
import sys

import numpy as np
import pytest

from castor import tasks
from castor.tasks import hashing
from castor.tasks.cache import writer
from castor.tasks.cache.features import TARGETS, Record
from castor.tasks.vocabulary import audio, codec_fit, sentencepieces, streams

KILLED = """
import os, pathlib, signal, sys, time
from castor.launch import training_runs
from castor.tasks import configuration
from castor.train import loop

steps, saved = map(int, sys.argv[1:3])
run = training_runs.configure(configuration.split_flags(sys.argv[3:])[0])

def on_step(done):
    if done == steps:
        while not pathlib.Path(run.model_dir, f"checkpoint_{saved}").is_dir():  # it is written beside the training
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)

loop.train(run, on_step)
"""
REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
SEED = 3
WORDS = "the a red blue square circle on under big small house tree runs sees and then one two three".split()


def text(random: np.random.Generator, words: int = 30) -> str:
    return " ".join(random.choice(WORDS, words))


def picture(random: np.random.Generator) -> np.ndarray:
    """A plain background with one plain square: uint8 [32, 32, 3]."""
    pixels = np.broadcast_to(random.integers(0, 256, 3), (32, 32, 3)).astype(np.uint8)
    row, column = random.integers(0, 16, 2)
    pixels[row : row + 16, column : column + 16] = random.integers(0, 256, 3)
    return pixels


def document_id(name: str, number: int) -> str:
    return hashlib.blake2b(f"{name} {number}".encode(), digest_size=16).hexdigest()


def write_cache(
    directory, name: str, vocabulary: dict, documents: dict[str, list[list[int]]], num_shards: int = 2
) -> None:
    """A task cache by the real writer; documents: split -> ids of each document."""
    staging = writer.begin(str(directory))
    entries = []
    for split, streams_of_ids in documents.items():
        shards: list[list[Record]] = [[] for _ in range(num_shards)]
        for number, ids in enumerate(streams_of_ids):
            record = Record(
                document_id(f"{name} {split}", number),
                f"{name}.jsonl#line={number}",
                {"targets": np.array(ids, np.int32)},
            )
            shards[hashing.shard_of(hashing.record_hash(SEED, record.id), num_shards)].append(record)
        entries += [
            writer.write_shard(staging, split, i, num_shards, records, TARGETS, seed=SEED)
            for i, records in enumerate(shards)
        ]
    facts = {"name": name, "modality": "text", "features": TARGETS, "seed": SEED, "vocabulary": vocabulary}
    manifest = writer.build_manifest(entries=entries, **facts)
    writer.commit(staging, str(directory), manifest)


@pytest.fixture(scope="session")
def on_eight_devices():
    """(a test's __file__, name of a function there): calls it in a process of its own that has eight devices."""

    def call(file: str, function: str) -> None:
        path = pathlib.Path(file)
        program = f"import sys; sys.path.insert(0, {str(path.parent)!r}); import {path.stem}; {path.stem}.{function}()"
        flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=8"
        environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
        done = subprocess.run(
            [sys.executable, "-P", "-c", program], cwd=REPOSITORY, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr[-3000:]

    return call


@pytest.fixture(scope="session")
def vocabulary() -> tasks.Vocabulary:
    random = np.random.default_rng(0)
    model = sentencepieces.train([text(random, 200) for _ in range(5)], sentencepieces.MIN_PIECES)
    image_codec = codec_fit.fit([picture(random) for _ in range(20)], (8, 8, 3), 64)
    audio_codec = codec_fit.fit(
        [random.normal(-50, 10, (40, 80))], (streams.AUDIO_FRAMES, 80, 1), 16, audio.FLOOR_DB, audio.STEP_DB
    )
    return tasks.Vocabulary(model, image_codec, audio_codec)


@pytest.fixture(scope="session")
def world(tmp_path_factory, vocabulary) -> pathlib.Path:
    """A folder with vocabulary/ and tasks/{words,counts,pictures}: three domains that a small model can learn."""
    root = tmp_path_factory.mktemp("world")
    vocabulary.save(str(root / "vocabulary"))
    told = {"path": str(root / "vocabulary"), "fingerprint": vocabulary.fingerprint, "size": vocabulary.vocab_size}
    random = np.random.default_rng(1)

    def words(count):
        return [streams.text_document(vocabulary, text(random)) for _ in range(count)]

    def counts(count):
        starts = random.integers(0, 40, count)
        return [[*(vocabulary.text_range.start + 20 + (start + np.arange(30)) % 40).tolist(), 1] for start in starts]

    def pictures(count):
        return [
            streams.described_document(
                vocabulary, document_id("p", i), text(random, 4), vocabulary.encode_image(picture(random), 16)
            )
            for i in range(count)
        ]

    for name, make in (("words", words), ("counts", counts), ("pictures", pictures)):
        write_cache(root / "tasks" / name, name, told, {"train": make(120), "validation": make(12)})
    return root


@dataclasses.dataclass
class Castor:
    """Runs castor's own main in this process."""

    world: pathlib.Path

    def bindings(self, model_dir, **macros) -> list[str]:
        """The gin flags of a small run over the world's three tasks."""
        bound = {
            "MIXTURE_OR_TASK_NAME": "three",
            "TASKS_DIR": str(self.world / "tasks"),
            "MODEL_DIR": str(model_dir),
            "TASK_FEATURE_LENGTHS": {"targets": 64},
            "BATCH_SIZE": 4,
            "TRAIN_STEPS": 6,
            "WARMUP_STEPS": 5,
            "WarmupCosine.total_steps": 40,  # whatever TRAIN_STEPS is: so runs of different lengths have one program
            "EVAL_STEPS": 1,
            "three/tasks.Mixture.components": {"words": 2, "counts": 1, "pictures": 1},
            "Transformer.embed": 32,
            "Transformer.layers": 2,
            "Transformer.head_dim": 8,
            "Transformer.mlp": 64,
            **macros,
        }
        files = ["--gin_file=models/tiny.gin", "--gin_file=runs/pretrain.gin"]
        return files + [f"--gin.{name.replace('__', '.')}={value!r}" for name, value in bound.items()]

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        """(exit code, stdout, stderr) of a command line."""
        import gin
        from castor.launch.command import main

        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main([str(a) for a in arguments])
        gin.clear_config()
        return code, out.getvalue(), err.getvalue()

    def start(self, *arguments: str, **options) -> subprocess.Popen:
        """The same in a process of its own."""
        command = [sys.executable, "-P", "-m", "castor.launch.command", *map(str, arguments)]
        environment = os.environ | {"JAX_PLATFORMS": "cpu"}
        return subprocess.Popen(
            command,
            cwd=REPOSITORY,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            **options,
        )

    def train_until_killed(self, steps: int, saved: int, *flags: str) -> None:
        """Runs training in its own process until SIGKILL.

        The kill comes when the given number of steps is done and the checkpoint of step `saved` is complete.
        """
        command, environment = (
            [sys.executable, "-P", "-c", KILLED, str(steps), str(saved), *flags],
            os.environ | {"JAX_PLATFORMS": "cpu"},
        )
        done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
        assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.fixture(scope="session")
def castor(world) -> Castor:
    return Castor(world)


@pytest.fixture(scope="session")
def trained(castor, tmp_path_factory) -> pathlib.Path:
    """A MODEL_DIR of 40 steps on the world's three tasks, evaluated every 20. Only to be read."""
    directory = tmp_path_factory.mktemp("trained") / "m"
    code, _, err = castor("train", *castor.bindings(directory, TRAIN_STEPS=40, EVAL_PERIOD=20))
    assert code == 0, err
    return directory
