"""A training run before it starts: the configuration that gin fills, and the run prepared from it.

`RunConfig` keeps the gin name train.loop.Run, `EvaluationConfig` train.loop.Evaluation.
"""

import bisect
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

import gin
from castor import tasks
from castor.tasks.checks import check_integer
from castor.tasks.errors import ConfigurationError, VocabularyError
from castor.tasks.mixing.schedule import BatchSizes
from castor.tasks.storage import storage
from castor.train.checkpoints.checkpoints import CheckpointPolicy
from castor.train.model.decoder import DecoderConfig
from castor.train.model_dir import VOCABULARY_FOLDER, ModelDescription
from castor.train.optimizers import AdamW, Optimizer
from castor.train.partitioning import MeshConfig, Partitioner
from castor.train.step import TrainStep, abstract_batch


@gin.configurable("Evaluation", module="train.loop")
@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """What to measure on held-out records, and when. Gin name: train.loop.Evaluation.

    period: updates between two evaluations; the last update is always evaluated. 0: no evaluation.
    steps: batches per domain for the held-out loss.
    split: split of the held-out records, also for `tasks`.
    tasks: names of SeqIO tasks or mixtures whose own metrics are computed too; the gin file imports the module that
        registers them.
    examples: at most N examples of each SeqIO task; None: all.
    """

    period: int = 500
    steps: int = 4
    split: str = "validation"
    tasks: Sequence[str] = ()
    examples: int | None = None

    def due(self, step: int, total: int) -> bool:
        return self.period > 0 and (step == total or step % self.period == 0)


@gin.configurable("Run", module="train.loop")
@dataclasses.dataclass(frozen=True)
class RunConfig:
    """Configuration of one training run.

    Gin name: train.loop.Run; runs/pretrain.gin binds each field to T5X's macro name.

    mixture: a tasks.Mixture, the name of one bound in gin, a task name or a cache directory.
    model: the decoder; vocab_size 0 takes the size of the vocabulary.
    model_dir: MODEL_DIR, the folder that the run writes.
    lengths: {"targets": L}, tokens per row.
    train_steps: number of updates.
    batch_size: rows of the global batch, or {first step: rows}.
    tasks_dir: folder in which task names are looked up.
    vocabulary: directory that the caches' vocabulary must equal; None takes the one that the caches name.
    optimizer: one of the optimizers of train/optimizers.py.
    mesh: a MeshConfig or {mesh axis: size}.
    seed: of the data order, the initial weights and dropout.
    checkpoints: when to save and which checkpoints to keep.
    evaluation: what to measure on held-out records, and when.
    prefetch: batches prepared ahead of the step.
    accumulate: number of gradient-accumulation microbatches per batch.
    packing: how documents are packed into rows: best_fit, first_fit or concat_and_split (tasks/mixing/packing.py).
    skip_limit: number of consecutive skipped updates that ends the run. An update is skipped if its loss or gradient is
        not finite.
    compiler_options: of the TPU compiler (gin/compiler/*.gin); other devices ignore them.
    warm_start: MODEL_DIR or MODEL_DIR@STEP of another run whose parameters this run starts from.
    grow_vocabulary: see train/checkpoints/initial_state.py.
    """

    mixture: tasks.Mixture | str
    model: DecoderConfig
    model_dir: str
    lengths: Mapping[str, int]
    train_steps: int
    batch_size: int | Mapping[int, int]
    tasks_dir: str | None = None
    vocabulary: str | None = None
    optimizer: Optimizer = AdamW()
    mesh: MeshConfig | Mapping[str, int] = MeshConfig()
    seed: int = 0
    checkpoints: CheckpointPolicy = CheckpointPolicy()
    evaluation: EvaluationConfig = EvaluationConfig()
    prefetch: int = 2
    accumulate: int = 1
    packing: str = "best_fit"
    skip_limit: int = 10
    compiler_options: Mapping[str, Any] | None = None
    warm_start: str | None = None
    grow_vocabulary: bool = False

    def __post_init__(self):
        for name, least in (("train_steps", 0), ("prefetch", 1), ("accumulate", 1), ("skip_limit", 1)):
            check_integer(f"Run.{name}", getattr(self, name), at_least=least)
        try:
            BatchSizes.of(self.batch_size)
        except ConfigurationError as error:
            raise ConfigurationError(f"Run.batch_size = {self.batch_size!r}: {error.what}", error.remedy) from error
        if not isinstance(self.model, DecoderConfig):
            raise ConfigurationError(
                f"MODEL is {self.model!r}.", "Bind MODEL = @train.model.Transformer(), as models/tiny.gin does."
            )
        if not self.model_dir:
            raise ConfigurationError("MODEL_DIR is empty.", "Bind it: --gin.MODEL_DIR='\"model\"'.")

    def train_step(self, model: DecoderConfig, partitioner: Partitioner, num_domains: int) -> TrainStep:
        """The training step for a model whose vocabulary size is known.

        `castor train` runs it and `castor compile` compiles it.
        """
        return TrainStep(
            model, self.optimizer, partitioner, num_domains, self.seed, self.accumulate, self.compiler_options
        )

    def check_batch_size(self, partitioner: Partitioner) -> None:
        """Raises ConfigurationError unless devices and microbatches divide the rows of every batch evenly."""
        for size in BatchSizes.of(self.batch_size).sizes:
            partitioner.check_divides({"BATCH_SIZE": ("batch", size)})
            if size % (partitioner.size("batch") * self.accumulate):
                raise ConfigurationError(
                    f"BATCH_SIZE = {size} cannot be split into ACCUMULATE = {self.accumulate} microbatches of whole "
                    f"rows for each of the {partitioner.size('batch')} device(s) that share it.",
                    f"Make BATCH_SIZE a multiple of {partitioner.size('batch') * self.accumulate}, or reduce "
                    "ACCUMULATE.",
                )


