"""A job's configuration as JSON for manifests, and the job built again from this JSON."""

import dataclasses
import importlib
import os
from collections.abc import Mapping
from typing import Any

from castor.tasks import fingerprint, former_names
from castor.tasks.errors import ConfigurationError, CorpusError


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
            "Configure an instance: @name() in gin, with parentheses.",
        )
    raise ConfigurationError(
        f"a job's configuration holds a {type(value).__name__}, which JSON cannot represent.", "Use plain values."
    )


def rebuild(value: Any, **changes) -> Any:
    """The inverse of `describe`; lists become tuples.

    value: the JSON.
    changes: new values of fields of the outermost dataclass.

    Former names of classes and fields are resolved (tasks/former_names.py). Raises CorpusError for a class outside
    Castor or a configuration that does not fit the class.
    """
    if isinstance(value, list):
        return tuple(rebuild(item) for item in value)
    if not isinstance(value, Mapping):
        return value
    if "class" not in value:
        return {key: rebuild(item) for key, item in value.items()}
    path = former_names.class_path(str(value["class"]))
    fields = {former_names.field(path, key): rebuild(item) for key, item in value.items() if key != "class"}
    module, _, name = path.rpartition(".")
    if not fingerprint.is_own(module):
        raise CorpusError(
            f"a manifest names the class {value['class']!r}, which is not part of Castor.",
            "Do not trust this manifest.",
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


def modules_of(described: Any) -> set[str]:
    """The modules of all classes named in a description (`describe`)."""
    if isinstance(described, list):
        return set().union(*(modules_of(item) for item in described)) if described else set()
    if not isinstance(described, Mapping):
        return set()
    found = set().union(*(modules_of(item) for item in described.values())) if described else set()
    if isinstance(described.get("class"), str):
        found.add(described["class"].rpartition(".")[0])
    return found
