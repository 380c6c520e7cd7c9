"""A job from the outside: what it is made of, what it would make, and running it so that its output is either whole or not there.

    @gin.configurable
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Job(RefineJob):                       # pipelines/web.py
        modality: ClassVar[str] = "text"
        limits: Sandbox = Sandbox()

        def source(self):                       # a sources.FileSource
            return WebSource(self.name, self.input_root, tuple(self.inputs))

        def build(self, pipeline, staging):
            elements = pipeline | self.read() | Apply("extract", extract, self.limits) | Check(gopher_quality.Filter())
            return (elements, elements | ExactDuplicates(text_key)) | WriteCorpus(staging, self.num_shards, self.keep_rejects)

`castor data JOB` makes `pipelines.JOB.Job()` from gin and calls `run`. A job that writes no corpus derives from `BaseJob` and says itself
how its staged output is committed (`finish`). A job is a frozen dataclass: its fields are its configuration, go into the manifest, and are
enough to build it again.
"""

import dataclasses
import importlib
import os
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from castor.pipelines.core import lists
from castor.pipelines.core.funnel import Funnel
from castor.pipelines.corpus import card, card_facts, corpus
from castor.pipelines.decontamination import report
from castor.pipelines.deduplication import duplicates_table
from castor.pipelines.execution import progress
from castor.tasks import fingerprint
from castor.tasks.errors import ConfigurationError, CorpusError
from castor.tasks.storage import storage

STAGING = ".staging-"


@dataclasses.dataclass(frozen=True, kw_only=True)
class BaseJob:
    """What `run` needs of a job. `name` names the output in manifests, `output` is the directory it goes to."""

    name: str
    output: str

    not_configuration: ClassVar[tuple[str, ...]] = ("output",)

    def build(self, pipeline, staging: str) -> Any:
        """Adds the transforms to a Beam pipeline; they write into the folder `staging` (inside `output`)."""
        raise NotImplementedError

    def finish(self, staging: str) -> dict[str, Any]:
        """Runs in the launcher after the pipeline has succeeded: checks and commits what was staged; returns the manifest."""
        raise NotImplementedError

    def input_state(self) -> dict[str, Any]:
        """JSON-able names and states of what the job reads; another state is another fingerprint."""
        raise NotImplementedError

    def report(self, manifest: Mapping[str, Any]) -> list[str]:
        """Lines to print under the funnel when the job is done."""
        return []

    def config(self) -> dict[str, Any]:
        """JSON-able fields, nested dataclasses with their class. The output directory is left out: it says where, not what."""
        described = describe(self)
        return {key: value for key, value in described.items() if key not in self.not_configuration}

    def code(self) -> str:
        """Fingerprint of the sources of the job and of everything of Castor that they or its configured parts import."""
        return fingerprint.of_code(*sorted({type(self).__module__, *_modules(self.config())}))

    def fingerprint(self) -> str:
        """What the output's manifest will carry: configuration, inputs and code, condensed."""
        made_from = {"config": self.config(), "inputs": self.input_state(), "code": self.code()}
        files = self.files_read()
        return fingerprint.of_json({**made_from, "files": files} if files else made_from)

    def files_read(self) -> dict[str, str]:
        """{name: SHA-256} of the lists and models that parts of the configuration read; a part tells them by `reads()` -> {name: path}."""
        return {name: storage.sha256(path) for name, path in sorted(lists.of_parts(self).items())}