@dataclasses.dataclass(frozen=True)
class PreparedRun:
    """A run configuration with its devices and data, opened and checked against each other by `prepare`.

    config: as gin filled it.
    model: its decoder with the vocabulary size filled in.
    partitioner: the mesh and its rules.
    batches: this process's rows of every batch.
    shard, num_shards: which shard of the batches this process reads, and of how many.
    """

    config: RunConfig
    model: DecoderConfig
    partitioner: Partitioner
    batches: tasks.Batches
    shard: int
    num_shards: int

    def train_step(self) -> TrainStep:
        return self.config.train_step(self.model, self.partitioner, len(self.batches.domains))

    def to_devices(self, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
        """This process's rows of a global batch, transferred to its devices."""
        return self.partitioner.place_batch(batch, len(batch["domain"]) * self.num_shards)

    def device_batch(self, step: int) -> dict[str, jax.Array]:
        """The batch of a training step, on the devices."""
        return self.to_devices(self.batches.batch(step))

    def abstract_batch(self, rows: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes, dtypes and shardings of a global batch of `rows` rows, for the compiler."""
        return abstract_batch(self.partitioner, rows, self.batches.length)

    def batch_sizes(self, start: int, stop: int) -> list[int]:
        """The distinct batch sizes of steps start <= step < stop, ascending."""
        sizes, steps = self.batches.batch_sizes, range(start, stop)
        found = set()
        for first, size in zip(sizes.starts, sizes.sizes):
            index = bisect.bisect_left(steps, first, key=self.batches.data_step)
            if index < len(steps) and self.batches.batch_size_at(steps[index]) == size:
                found.add(size)
        return sorted(found)

    def domain_batches(self, split: str) -> dict[str, tasks.Batches]:
        """Batches of each domain alone, with the batch size of step 0.

        Domains without records in `split` are omitted.
        """
        found = {}
        for name, component in zip(self.batches.domains, self.batches.mixture.components):
            alone = tasks.Mixture(name, {component: 1}, self.batches.mixture.cache_dirs)
            (manifest,) = alone.manifests().values()
            if split in manifest.splits and manifest.tokens(split) > 0:
                size, config = self.batches.batch_size, self.config
                found[name] = tasks.Batches(
                    alone, size, config.lengths, config.seed, split, self.shard, self.num_shards, packing=config.packing
                )
        return found

    def vocabulary(self) -> tasks.Vocabulary | None:
        """The vocabulary that the task caches were made with; None if its folder no longer exists."""
        (manifest, *_) = self.batches.mixture.manifests().values()
        try:
            return tasks.Vocabulary.load(self.config.vocabulary or tasks.find_vocabulary(manifest))
        except VocabularyError:
            return None

    def write_model_files(self) -> None:
        """Writes model.json, and a copy of the vocabulary if the path that the caches name still exists."""
        batches, model_dir = self.batches, self.config.model_dir
        manifests = tuple(batches.mixture.manifests().values())
        path = self.config.vocabulary or manifests[0].vocabulary.get("path", "")
        try:
            vocabulary = tasks.Vocabulary.load(path)
            if vocabulary.fingerprint == batches.vocabulary_fingerprint:
                vocabulary.save(storage.join(model_dir, VOCABULARY_FOLDER))
        except VocabularyError:
            pass  # training needs only ids; inference asks for --vocabulary
        ModelDescription(
            model=dataclasses.asdict(self.model),
            image_token_budget=max(
                (m.data.get("config", {}).get("image_token_budget", 0) for m in manifests), default=0
            ),
            vocabulary={
                "path": str(path),
                "fingerprint": batches.vocabulary_fingerprint,
                "size": batches.vocab_size,
            },
            lengths=dict(self.config.lengths),
            domains=list(batches.domains),
            mixture=batches.fingerprint,
        ).write(model_dir)


def prepare(config: RunConfig) -> PreparedRun:
    """Opens devices and caches and checks that mesh, model, batch and vocabulary agree.

    Raises a CastorError for the first conflict.
    """
    partitioner = Partitioner.create(config.mesh)
    sizes = BatchSizes.of(config.batch_size)
    config.check_batch_size(partitioner)
    # One layout serves every batch size: each size is split into equal shards.
    ((shard, num_shards),) = {partitioner.data_layout(size) for size in sizes.sizes}
    vocabulary = tasks.Vocabulary.load(config.vocabulary) if config.vocabulary else None
    mixture = tasks.resolve_mixture(config.mixture, config.tasks_dir)
    # Sorted by name: gin writes dictionaries sorted, and a run must equal the one that its saved configuration
    # describes.
    mixture = dataclasses.replace(mixture, components=dict(sorted(mixture.components.items())))
    batches = tasks.Batches(
        mixture,
        config.batch_size,
        config.lengths,
        config.seed,
        shard=shard,
        num_shards=num_shards,
        vocabulary=vocabulary,
        packing=config.packing,
    )
    partitioner.check_divides({"TASK_FEATURE_LENGTHS['targets']": ("residual_length", batches.length)})
    model = config.model
    if not model.vocab_size:
        model = dataclasses.replace(model, vocab_size=batches.vocab_size)
    if model.vocab_size < max(batches.vocab_size, 1):
        raise VocabularyError(
            f"Transformer.vocab_size = {model.vocab_size} is smaller than the vocabulary of the task caches "
            f"({batches.vocab_size}).",
            "Leave Transformer.vocab_size at 0 to take the vocabulary's size.",
        )
    model.check_mesh(partitioner)
    return PreparedRun(config, model, partitioner, batches, shard, num_shards)
