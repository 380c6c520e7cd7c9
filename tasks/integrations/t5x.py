"""The door to T5X: its unmodified `train` on Castor's stream, step by step, and back to it on any number of hosts.

    train.get_dataset_fn = @tasks.t5x.get_dataset            # the one gin line; gin/t5x/castor.gin has it with all around it
    tasks.t5x.get_dataset.tasks_dir = '/data/tasks'

T5X's checkpointer saves the iterator's state in a file a data shard, `train_ds-SSS-of-NNN`. Ours is one number, the next step, the same
for every shard; so any of these files tells any shard of any number where to go on. SeqIO (hence TensorFlow) is imported only by
`registered` and `vocabulary`, and T5X never.
"""

import dataclasses
import functools
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

import gin
from castor.tasks.batches.batches import Batches
from castor.tasks.batches.catalog import Mixture, resolve_mixture
from castor.tasks.checks import check_integer
from castor.tasks.errors import CheckpointError, ConfigurationError
from castor.tasks.storage import storage

_STATE_FILE = re.compile(r"train_ds-\d+-of-\d+")
_PROCESS_DIRECTORY = re.compile(r"process_\d+-of-\d+")  # Orbax: one a process, where there are several
_CHECKPOINT_DIRECTORY = re.compile(r"checkpoint_(\d+)")
_NOT_T5X = ("domain",)

# What utils.DatasetConfig may not say, and the binding that mends it.
_REQUIRED = {
    "pack": (True, "train/utils.DatasetConfig.pack = True"),
    "shuffle": (True, "SHUFFLE_TRAIN_EXAMPLES = True"),
    "use_cached": (True, "USE_CACHED_TASKS = True"),
    "use_custom_packing_ops": (False, "train/utils.DatasetConfig.use_custom_packing_ops = False"),
    "module": (None, "MIXTURE_OR_TASK_MODULE = None, and import the module in gin"),
    "runtime_preprocessors": (None, "train/utils.DatasetConfig.runtime_preprocessors = None"),
}


@dataclasses.dataclass(frozen=True)
class ArraySpec:
    """dtype and shape of one array of a batch, named as in clu.data.dataset_iterator.ArraySpec."""

    dtype: np.dtype
    shape: tuple[int, ...]


class StepIterator:
    """The batches of one shard from a step on, without `domain`; its state is the next step.

    A clu.data.dataset_iterator.DatasetIterator in all its methods, and in name where clu is installed.
    """

    def __init__(self, batches: Batches, start_step: int = 0):
        self.batches, self.start_step, self.step = batches, start_step, start_step

    def __iter__(self) -> "StepIterator":
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        batch = self._batch(self.step)
        self.step += 1
        return batch

    def get_next(self) -> dict[str, np.ndarray]:
        """The older name of next()."""
        return next(self)

    def reset(self) -> None:
        """Back to the first step."""
        self.step = self.start_step

    @functools.cached_property
    def element_spec(self) -> Mapping[str, ArraySpec]:
        """dtype and shape of each array of a batch [batch_size / num_shards, L]."""
        return {name: ArraySpec(array.dtype, array.shape) for name, array in self._batch(self.start_step).items()}

    def save(self, path: os.PathLike | str) -> None:
        """Writes the next step, in decimal, atomically."""
        _write(os.fspath(path), f"{self.step}\n".encode())

    def restore(self, path: os.PathLike | str) -> None:
        """Goes on where the checkpoint that `path` lies in was saved.

        path: a `train_ds-SSS-of-NNN`; that file need not be there, if the checkpoint holds one of another shard or number of shards. A step
        one after the checkpoint's own is taken back: T5X fetches one batch ahead before its first step, so the file of checkpoint_0 says 1.
        Raises CheckpointError where there is no such file, where it holds no step, and where two of them differ.
        """
        path = os.fspath(path)
        files = _state_files(path)
        if not files:
            raise CheckpointError(
                f"checkpoint {os.path.dirname(path)} has no data state of Castor's (train_ds-SSS-of-NNN).",
                "Save one with utils.SaveCheckpointConfig.save_dataset = True; to go on without, turn it off for this start and bind "
                "tasks.t5x.get_dataset.start_step to the checkpoint's step.",
            )
        steps = [_read_step(file) for file in files]
        for file, step in zip(files, steps):
            if step != steps[0]:
                raise CheckpointError(
                    f"{files[0]} says step {steps[0]}, {file} says step {step}.",
                    "Go on from another checkpoint: this one mixes two.",
                )
        self.step = steps[0] - (steps[0] - 1 == _checkpoint_step(path))

    load = restore  # the older name

    def _batch(self, step: int) -> dict[str, np.ndarray]:
        return {name: array for name, array in self.batches.batch(step).items() if name not in _NOT_T5X}


