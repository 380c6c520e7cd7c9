"""Composes the pure functions that jobs are made of: chains them, wraps filters, turns failures into dead letters.

This file imports no Beam, so that the functions can be sent to the sandbox cheaply.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from castor.pipelines.core.sandbox import SandboxError
from castor.pipelines.document import BadInput, DeadLetter, Document, Element, Rejection
from castor.tasks.errors import CastorError


def prepare(function: Any) -> None:
    """Calls `prepare()` of a function or filter, if it has one. Functions load models there, once per worker."""
    method = getattr(function, "prepare", None)
    if method is not None:
        method()


@dataclasses.dataclass(frozen=True)
class FilterFunction:
    """A filter as a function for `Apply` or `Chain`: rejected documents become Rejections."""

    filter: Any

    def prepare(self) -> None:
        prepare(self.filter)

    def __call__(self, document: Document) -> Element:
        reason = self.filter.check(document)
        return document if reason is None else Rejection(document, str(reason), getattr(reason, "measure", ""))


@dataclasses.dataclass(frozen=True)
class Chain:
    """Several functions as one, so that a document enters the sandbox once.

    Stops at the first function that does not return a Document.
    """

    functions: tuple[Callable[[Document], Element], ...]

    def prepare(self) -> None:
        for function in self.functions:
            prepare(function)

    def __call__(self, document: Document) -> Element:
        element = document
        for function in self.functions:
            element = function(element)
            if not isinstance(element, Document):
                break
        return element


def apply(stage: str, function: Callable[[Document], Element], document: Document) -> Element:
    """`function(document)`; an exception becomes a DeadLetter of `stage`.

    Raises CastorError, SandboxError and ImportError as they are: these are not the document's fault.
    """
    try:
        result = function(document)
    except (CastorError, SandboxError, ImportError):
        raise
    except BadInput as error:
        return DeadLetter(document.id, document.source, stage, error.error, error.message[:1000])
    except MemoryError:
        return DeadLetter(document.id, document.source, stage, "memory", "")
    except Exception as error:
        return DeadLetter(document.id, document.source, stage, f"exception:{type(error).__name__}", str(error)[:1000])
    if not isinstance(result, Element):
        raise TypeError(f"stage {stage} returned {type(result).__name__}, not a Document, Rejection or DeadLetter")
    return result
