"""The features of a task: their declarations, and the record that carries their values.

A declaration is {"dtype", "rank"}. A feature of rank above 1 also has a shape, {"dtype", "rank", "shape": [None,
80]}, whose first axis differs between records.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from castor.tasks.errors import CacheError

TARGETS = {"targets": {"dtype": "int32", "rank": 1}}
"""The declaration of an ordinary token cache."""
DTYPES = {"int32": np.int32, "int64": np.int64, "float32": np.float32}


@dataclasses.dataclass(frozen=True)
class Record:
    """One example of a task.

    id: document id, 32 hexadecimal digits.

    source: source URI of the document.

    features: name -> array, as declared.
    """

    id: str
    source: str
    features: Mapping[str, np.ndarray]


def checked_features(features: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Declarations sorted by name. Raises CacheError for an invalid declaration."""
    result = {}
    for name, spec in sorted(features.items()):
        if (
            spec["dtype"] not in DTYPES
            or name == "offset"
            or (spec["rank"] > 1 and len(spec.get("shape", ())) != spec["rank"])
        ):
            raise CacheError(
                f"feature {name!r} is declared as {dict(spec)}.",
                'Declare {"dtype": int32, int64 or float32, "rank": n, and "shape" if n > 1}.',
            )
        result[name] = dict(spec)
    return result


def is_token_feature(spec: Mapping[str, Any]) -> bool:
    """Whether a feature is a list of integers."""
    return spec["dtype"] in ("int32", "int64") and spec["rank"] == 1


def feature_shape(spec: Mapping[str, Any]) -> list[int | None]:
    """The declared shape of a feature; None for an axis that differs between records."""
    return list(spec["shape"]) if "shape" in spec else [None] * spec["rank"]
