"""The few transforms that every job is composed of. Logic sits in pure functions; these carry it through Beam.

    records, counts = pipeline | Read(source)                      file URIs -> elements, and how many were read
    elements = (
        records
        | Apply("extract", extract, sandbox=Sandbox(cpu_seconds=5))  function(Document) -> Document | Rejection, or raises BadInput
        | Check(gopher_quality.Filter())                           filter.check(Document) -> None | reason
    )

A PCollection holds elements: `Document`, `Rejection` or `DeadLetter`. A stage works on Documents and lets the other two pass untouched, so
every record that was read arrives at the sink as exactly one element. Whatever goes wrong with a record becomes a DeadLetter: BadInput
under its own kind, any other exception under `exception:TypeName`. A CastorError is the user's to fix and stops the job.

Functions, filters and sources are module-level functions or frozen dataclasses (Beam pickles them by reference). What has costly state
(a model) keeps it in a module-level `functools.cache`, and a method `prepare()`, if there is one, is called once a worker.

Fat elements cross a shuffle once, in the sink; between the stages here Beam fuses and nothing is encoded.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import apache_beam as beam

from castor.pipelines.core.functions import Chain, FilterFunction, apply, prepare
from castor.pipelines.core.sandbox import Child, Sandbox
from castor.pipelines.core.sources import FileSource
from castor.pipelines.document import BadInput, DeadLetter, Document, Element, Rejection, document_id
from castor.tasks.errors import CastorError, ConfigurationError

__all__ = ["Apply", "Chain", "Check", "Filter", "FilterFunction", "Read", "Sandbox", "Source", "ApplySteps"]

NAMESPACE = "castor"

# What this process has seen, for a progress line only; nothing is computed from it.
progress: Counter = Counter()


class Source(Protocol):
    """Where records come from. A frozen dataclass; `files` runs where the job is launched, `read` on the workers."""

    def files(self) -> list[str]:
        """Sorted URIs without repeats, each a unit of work."""

    def read(self, uri: str) -> Iterator[Element]:
        """The elements of one file: a Document for each sound record, a DeadLetter or Rejection for each other one."""


class Filter(Protocol):
    """A rule set. `name` begins each of its reasons: `gopher_quality.words`."""

    name: str

    def check(self, document: Document) -> str | None:
        """None keeps the document; a string is the reason code: letters, digits, `.`, `_` and `-` only, since it names a folder.

        A `pipelines.filters.reason.Reason` is such a string that also carries the offending value.
        """


class Read(beam.PTransform):
    """Pipeline -> (elements of `source`, counts): two PCollections, of elements and of (URI, number of elements read from that file).

    Shuffles file URIs only, not records. The sink takes the counts to prove that no record was lost.
    """

    def __init__(self, source: Source, name: str = "read"):
        super().__init__(label=name)
        self._source = source
        self._name = name

    def expand(self, root):
        outputs = (
            root
            | "files" >> beam.Create(list(self._source.files()), reshuffle=False)
            | "key" >> beam.Map(_by_uri).with_output_types(tuple[bytes, bytes])
            | "spread" >> beam.GroupByKey()
            | "read" >> beam.ParDo(_ReadFn(self._name, self._source)).with_outputs("counts", main="elements")
        )
        return outputs.elements, outputs.counts


class Apply(beam.PTransform):
    """Elements -> elements through `function`, in this process or, with `sandbox`, in a child process a worker (see pipelines/core/sandbox.py)."""

    def __init__(self, name: str, function: Callable[[Document], Element], sandbox: Sandbox | None = None):
        super().__init__(label=name)
        self._fn = ApplyFn(name, function, sandbox)

    def expand(self, elements):
        return elements | beam.ParDo(self._fn)


class Check(beam.PTransform):
    """Elements -> elements; a Document that `filter` rejects becomes a Rejection with the filter's reason."""

    def __init__(self, filter: Filter):
        super().__init__(label=filter.name)
        self._fn = ApplyFn(filter.name, FilterFunction(filter), None)

    def expand(self, elements):
        return elements | beam.ParDo(self._fn)


class ApplySteps(beam.PTransform):
    """Elements -> elements through `steps` in order: filters (they have `check`) and functions (Document -> Element), each with a `name`.

    Steps fuse, so a document goes through all of them before the next one comes, and what they share of a text is computed once.
    """

    def __init__(self, steps: Sequence[Any], name: str = "rules"):
        super().__init__(label=name)
        self._steps = checked(steps, name, _is_step)

    def expand(self, elements):
        seen: Counter = Counter()
        for step in self._steps:
            seen[step.name] += 1
            label = step.name if seen[step.name] == 1 else f"{step.name} {seen[step.name]}"
            elements = elements | label >> (Check(step) if hasattr(step, "check") else Apply(step.name, step))
        return elements


class _ReadFn(beam.DoFn):
    def __init__(self, name, source):
        self._name = name
        self._source = source

    def process(self, keyed):
        uri = keyed[0].decode("utf-8", "surrogateescape")
        count = 0
        try:
            for element in self._source.read(uri):
                count += 1
                progress["read"] += 1
                yield element
        except CastorError:
            raise
        except BadInput as error:
            count += 1
            yield self._dead(uri, error.error, error.message)
        except Exception as error:
            count += 1
            yield self._dead(uri, f"exception:{type(error).__name__}", str(error))
        beam.metrics.Metrics.counter(NAMESPACE, "read").inc(count)
        yield beam.pvalue.TaggedOutput("counts", (uri, count))

    def _dead(self, uri, error, message):
        # The rest of the file is lost to this run; replay reads the whole file again, since the source names no record.
        where = self._source.reference(uri) if isinstance(self._source, FileSource) else uri
        return DeadLetter(document_id("file", where), where, self._name, error, message[:1000])


class ApplyFn(beam.DoFn):
    """What Apply and Check come to in a pipeline; explain finds the steps of a job by it."""

    def __init__(self, name, function, sandbox):
        self.name = name
        self.function = function
        self.sandbox = sandbox
        self._child = None

    def setup(self):
        if self.sandbox is not None:
            self._child = Child(self.function, self.sandbox)
        else:
            prepare(self.function)

    def teardown(self):
        if self._child is not None:
            self._child.close()

    def process(self, element):
        if not isinstance(element, Document):
            yield element
            return
        result = apply(self.name, self._child.call if self._child is not None else self.function, element)
        if not isinstance(result, Document):
            beam.metrics.Metrics.counter(
                NAMESPACE, result.reason if isinstance(result, Rejection) else f"{result.stage}.{result.error}"
            ).inc()
        yield result


def checked(steps: Sequence[Any], name: str, is_one: Callable[[Any], bool]) -> tuple:
    """The steps of a job's list as a tuple. Raises ConfigurationError for what is no list, or holds what `is_one` does not know."""
    if not isinstance(steps, (list, tuple)):
        raise ConfigurationError(
            f"the {name} of the job are {steps!r}, not a list.", "Write a list: [@length.Filter()]."
        )
    for step in steps:
        if not is_one(step):
            raise ConfigurationError(
                f"{step!r} cannot be one of the {name} of the job.", "Write its name in gin's way: [@length.Filter()]."
            )
    return tuple(steps)


def _is_step(step: Any) -> bool:
    return hasattr(step, "name") and (hasattr(step, "check") or callable(step))


def _by_uri(uri: str) -> tuple[bytes, bytes]:
    return uri.encode("utf-8", "surrogateescape"), b""