@dataclasses.dataclass(frozen=True, kw_only=True)
class RefineJob(BaseJob):
    """Raw files -> corpus. A subclass says `source()` and `build()`.

    input_root, inputs: folder and patterns under it (see sources.FileSource).
    num_shards: shards of the corpus; at least as many as workers, each at most a few hundred MB.
    keep_rejects: write rejected documents under rejected/REASON/.
    dead_letter_threshold: share of records read that may become dead letters before the job fails.
    replay_of: a corpus whose dead letters alone are read again (set by `castor data replay`).
    """

    input_root: str
    inputs: Sequence[str]
    num_shards: int = 8
    keep_rejects: bool = False
    dead_letter_threshold: float = 0.1
    replay_of: str = ""

    modality: ClassVar[str] = "text"

    def __post_init__(self):
        if not 0 < self.num_shards <= 100_000:
            raise ConfigurationError(
                f"{self.name}: NUM_SHARDS is {self.num_shards}.", "Give it a value between 1 and 100000."
            )
        if isinstance(self.inputs, str):
            raise ConfigurationError(
                f"{self.name}: INPUTS is the text {self.inputs!r}.", f"Write a list: INPUTS=[{self.inputs!r}]."
            )

    def source(self):
        """The raw files, as a source for `stages.Read`."""
        raise NotImplementedError

    def read(self):
        """The transform that begins `build`: Read of the source, or of the part of it that is replayed."""
        from castor.pipelines.core.stages import Read

        if not self.replay_of:
            return Read(self.source())
        from castor.pipelines.execution.replay import Replayed

        return Read(Replayed.of(self.source(), self.replay_of))

    def input_state(self) -> dict[str, Any]:
        """{relative path: [bytes, mtime_ns or generation]} of every matched file, and the fingerprint of a corpus that is replayed."""
        source = self.source()
        state: dict[str, Any] = {}
        for uri in getattr(source, "input_files", source.files)():
            state[_plain(os.path.relpath(uri, self.input_root))] = storage.state(uri)  # a dangling link has a state too
        return (
            {"files": state, "corpus": corpus.load_manifest(self.replay_of)["fingerprint"]}
            if self.replay_of
            else {"files": state}
        )

    def finish(self, staging: str) -> dict[str, Any]:
        entries = corpus.read_entries(staging, self.num_shards)
        funnel = corpus.sum_funnels(entries)
        try:
            check_funnel(funnel, self.name, self.dead_letter_threshold)
        except CorpusError as error:
            kept_in = corpus.keep_failure(staging, self.output)
            raise CorpusError(error.what, f"{error.remedy} The dead letters are in {kept_in}.") from None
        config, name_of_run = self.config(), self.fingerprint()
        manifest = {
            "kind": corpus.KIND,
            "format": corpus.FORMAT,
            "name": self.name,
            "modality": self.modality,
            "shards": [entry["shard"] for entry in entries],
            "documents": sum(entry["shard"]["records"] for entry in entries),
            "funnel": funnel.to_json(),
            "clusters": duplicates_table.sum_clusters(entry["clusters"] for entry in entries),
            "config": config,
            "fingerprint": name_of_run,
            "code_fingerprint": self.code(),
            "inputs": self.input_state(),
            "files": self.files_read(),
        }
        benchmarks = report.write(staging, self.name, self, [entry["contamination"] for entry in entries])
        page = card.render(
            self.name, self.modality, funnel, card_facts.merge(entries), config, name_of_run, benchmarks=benchmarks
        )
        storage.write_bytes_atomic(storage.join(staging, corpus.CARD), page.encode("utf-8"))
        corpus.commit(staging, self.output, manifest)
        return manifest


def check_funnel(funnel: Funnel, name: str, dead_letter_threshold: float) -> None:
    """Raises CorpusError if the funnel does not add up, or if more than the given share of the records read are dead letters."""
    if not funnel.adds_up:
        raise CorpusError(
            f"job {name}: {funnel.read} records were read but {funnel.accounted} arrived, so the output is not to be trusted.",
            "This is a bug of Castor or of the runner; nothing was committed.",
        )
    dead = funnel.dead_total
    if funnel.read and dead / funnel.read > dead_letter_threshold:
        most = sorted(funnel.dead_letters.items(), key=_largest_first)[:3]
        kinds = ", ".join(f"{kind}: {count}" for kind, count in most)
        raise CorpusError(
            f"job {name}: {dead} of {funnel.read} records ({dead / funnel.read:.1%}) are dead letters ({kinds}), "
            f"over the threshold of {dead_letter_threshold:.1%}.",
            "Nothing was committed. Mend the input or the job, or raise DEAD_LETTER_THRESHOLD.",
        )


def expected_fingerprint(job: BaseJob) -> str:
    """The fingerprint that the manifest of an up-to-date output carries."""
    return job.fingerprint()


def up_to_date(job: BaseJob) -> bool:
    """True if the output is there, whole, and made from the inputs, configuration and code as they are now."""
    try:
        manifest = storage.read_json(storage.join(job.output, corpus.MANIFEST))
        return manifest.get("fingerprint") == job.fingerprint()
    except (OSError, ValueError, AttributeError):
        return False


def run(job: BaseJob, beam_args: Sequence[str] = (), quiet: bool = False) -> dict[str, Any]:
    """Runs a job to its end and returns the manifest of its output; prints progress and the funnel unless `quiet`.

    `beam_args` are Beam's own options. The runner is FnApiRunner unless another is named; DirectRunner means FnApiRunner too, since Beam's
    own meaning of it is a binary that it downloads. Raises CorpusError or another CastorError; the output is then as it was before.
    """
    options, runner = beam_options(beam_args)
    job.config()  # what a manifest cannot carry is told now, not after a day's work
    _refuse_own_input(job)
    import apache_beam as beam

    lists.forget()
    started = time.monotonic()
    staging = new_staging(job.output)
    try:
        pipeline = beam.Pipeline(runner=runner, options=options)
        job.build(pipeline, staging)
        with progress.shown(job.name, quiet), progress.without_noise():
            progress.wait(pipeline.run)
        manifest = job.finish(staging)
    finally:
        storage.remove_tree(staging)
    if not quiet:
        progress.report(job.name, manifest["funnel"], [*job.report(manifest), job.output], time.monotonic() - started)
    return manifest


