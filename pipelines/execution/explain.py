"""Explains why a document is in a corpus or not: its outcome, the rule that decided and the rule's thresholds.

On request the record is read again and passed through the job's own steps, one by one. The steps are taken from the
pipeline that the job builds, so the explanation matches the job. Beam is imported only for this (`steps`, `again`).
"""

import dataclasses
import importlib
import os
from collections.abc import Iterator, Mapping
from typing import Any

from castor.pipelines.core.functions import Chain, FilterFunction, apply, prepare
from castor.pipelines.core.sources import unit_of
from castor.pipelines.corpus import outcomes
from castor.pipelines.corpus.outcomes import Outcome
from castor.pipelines.corpus.reader import read_shard
from castor.pipelines.deduplication import duplicates_table
from castor.pipelines.document import Document, Element, Rejection
from castor.pipelines.execution import beam_options, staging
from castor.pipelines.execution.job_config import rebuild
from castor.tasks import fingerprint, former_names, hashing
from castor.tasks.errors import CorpusError
from castor.tasks.storage import storage


def document(directory: str, manifest: Mapping[str, Any], identifier: str) -> Document | None:
    """The document of a corpus with this id, read from its shard; None if it was not kept."""
    shard = manifest["shards"][hashing.shard_of(int(identifier[:16], 16), len(manifest["shards"]))]
    path = storage.join(directory, shard["file"])
    return next((found for found in read_shard(path) if found.id == identifier), None)


def source_in(config: Mapping[str, Any], source: str) -> str:
    """A `source` that a user wrote, possibly with INPUT_ROOT, in the form of a corpus with configuration `config`."""
    path, mark, key = source.partition("#")
    root = str(config.get("input_root", ""))
    if "identity" not in config or not (os.path.isabs(path) or path.startswith(root.rstrip("/") + "/")):
        return source
    inside = os.path.relpath(path, root)
    return source if inside == ".." or inside.startswith("../") else inside + mark + key


def way_to_survivor(directory: str, outcome: Outcome) -> list[tuple[str, str]]:
    """The (kind, id) steps from a duplicate to the document that stays for it.

    There are several steps if the survivor of one rule was removed by a later rule.
    """
    return duplicates_table.survivor_of(list(duplicates_table.read(directory)), outcome.id) or [
        (outcome.reason, outcome.measure)
    ]


def rule_of(config: Any, reason: str) -> tuple[str, dict[str, Any]] | None:
    """(class, settings) of the rule set in a configuration that gives this reason; None if there is none.

    The settings are the rule's thresholds in that run: numbers, strings and short lists.
    """
    if isinstance(config, Mapping):
        kind = str(config.get("class", ""))
        if kind and _name_of(kind) == reason.rpartition(".")[0]:
            return kind, _settings(config)
        config = list(config.values())
    if isinstance(config, list):
        return next((found for item in config if (found := rule_of(item, reason)) is not None), None)
    return None


def _settings(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Numbers, strings and short lists of a part of a configuration; those of nested parts as `part.setting`."""
    settings: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and "class" in value:
            settings |= _settings(value, f"{prefix}{key}.")
        elif key != "class" and not isinstance(value, Mapping) and len(str(value)) < 200:
            settings[prefix + key] = value
    return settings


def _name_of(kind: str) -> str:
    """The prefix of the reasons that a class of Castor gives: its `name`, else the name of its module."""
    module, _, name = former_names.class_path(kind).rpartition(".")
    if not fingerprint.is_own(module):
        return ""
    try:
        found = getattr(getattr(importlib.import_module(module), name, None), "name", None)
    except ImportError:
        return ""
    return found if isinstance(found, str) else kind.rpartition(".")[0].rpartition(".")[2]


# Processing the record again.


@dataclasses.dataclass(frozen=True)
class Step:
    """One step of the job on the record: the document `before` the step, and the result."""

    name: str
    before: Document
    result: Element


def again(directory: str, manifest: Mapping[str, Any], outcome: Outcome) -> Iterator[Step]:
    """Reads the record again and yields each step of the job on it. After a rejection, the filters that follow run too.

    directory, manifest: the corpus.
    outcome: the record's row.

    The first Step is named `source` and is the record as the source yields it. Raises CorpusError if the record no
    longer exists.
    """
    job = rebuild(manifest["config"], output=directory)
    element = _record(job.source(), outcome, manifest["config"])
    current = element if isinstance(element, Document) else element.document if isinstance(element, Rejection) else None
    yield Step("source", current or Document(outcome.id, outcome.source, job.modality), element)
    if not isinstance(element, Document):
        return
    rejected = False
    for name, function, sandbox in steps(job):
        if rejected and not isinstance(function, FilterFunction):
            continue
        result = _run(name, function, sandbox, current)
        yield Step(name, current, result)
        if isinstance(result, Document):
            current = result
        elif isinstance(result, Rejection) and isinstance(function, FilterFunction):
            rejected = True
        else:
            return


def steps(job: Any) -> list[tuple[str, Any, Any]]:
    """(name, function, sandbox or None) of each step of the pipeline that a job builds, in order."""
    import apache_beam as beam
    from apache_beam.pipeline import PipelineVisitor

    from castor.pipelines.core.stages import ApplyFn

    found = []

    class Visitor(PipelineVisitor):
        def visit_transform(self, node):
            fn = getattr(node.transform, "fn", None)
            if isinstance(fn, ApplyFn):
                functions = fn.function.functions if isinstance(fn.function, Chain) else (fn.function,)
                found.extend(
                    (_step_name(fn.name, function, len(functions)), function, fn.sandbox) for function in functions
                )

    pipeline = beam.Pipeline(runner=beam_options.parse([])[1])
    job.build(pipeline, storage.join(job.output, staging.PREFIX + "explain"))
    pipeline.visit(Visitor())
    return found


def _step_name(name: str, function: Any, count: int) -> str:
    return name if count == 1 else f"{name}, {type(function).__name__}"


def _record(source: Any, outcome: Outcome, config: Mapping[str, Any]) -> Element:
    units = source.units(config)
    unit = unit_of(outcome.source, units)
    wanted = outcomes.mark(outcome.id, outcome.source, source.identity)
    for element in source.read(units[unit]) if unit else ():
        record = element.document if isinstance(element, Rejection) else element
        if record.id == outcome.id and outcomes.mark(record.id, record.source, source.identity) == wanted:
            return element
    raise CorpusError(f"the record {outcome.source} no longer exists.", "Put its file back.")


def _run(name: str, function: Any, sandbox: Any, current: Document) -> Element:
    from castor.pipelines.core.sandbox import Child

    if sandbox is None:
        prepare(function)
        return apply(name, function, current)
    child = Child(function, sandbox)
    try:
        return apply(name, child.call, current)
    finally:
        child.close()
