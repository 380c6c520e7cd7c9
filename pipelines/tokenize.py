"""The tokenize job: corpus + vocabulary -> task cache, for every kind of document.

    castor data tokenize --gin.CORPUS='"corpora/web"' --gin.VOCABULARY='"vocabulary"' --gin.NAME='"web"' \\
        --gin.OUTPUT='"tasks/web"'
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import gin
from castor.pipelines.core.sandbox import Sandbox
from castor.pipelines.corpus.commit import sum_funnels
from castor.pipelines.corpus.reader import CorpusSource, load_manifest
from castor.pipelines.execution.job import BaseJob, check_staged_funnel
from castor.pipelines.tokenization import cache_commit
from castor.pipelines.tokenization.examples import Tokenizer, split_thresholds
from castor.tasks.errors import ConfigurationError, VocabularyError
from castor.tasks.vocabulary.vocabulary import Vocabulary

_NEEDS = {"image": ("image",), "audio": ("audio",), "video": ("image",)}


@gin.configurable(module="pipelines.tokenize")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Job(BaseJob):
    """The tokenize job.

    corpus, vocabulary: directories.
    num_shards: shards of each split.
    splits: share of the documents by split name.
    seed: seed of the global shuffle.
    image_token_budget, frame_token_budget, frames_per_second, max_frames, min_tokens, max_tokens: see
      examples.Tokenizer.
    dead_letter_threshold: share of records read that may become dead letters before the job fails.
    sandbox: limits on the tokenization of one document.
    """

    corpus: str
    vocabulary: str
    num_shards: int = 8
    splits: Mapping[str, float] = dataclasses.field(default_factory=lambda: {"train": 0.98, "validation": 0.02})
    seed: int = 0
    image_token_budget: int = 1024
    frame_token_budget: int = 128
    frames_per_second: float = 1.0
    max_frames: int = 600
    min_tokens: int = 2
    max_tokens: int = 262_144
    dead_letter_threshold: float = 0.1
    sandbox: Sandbox = Sandbox(cpu_seconds=120.0, memory_bytes=4 << 30)

    not_configuration: ClassVar[tuple[str, ...]] = ("output", "corpus", "vocabulary")

    def __post_init__(self):
        split_thresholds(self.splits)
        if not 0 < self.num_shards <= 100_000:
            raise ConfigurationError(
                f"{self.name}: NUM_SHARDS is {self.num_shards}.", "Give it a value between 1 and 100000."
            )

    def build(self, pipeline, staging):
        from castor.pipelines.core.stages import Apply, Read
        from castor.pipelines.tokenization.cache_sink import WriteCache

        documents, counts = pipeline | Read(CorpusSource(self.corpus))
        return (documents | Apply("tokenize", self.tokenizer(), self.sandbox), counts) | WriteCache(
            staging, self._cut()
        )

    def tokenizer(self) -> Tokenizer:
        """The function that the job applies.

        Raises CorpusError or VocabularyError if an input is missing or they do not fit.
        """
        vocabulary, modality = Vocabulary.load(self.vocabulary), load_manifest(self.corpus)["modality"]
        for kind in _NEEDS.get(modality, ()):
            vocabulary.need(kind)
        names = [f.name for f in dataclasses.fields(Tokenizer) if f.name not in ("vocabulary", "fingerprint")]
        return Tokenizer(self.vocabulary, vocabulary.fingerprint, **{name: getattr(self, name) for name in names})

    def input_state(self) -> dict[str, Any]:
        manifest = load_manifest(self.corpus)
        return {"corpus": manifest["fingerprint"], "vocabulary": Vocabulary.load(self.vocabulary).fingerprint}

    def finish(self, staging: str) -> dict[str, Any]:
        entries = cache_commit.read_entries(staging, self.num_shards)
        funnel = sum_funnels(entries)
        check_staged_funnel(funnel, self.name, self.dead_letter_threshold, staging, self.output)
        vocabulary, source = Vocabulary.load(self.vocabulary), load_manifest(self.corpus)
        manifest = self.manifest(funnel)
        if manifest["inputs"]["vocabulary"] != vocabulary.fingerprint:
            raise VocabularyError(f"vocabulary {self.vocabulary} changed while the job ran.", "Run the job again.")
        manifest |= {"modality": source["modality"], "seed": self.seed}
        return cache_commit.commit(staging, self.output, entries, manifest, vocabulary, self.vocabulary)

    def _cut(self):
        from castor.pipelines.tokenization.cache_sink import Cut

        return Cut(self.seed, self.num_shards, split_thresholds(self.splits))
