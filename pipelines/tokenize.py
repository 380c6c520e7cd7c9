"""The tokenize job: corpus + vocabulary -> task cache, for every kind of document.

castor data tokenize --gin.CORPUS='"corpora/web"' --gin.VOCABULARY='"vocabulary"' --gin.NAME='"web"' --gin.OUTPUT='"tasks/web"'
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import gin
from castor.pipelines.core.funnel import Funnel, total
from castor.pipelines.core.sandbox import Sandbox
from castor.pipelines.corpus import card
from castor.pipelines.corpus.commit import keep_failure
from castor.pipelines.corpus.layout import CARD
from castor.pipelines.corpus.reader import CorpusSource, load_manifest
from castor.pipelines.execution.job import BaseJob, check_funnel
from castor.pipelines.tokenization.examples import Tokenizer, split_thresholds
from castor.tasks.cache import manifest as cache_manifest
from castor.tasks.cache import writer
from castor.tasks.cache.features import TARGETS
from castor.tasks.errors import ConfigurationError, CorpusError, VocabularyError
from castor.tasks.storage import storage
from castor.tasks.vocabulary.vocabulary import Vocabulary

_NEEDS = {"image": ("image",), "audio": ("audio",), "video": ("image",)}


@gin.configurable(module="pipelines.tokenize")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Job(BaseJob):
    """corpus, vocabulary: directories. num_shards: of each split. splits: shares by name. seed: of the global shuffle.

    image_token_budget, frame_token_budget, frames_per_second, max_frames, min_tokens, max_tokens: see examples.Tokenizer.
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
        """The function that the job applies. Raises CorpusError or VocabularyError where the two are absent or do not fit."""
        vocabulary, modality = Vocabulary.load(self.vocabulary), load_manifest(self.corpus)["modality"]
        for kind in _NEEDS.get(modality, ()):
            vocabulary.need(kind)
        names = [f.name for f in dataclasses.fields(Tokenizer) if f.name not in ("vocabulary", "fingerprint")]
        return Tokenizer(self.vocabulary, vocabulary.fingerprint, **{name: getattr(self, name) for name in names})

    def input_state(self) -> dict[str, Any]:
        manifest = load_manifest(self.corpus)
        return {"corpus": manifest["fingerprint"], "vocabulary": Vocabulary.load(self.vocabulary).fingerprint}

    def finish(self, staging: str) -> dict[str, Any]:
        from castor.pipelines.tokenization import cache_sink

        entries = cache_sink.read_entries(staging, self.num_shards)
        funnel = total(Funnel.from_json(entry["funnel"]) for entry in entries)
        self._check(funnel, staging)
        vocabulary, source = Vocabulary.load(self.vocabulary), load_manifest(self.corpus)
        inputs = self.input_state()
        if inputs["vocabulary"] != vocabulary.fingerprint:
            raise VocabularyError(f"vocabulary {self.vocabulary} changed while the job ran.", "Run the job again.")
        name_of_run, config = self.fingerprint(), self.config()
        statistics = cache_sink.card_statistics(entries, vocabulary)
        page = card.render(self.name, source["modality"], funnel, statistics, config, name_of_run, unit="tokens")
        storage.write_bytes_atomic(storage.join(staging, CARD), page.encode("utf-8"))
        manifest = writer.build_manifest(
            name=self.name,
            modality=source["modality"],
            entries=[cache_manifest.ShardEntry(**shard) for entry in entries for shard in entry["shards"]],
            features=TARGETS,
            seed=self.seed,
            vocabulary={"path": self.vocabulary, "fingerprint": vocabulary.fingerprint, "size": vocabulary.vocab_size},
            funnel=funnel.to_json(),
            config=config,
            fingerprint=name_of_run,
            code_fingerprint=self.code(),
            inputs=inputs,
        )
        writer.commit(staging, self.output, manifest)
        return dict(cache_manifest.load_manifest(self.output).data)

    def _check(self, funnel: Funnel, staging: str) -> None:
        try:
            check_funnel(funnel, self.name, self.dead_letter_threshold)
        except CorpusError as error:
            kept_in = keep_failure(staging, self.output)
            raise CorpusError(error.what, f"{error.remedy} The dead letters are in {kept_in}.") from None

    def _cut(self):
        from castor.pipelines.tokenization.cache_sink import Cut

        return Cut(self.seed, self.num_shards, split_thresholds(self.splits))