@gin.configurable(module="tasks.t5x")
def get_dataset(
    cfg: Any,
    shard_id: int,
    num_shards: int,
    feature_converter_cls: Any,
    num_epochs: int | None = None,
    continue_from_last_checkpoint: bool = True,
    *,
    mixture: Any = None,
    tasks_dir: str | None = None,
    packing: str | None = None,
    start_step: int = 0,
) -> StepIterator:
    """What `train.get_dataset_fn` is bound to: the batches of data shard `shard_id` of `num_shards`, without end.

    cfg: T5X's utils.DatasetConfig; batch_size is of the global batch, seed None means 0 here, never the clock. feature_converter_cls: the
    model's, which is a decoder; targets only, no inputs. num_epochs: None only, since a mixture's components end at
    different steps. continue_from_last_checkpoint: either; the checkpointer moves the iterator.

    By gin: mixture, if not that of cfg, as for Batches; tasks_dir, where names are looked up; packing, as for Batches; start_step, the
    first step where no checkpoint says another. Raises ConfigurationError for what contradicts Castor's stream, and what Batches raises.
    """
    del continue_from_last_checkpoint
    for field, (wanted, binding) in _REQUIRED.items():
        if (found := getattr(cfg, field, wanted)) != wanted:
            raise ConfigurationError(
                f"DatasetConfig.{field} is {found!r}, which Castor's stream cannot follow.", f"Bind {binding}."
            )
    if num_epochs is not None:
        raise ConfigurationError(
            f"num_epochs is {num_epochs!r}; Castor's stream has no end.", "Leave it None and bind TRAIN_STEPS."
        )
    check_integer("tasks.t5x.get_dataset.start_step", start_step, at_least=0)
    batches = Batches(
        resolve_mixture(_named(cfg.mixture_or_task_name if mixture is None else mixture), tasks_dir),
        batch_size=cfg.batch_size,
        lengths=dict(cfg.task_feature_lengths),
        seed=0 if cfg.seed is None else cfg.seed,
        split=cfg.split,
        shard=shard_id,
        num_shards=num_shards,
        **({} if packing is None else {"packing": packing}),
    )
    iterator = StepIterator(batches, start_step)
    encoder = sorted(
        name for name in getattr(feature_converter_cls, "MODEL_FEATURES", ()) if name.startswith("encoder_")
    )
    if missing := [name for name in encoder if name not in iterator.element_spec]:
        raise ConfigurationError(
            f"the model's {feature_converter_cls.__name__} needs {', '.join(missing)}, which Castor's batches have not.",
            "Bind a decoder-only MODEL (t5x.models.DecoderOnlyModel).",
        )
    _register_with_clu()
    return iterator


@gin.configurable(module="tasks.t5x")
def registered(mixture: Mixture | str | Mapping[str, float], tasks_dir: str | None = None) -> str:
    """The name of a mixture or task, known to SeqIO from now on: T5X looks it up for its vocabulary check and its evaluation."""
    from castor.tasks.integrations import seqio_tasks

    found = resolve_mixture(_named(mixture), tasks_dir)
    domains = tuple(found.manifests())
    if found.name in found.components:  # one task or directory: under its domain's name
        found = dataclasses.replace(found, name=domains[0])
    return seqio_tasks.register_mixture(found)


@gin.configurable(module="tasks.t5x")
def vocabulary(mixture: Mixture | str | Mapping[str, float], tasks_dir: str | None = None) -> Any:
    """The vocabulary that the caches of a mixture were made with, as a seqio.Vocabulary for T5X's model."""
    from castor.tasks.integrations import seqio_tasks

    return seqio_tasks.vocabulary_of(next(iter(resolve_mixture(_named(mixture), tasks_dir).manifests().values())))


def _named(mixture: Any) -> Any:
    """A seqio.Task or seqio.Mixture stands for the Castor mixture or task of its name."""
    known = isinstance(mixture, (str, Mixture, Mapping))
    return mixture if known else getattr(mixture, "name", mixture)


@functools.cache
def _register_with_clu() -> None:
    """T5X asks isinstance(..., DatasetIterator) of clu, whose class is abstract and takes ours as a subclass."""
    try:
        from clu.data import dataset_iterator
    except ImportError:
        return
    dataset_iterator.DatasetIterator.register(StepIterator)


def _state_files(path: str) -> list[str]:
    """The data states of the checkpoint that `path` lies in: beside it, and one folder a process where Orbax saved from several."""
    directory, name = os.path.split(path)
    if not _STATE_FILE.fullmatch(name):
        return [path] if name in _list(directory) else []
    if _PROCESS_DIRECTORY.fullmatch(os.path.basename(directory)):
        directory = os.path.dirname(directory)
    entries = _list(directory)
    folders = [directory, *(storage.join(directory, entry) for entry in entries if _PROCESS_DIRECTORY.fullmatch(entry))]
    return [
        storage.join(folder, entry) for folder in folders for entry in _list(folder) if _STATE_FILE.fullmatch(entry)
    ]


def _checkpoint_step(path: str) -> int | None:
    """The step in the name of the checkpoint directory that `path` lies in."""
    for part in reversed(path.split("/")[:-1]):
        if match := _CHECKPOINT_DIRECTORY.fullmatch(part):
            return int(match.group(1))
    return None


def _read_step(file: str) -> int:
    data = _read(file)
    if not re.fullmatch(rb"\d{1,18}\n?", data):
        raise CheckpointError(
            f"{file} holds no step: it starts with {data[:20]!r}.", "It was saved by another iterator than Castor's."
        )
    return int(data)


# T5X writes to buckets with TensorFlow's gfile, which it has loaded; a bucket's object appears whole or not at all. Local files are ours.


def _write(path: str, data: bytes) -> None:
    if "://" not in path:
        return storage.write_bytes_atomic(path, data)
    with _gfile().GFile(path, "wb") as file:
        file.write(data)


def _read(path: str) -> bytes:
    if "://" not in path:
        return storage.read_bytes(path)
    with _gfile().GFile(path, "rb") as file:
        return file.read()


def _list(directory: str) -> Iterable[str]:
    if "://" not in directory:
        return storage.list_files(directory)
    return sorted(name.rstrip("/") for name in _gfile().listdir(directory)) if _gfile().isdir(directory) else []


def _gfile() -> Any:
    from tensorflow.io import gfile

    return gfile