_READ_FIELDS = ("input_root", "replay_of", "corpus", "corpora", "vocabulary", "reference", "sample")


def _refuse_own_input(job: BaseJob) -> None:
    """Raises ConfigurationError if the job would put its output where what it reads is: committing replaces what is there."""
    output = _place_of(job.output)
    for name in _READ_FIELDS:
        read = getattr(job, name, None) or ()
        if output in map(_place_of, [read] if isinstance(read, (str, os.PathLike)) else read):
            raise ConfigurationError(
                f"OUTPUT {job.output} is what the job reads ({name}): it would be replaced.", "Choose another OUTPUT."
            )


def _place_of(path: str) -> str:
    return storage.normal(path) if storage.is_remote(path) else os.path.realpath(path)


def new_staging(output: str) -> str:
    """Removes what killed runs left in `output` and makes an empty staging folder in it, which it returns."""
    try:
        storage.makedirs(output)
    except OSError as error:
        raise ConfigurationError(
            f"OUTPUT {output} cannot be made a directory: {error.strerror}.", "Choose another."
        ) from error
    for name in storage.list_files(output):
        if name.startswith(STAGING):
            storage.remove_tree(storage.join(output, name))
    staging = storage.join(output, STAGING + uuid.uuid4().hex)
    storage.makedirs(staging)
    return staging


def beam_options(beam_args: Sequence[str]):
    """(PipelineOptions, runner) of Beam's command-line options. Raises ConfigurationError for an option that Beam does not know."""
    from apache_beam.options import pipeline_options
    from apache_beam.runners.portability.fn_api_runner import FnApiRunner

    parser = pipeline_options._BeamArgumentParser(allow_abbrev=False)
    for options_class in pipeline_options.PipelineOptions.__subclasses__():
        options_class._add_argparse_args(parser)
    known, unknown = parser.parse_known_args(list(beam_args))
    if unknown:
        raise ConfigurationError(
            f"{' '.join(unknown)}: known neither to castor data nor to Beam.",
            "Configuration goes by --gin.NAME=VALUE, Beam's options by Beam's names.",
        )
    options = pipeline_options.PipelineOptions(list(beam_args))
    name = known.runner
    runner = FnApiRunner() if name in (None, "DirectRunner", "FnApiRunner") else name
    return options, runner


def describe(value: Any) -> Any:
    """Configuration as JSON: dataclasses become objects with their `class`, tuples become lists.

    Raises ConfigurationError for anything else.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        kind = type(value)
        fields = {f.name: describe(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"class": f"{kind.__module__}.{kind.__qualname__}", **fields}
    if isinstance(value, Mapping):
        return {str(key): describe(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [describe(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted(describe(item) for item in value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    if isinstance(value, type):
        raise ConfigurationError(
            f"a job's configuration holds the class {value.__module__}.{value.__qualname__}.",
            "Make one of it: @name() in gin, with both brackets.",
        )
    raise ConfigurationError(
        f"a job's configuration holds a {type(value).__name__}, which a manifest cannot carry.", "Use plain values."
    )


def rebuild(value: Any, **changes) -> Any:
    """The inverse of `describe` (lists come back as tuples), with `changes` to the outermost fields.

    Only Castor's own dataclasses are made.
    """
    if isinstance(value, list):
        return tuple(rebuild(item) for item in value)
    if not isinstance(value, Mapping):
        return value
    fields = {key: rebuild(item) for key, item in value.items() if key != "class"}
    if "class" not in value:
        return fields
    module, _, name = str(value["class"]).rpartition(".")
    if not fingerprint.is_own(module):
        raise CorpusError(
            f"a manifest names the class {value['class']!r}, which is not Castor's.", "Do not trust this manifest."
        )
    try:
        kind = getattr(importlib.import_module(module), name)
        known = {field.name for field in dataclasses.fields(kind)}
        return kind(**{key: item for key, item in {**fields, **changes}.items() if key in known})
    except (ImportError, AttributeError, TypeError) as error:
        raise CorpusError(
            f"the configuration in the manifest does not fit this version of {value['class']}: {error}.",
            "Run the job again.",
        ) from error


def _modules(described: Any) -> set[str]:
    if isinstance(described, list):
        return set().union(*(_modules(item) for item in described)) if described else set()
    if not isinstance(described, Mapping):
        return set()
    found = set().union(*(_modules(item) for item in described.values())) if described else set()
    if isinstance(described.get("class"), str):
        found.add(described["class"].rpartition(".")[0])
    return found


def _plain(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _largest_first(item: tuple[str, int]) -> tuple[int, str]:
    return -item[1], item[0]
