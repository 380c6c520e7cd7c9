"""The Beam transforms that every job is composed of. Logic is in pure functions; the transforms apply it.

    records, counts = pipeline | Read(source)                      file URIs -> elements, and the numbers read
    elements = (
        records
        | Apply("extract", extract, sandbox=Sandbox(cpu_seconds=5)) Document -> Document | Rejection, may raise BadInput
        | Check(gopher_quality.Filter())                           filter.check(Document) -> None | reason
    )

A PCollection holds elements: `Document`, `Rejection` or `DeadLetter`. A stage processes Documents and passes the
other two on unchanged, so every record read arrives at the sink as exactly one element. A failure on a record becomes
a DeadLetter: BadInput under its own kind, any other exception under `exception:TypeName`. A CastorError is an error
that the user must fix; it stops the job.

Functions, filters and sources are module-level functions or frozen dataclasses (Beam pickles them by reference). Costly
state such as a model is kept in a module-level `functools.cache`. A method `prepare()`, if defined, is called once per
worker.

Whole documents are shuffled only once, in the sink. Beam fuses the stages of this file, so nothing is encoded between
them.
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

# Records read by this process, for the progress line only.
progress: Counter = Counter()


class Source(Protocol):
    """A source of records, a frozen dataclass. `files` runs in the launcher, `read` on the workers."""

    def files(self) -> list[str]:
        """Sorted distinct URIs, each a unit of work."""

    def read(self, uri: str) -> Iterator[Element]:
        """The elements of one file: a Document per readable record, a DeadLetter or Rejection per other record."""


class Filter(Protocol):
    """A rule set. Each of its reasons begins with `name`: `gopher_quality.words`."""

    name: str

    def check(self, document: Document) -> str | None:
        """None keeps the document; a string rejects it and is the reason code.

        A reason code names a folder: letters, digits, `.`, `_` and `-` only. A `pipelines.filters.reason.Reason` is a
        reason code that also carries the offending value.
        """


class Read(beam.PTransform):
    """Pipeline -> two PCollections: the elements of `source`, and (URI, number of elements) per file read.

    Shuffles file URIs only, not records. The sink uses the counts to prove that no record was lost.
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
    """Elements -> elements; applies `function` to each Document.

    name: name of the stage, in counters and dead letters.
    function: Document -> Document | Rejection; may raise BadInput.
    sandbox: None applies the function in the worker, else in one child process per worker (pipelines/core/sandbox.py).
    """

    def __init__(self, name: str, function: Callable[[Document], Element], sandbox: Sandbox | None = None):
        super().__init__(label=name)
        self._fn = ApplyFn(name, function, sandbox)

    def expand(self, elements):
        return elements | beam.ParDo(self._fn)


class Check(beam.PTransform):
    """Elements -> elements; Documents that `filter` rejects become Rejections with the filter's reason."""

    def __init__(self, filter: Filter):
        super().__init__(label=filter.name)
        self._fn = ApplyFn(filter.name, FilterFunction(filter), None)

    def expand(self, elements):
        return elements | beam.ParDo(self._fn)


class ApplySteps(beam.PTransform):
    """Elements -> elements; applies `steps` in order.

    steps: filters (with a method `check`) and functions (Document -> Element), each with a `name`.
    name: the name of the list in the job's configuration, for labels and error messages.

    Beam fuses the steps: a document passes all of them before the next document, so that work on a text that the steps
    share is done once.
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
        # The rest of the file is lost to this run. A replay reads the whole file again: the source names no record.
        where = self._source.reference(uri) if isinstance(self._source, FileSource) else uri
        return DeadLetter(document_id("file", where), where, self._name, error, message[:1000])


class ApplyFn(beam.DoFn):
    """The DoFn of Apply and Check. execution/explain.py finds the steps of a job by this class."""

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
    """The steps of a list in a job's configuration, as a tuple.

    steps: the configured list.
    name: the name of the list, for error messages.
    is_one: whether a value is a valid step.

    Raises ConfigurationError if `steps` is not a list or contains an invalid step.
    """
    if not isinstance(steps, (list, tuple)):
        raise ConfigurationError(
            f"the {name} of the job are {steps!r}, which is not a list.", "Write a list: [@length.Filter()]."
        )
    for step in steps:
        if not is_one(step):
            raise ConfigurationError(
                f"{step!r} cannot be one of the {name} of the job.",
                "Write each entry as a gin reference: [@length.Filter()].",
            )
    return tuple(steps)


def _is_step(step: Any) -> bool:
    return hasattr(step, "name") and (hasattr(step, "check") or callable(step))


def _by_uri(uri: str) -> tuple[bytes, bytes]:
    return uri.encode("utf-8", "surrogateescape"), b""
