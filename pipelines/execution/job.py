"""What a job is: a frozen dataclass whose fields are its configuration, with methods for pipeline, inputs and commit.

    @gin.configurable(module="lines")
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Job(RefineJob):
        sandbox: Sandbox = Sandbox()

        modality: ClassVar[str] = "text"

        def source(self):                       # a core.sources.FileSource
            return LineSource(self.name, self.input_root, tuple(self.inputs))

        def build(self, pipeline, staging):
            records, counts = pipeline | self.read()
            elements = records | Apply("extract", extract, self.sandbox) | Check(gopher_quality.Filter())
            sink = WriteCorpus(staging, self.num_shards, self.keep_rejects)
            return (elements, counts, elements | ExactDuplicates(text_key)) | sink

`castor data JOB` builds `pipelines.JOB.Job()` with gin and runs it (launcher.py). A job that does not write a corpus
derives from `BaseJob` and implements `finish`, which checks and commits the staged output. The fields are written to
the manifest (job_config.py); the job can be built again from them.
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import gin
from castor.pipelines.core import lists, sources
from castor.pipelines.core.funnel import Funnel
from castor.pipelines.core.sandbox import Sandbox
from castor.pipelines.core.surrogates import escape_surrogates
from castor.pipelines.corpus import card, card_statistics
from castor.pipelines.corpus.commit import commit, keep_failure, read_entries, sum_funnels
from castor.pipelines.corpus.layout import CARD, FORMAT, KIND
from castor.pipelines.corpus.reader import load_manifest
from castor.pipelines.decontamination import report
from castor.pipelines.deduplication import duplicates_table
from castor.pipelines.execution.dead_letter_source import DeadLetterSource
from castor.pipelines.execution.job_config import describe, modules_of
from castor.tasks import fingerprint
from castor.tasks.errors import ConfigurationError, CorpusError
from castor.tasks.storage import storage

_LAUNCHER = "castor.pipelines.execution.launcher"  # imports the jobs, and runs their commits

gin.configurable(Sandbox, module="pipelines")  # every job has one; a sandbox's own child process has no use for gin


@dataclasses.dataclass(frozen=True, kw_only=True)
class BaseJob:
    """The interface that `run` needs.

    name: name of the output in manifests.
    output: directory of the output.
    """

    name: str
    output: str

    not_configuration: ClassVar[tuple[str, ...]] = ("output",)

    def build(self, pipeline, staging: str) -> Any:
        """Adds the transforms to a Beam pipeline. They write into the folder `staging` (inside `output`)."""
        raise NotImplementedError

    def finish(self, staging: str) -> dict[str, Any]:
        """Runs in the launcher after the pipeline: checks and commits the staged output. Returns the manifest."""
        raise NotImplementedError

    def input_state(self) -> dict[str, Any]:
        """Names and states of the inputs, as JSON. A changed state changes the fingerprint."""
        raise NotImplementedError

    def report(self, manifest: Mapping[str, Any]) -> list[str]:
        """Lines for the console, printed under the funnel when the job is done."""
        return []

    def config(self) -> dict[str, Any]:
        """The fields as JSON, nested dataclasses with their class, without those in `not_configuration`."""
        described = describe(self)
        return {key: value for key, value in described.items() if key not in self.not_configuration}

    def manifest(self, funnel: Funnel) -> dict[str, Any]:
        """The entries of every job's manifest: name, funnel, configuration, fingerprints and state of the inputs."""
        return {
            "name": self.name,
            "funnel": funnel.to_json(),
            "config": self.config(),
            "fingerprint": self.fingerprint(),
            "code_fingerprint": self.code(),
            "inputs": self.input_state(),
        }

    def code(self) -> str:
        """Fingerprint of the code of the job, its configured parts and their imports (tasks/fingerprint.py)."""
        return fingerprint.of_code(*self.code_roots())

    def code_roots(self) -> set[str]:
        """The modules where `code` starts: the job's, those of its configured parts, and the launcher's."""
        return {_LAUNCHER, type(self).__module__, *modules_of(self.config())}

    def fingerprint(self) -> str:
        """Hash of configuration, inputs and code; the manifest of the output carries it."""
        made_from = {"config": self.config(), "inputs": self.input_state(), "code": self.code()}
        files = self.files_read()
        return fingerprint.of_json({**made_from, "files": files} if files else made_from)

    def files_read(self) -> dict[str, str]:
        """{name: SHA-256} of the lists and models that parts of the configuration read (`reads()`)."""
        return {name: storage.sha256(path) for name, path in sorted(lists.of_parts(self).items())}


