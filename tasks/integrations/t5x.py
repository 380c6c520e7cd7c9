"""T5X integration: T5X's unmodified `train` reads Castor's batches step by step and resumes on any number of hosts.

    train.get_dataset_fn = @tasks.t5x.get_dataset            # the required gin line; gin/t5x/castor.gin has all others
    tasks.t5x.get_dataset.tasks_dir = '/data/tasks'

T5X's checkpointer saves the state of the iterator in one file per data shard, `train_ds-SSS-of-NNN`. Castor's state
is one number, the next step, equal for all shards, so any of these files restores any shard of any number of shards.
Only `registered` and `vocabulary` import SeqIO, and therefore TensorFlow; no function imports T5X.
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
_PROCESS_DIRECTORY = re.compile(r"process_\d+-of-\d+")  # Orbax: one per process, if there are several
_CHECKPOINT_DIRECTORY = re.compile(r"checkpoint_(\d+)")
_NOT_T5X = ("domain",)

# Required values of utils.DatasetConfig, and the binding that sets each.
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
    """dtype and shape of one array of a batch, named as in clu.data.dataset_iterator.ArraySpec.

    dtype: numpy dtype.

    shape: shape of the array.
    """

    dtype: np.dtype
    shape: tuple[int, ...]


class StepIterator:
    """The batches of one shard from a step on, without `domain`. Its state is the next step.

    It has all methods of clu.data.dataset_iterator.DatasetIterator and is registered as a subclass if clu is installed.

    batches: the batches.

    start_step: first step.
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
        """The same as next(); clu's older name."""
        return next(self)

    def reset(self) -> None:
        """Returns to the first step."""
        self.step = self.start_step

    @functools.cached_property
    def element_spec(self) -> Mapping[str, ArraySpec]:
        """dtype and shape of each array of a batch [batch_size / num_shards, L]."""
        return {name: ArraySpec(array.dtype, array.shape) for name, array in self._batch(self.start_step).items()}

    def save(self, path: os.PathLike | str) -> None:
        """Writes the next step atomically, as a decimal number."""
        _write(os.fspath(path), f"{self.step}\n".encode())

    def restore(self, path: os.PathLike | str) -> None:
        """Resumes from the checkpoint that contains `path`.

        T5X fetches one batch ahead before its first step, so the file of checkpoint_0 contains 1. A step that is one
        greater than the checkpoint's own step is therefore reduced by one.

        path: a `train_ds-SSS-of-NNN` file. It need not exist if the checkpoint has the file of another shard.

        Raises CheckpointError if there is no such file, if a file has no step, and if two files differ.
        """
        path = os.fspath(path)
        files = _state_files(path)
        if not files:
            raise CheckpointError(
                f"checkpoint {os.path.dirname(path)} has no data state of Castor (train_ds-SSS-of-NNN).",
                "Save it with utils.SaveCheckpointConfig.save_dataset = True. To resume without it, turn the option "
                "off for this start and bind tasks.t5x.get_dataset.start_step to the checkpoint's step.",
            )
        steps = [_read_step(file) for file in files]
        for file, step in zip(files, steps):
            if step != steps[0]:
                raise CheckpointError(
                    f"{files[0]} has step {steps[0]}, but {file} has step {step}.",
                    "Resume from another checkpoint: this one mixes two.",
                )
        self.step = steps[0] - (steps[0] - 1 == _checkpoint_step(path))

    load = restore  # clu's older name

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
    """The batches of one data shard, endless; bind `train.get_dataset_fn` to this function.

    cfg: T5X's utils.DatasetConfig. batch_size is the global batch size. seed None means 0, never the clock.

    shard_id: index of the data shard.

    num_shards: number of data shards.

    feature_converter_cls: the model's feature converter, for a decoder with targets only.

    num_epochs: must be None, since the components of a mixture end at different steps.

    continue_from_last_checkpoint: ignored; the checkpointer restores the iterator.

    mixture: mixture of Batches; None for cfg.mixture_or_task_name.

    tasks_dir: directory in which task names are looked up.

    packing: packing method of Batches; None for its default.

    start_step: first step without a checkpoint.

    Raises ConfigurationError for settings that Castor's batches cannot follow, and what Batches raises.
    """
    del continue_from_last_checkpoint
    for field, (wanted, binding) in _REQUIRED.items():
        if (found := getattr(cfg, field, wanted)) != wanted:
            raise ConfigurationError(
                f"DatasetConfig.{field} is {found!r}, which Castor's batches cannot follow.", f"Bind {binding}."
            )
    if num_epochs is not None:
        raise ConfigurationError(
            f"num_epochs is {num_epochs!r}, but Castor's batches are endless.", "Leave it None and bind TRAIN_STEPS."
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
            f"the model's {feature_converter_cls.__name__} needs {', '.join(missing)}, which Castor's batches lack.",
            "Bind a decoder-only MODEL (t5x.models.DecoderOnlyModel).",
        )
    _register_with_clu()
    return iterator


@gin.configurable(module="tasks.t5x")
def registered(mixture: Mixture | str | Mapping[str, float], tasks_dir: str | None = None) -> str:
    """Registers a mixture or task with SeqIO and returns its name, for T5X's vocabulary check and evaluation.

    mixture: as for Batches.

    tasks_dir: directory in which task names are looked up.
    """
    from castor.tasks.integrations import seqio_tasks

    found = resolve_mixture(_named(mixture), tasks_dir)
    domains = tuple(found.manifests())
    if found.name in found.components:  # one task or directory: under its domain's name
        found = dataclasses.replace(found, name=domains[0])
    return seqio_tasks.register_mixture(found)


@gin.configurable(module="tasks.t5x")
def vocabulary(mixture: Mixture | str | Mapping[str, float], tasks_dir: str | None = None) -> Any:
    """The vocabulary of a mixture's caches, as a seqio.Vocabulary for T5X's model.

    mixture: as for Batches.

    tasks_dir: directory in which task names are looked up.
    """
    from castor.tasks.integrations import seqio_tasks

    return seqio_tasks.vocabulary_of(next(iter(resolve_mixture(_named(mixture), tasks_dir).manifests().values())))


def _named(mixture: Any) -> Any:
    """The mixture, or the name of a seqio.Task or seqio.Mixture, which refers to the Castor mixture of that name."""
    known = isinstance(mixture, (str, Mixture, Mapping))
    return mixture if known else getattr(mixture, "name", mixture)


@functools.cache
def _register_with_clu() -> None:
    """Registers StepIterator with clu's abstract DatasetIterator, for T5X's isinstance check."""
    try:
        from clu.data import dataset_iterator
    except ImportError:
        return
    dataset_iterator.DatasetIterator.register(StepIterator)


def _state_files(path: str) -> list[str]:
    """The data state files of a checkpoint: in the folder of `path`, or in one folder per process (Orbax)."""
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
    """The step in the name of the checkpoint directory that contains `path`."""
    for part in reversed(path.split("/")[:-1]):
        if match := _CHECKPOINT_DIRECTORY.fullmatch(part):
            return int(match.group(1))
    return None


def _read_step(file: str) -> int:
    data = _read(file)
    if not re.fullmatch(rb"\d{1,18}\n?", data):
        raise CheckpointError(
            f"{file} has no step: it starts with {data[:20]!r}.", "The iterator that saved it is not Castor's."
        )
    return int(data)


# T5X accesses buckets with TensorFlow's gfile, which it has loaded; an object appears complete or not at all.


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