@dataclasses.dataclass(frozen=True, kw_only=True)
class RefineJob(BaseJob):
    """Raw files -> corpus. A subclass implements `source()` and `build()`.

    input_root, inputs: folder and patterns under it (see sources.FileSource).
    identity: what document ids are made of, "location" or "content" (see sources.FileSource).
    num_shards: shards of the corpus. Use at least one per worker, and at most a few hundred MB per shard.
    keep_rejects: write rejected documents under rejected/REASON/.
    dead_letter_threshold: share of records read that may become dead letters before the job fails.
    replay_of: a corpus of which only the dead letters are read again (set by `castor data replay`).
    """

    input_root: str
    inputs: Sequence[str]
    num_shards: int = 8
    keep_rejects: bool = False
    dead_letter_threshold: float = 0.1
    replay_of: str = ""
    identity: str = sources.LOCATION

    modality: ClassVar[str] = "text"

    def __post_init__(self):
        if not 0 < self.num_shards <= 100_000:
            raise ConfigurationError(
                f"{self.name}: NUM_SHARDS is {self.num_shards}.", "Give it a value between 1 and 100000."
            )
        if isinstance(self.inputs, str):
            raise ConfigurationError(
                f"{self.name}: INPUTS is the string {self.inputs!r}.", f"Write a list: INPUTS=[{self.inputs!r}]."
            )
        if self.identity not in sources.IDENTITIES:
            raise ConfigurationError(
                f"{self.name}: IDENTITY is {self.identity!r}.", f"Choose one of {', '.join(sources.IDENTITIES)}."
            )

    def source(self):
        """The raw files, as a source for `stages.Read`."""
        raise NotImplementedError

    def read(self):
        """The first transform of `build`, pipeline -> (elements, counts): the source, or its records to replay."""
        from castor.pipelines.core.stages import Read

        if not self.replay_of:
            return Read(self.source())
        return Read(DeadLetterSource.of(self.source(), self.replay_of))

    def input_state(self) -> dict[str, Any]:
        """{"files": {relative path: [bytes, mtime_ns or generation]}}, and for a replay the fingerprint of its corpus.

        A dangling link has a state too.
        """
        source = self.source()
        state: dict[str, Any] = {}
        for uri in getattr(source, "input_files", source.files)():
            state[escape_surrogates(os.path.relpath(uri, self.input_root))] = storage.state(uri)
        if not self.replay_of:
            return {"files": state}
        return {"files": state, "corpus": load_manifest(self.replay_of)["fingerprint"]}

    def finish(self, staging: str) -> dict[str, Any]:
        entries = read_entries(staging, self.num_shards)
        funnel = sum_funnels(entries)
        check_staged_funnel(funnel, self.name, self.dead_letter_threshold, staging, self.output)
        manifest = {
            **self.manifest(funnel),
            "kind": KIND,
            "format": FORMAT,
            "modality": self.modality,
            "shards": [entry["shard"] for entry in entries],
            "documents": sum(entry["shard"]["records"] for entry in entries),
            "clusters": duplicates_table.sum_clusters(entry["clusters"] for entry in entries),
            "files": self.files_read(),
        }
        page = card.render(
            self.name,
            self.modality,
            funnel,
            card_statistics.merge(entries),
            manifest["config"],
            manifest["fingerprint"],
            benchmarks=report.write(staging, self.name, self, [entry["contamination"] for entry in entries]),
        )
        storage.write_bytes_atomic(storage.join(staging, CARD), page.encode("utf-8"))
        commit(staging, self.output, manifest)
        return manifest


def check_staged_funnel(funnel: Funnel, name: str, dead_letter_threshold: float, staging: str, output: str) -> None:
    """As `check_funnel`; on failure also keeps the staged dead letters in a folder of `output` that the error names."""
    try:
        check_funnel(funnel, name, dead_letter_threshold)
    except CorpusError as error:
        kept_in = keep_failure(staging, output)
        raise CorpusError(error.what, f"{error.remedy} The dead letters are in {kept_in}.") from None


def check_funnel(funnel: Funnel, name: str, dead_letter_threshold: float) -> None:
    """Checks that a job may commit.

    funnel: the funnel of the whole job.
    name: the job's name, for error messages.
    dead_letter_threshold: largest allowed share of dead letters among the records read.

    Raises CorpusError if the funnel does not add up or the share of dead letters exceeds the threshold.
    """
    if not funnel.adds_up:
        raise CorpusError(
            f"job {name}: {funnel.read} records were read but {funnel.accounted} arrived. The output is invalid.",
            "This is a bug in Castor or in the runner. Nothing was committed.",
        )
    dead = funnel.dead_total
    if funnel.read and dead / funnel.read > dead_letter_threshold:
        most = sorted(funnel.dead_letters.items(), key=_largest_first)[:3]
        kinds = ", ".join(f"{kind}: {count}" for kind, count in most)
        raise CorpusError(
            f"job {name}: {dead} of {funnel.read} records ({dead / funnel.read:.1%}) are dead letters ({kinds}), "
            f"over the threshold of {dead_letter_threshold:.1%}.",
            "Nothing was committed. Fix the input or the job, or raise DEAD_LETTER_THRESHOLD.",
        )


def _largest_first(item: tuple[str, int]) -> tuple[int, str]:
    return -item[1], item[0]
