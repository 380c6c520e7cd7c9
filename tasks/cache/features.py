"""The features of a task: how they are declared, and the record that carries them.

A declaration is {"dtype", "rank"}; a feature of rank above 1 also names its shape: {"dtype", "rank", "shape": [None, 80]}. The first axis
differs from record to record.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from castor.tasks.errors import CacheError

TARGETS = {"targets": {"dtype": "int32", "rank": 1}}
"""The features of an ordinary token cache. A feature of rank above 1 also names its shape: {"dtype", "rank", "shape": [None, 80]}."""
DTYPES = {"int32": np.int32, "int64": np.int64, "float32": np.float32}


@dataclasses.dataclass(frozen=True)
class Record:
    """One example of a task. `id` and `source` are its document's; features are arrays as the task's features declare them."""

    id: str
    source: str
    features: Mapping[str, np.ndarray]


def checked_features(features: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Features by name, sorted. Raises CacheError for a declaration that is none."""
    result = {}
    for name, spec in sorted(features.items()):
        if (
            spec["dtype"] not in DTYPES
            or name == "offset"
            or (spec["rank"] > 1 and len(spec.get("shape", ())) != spec["rank"])
        ):
            raise CacheError(
                f"feature {name!r} is declared as {dict(spec)}.",
                'Declare {"dtype": int32, int64 or float32, "rank": n, "shape": if n > 1}.',
            )
        result[name] = dict(spec)
    return result


def is_token_feature(spec: Mapping[str, Any]) -> bool:
    """True for a list of integers."""
    return spec["dtype"] in ("int32", "int64") and spec["rank"] == 1


def feature_shape(spec: Mapping[str, Any]) -> list[int | None]:
    """Shape of a feature; None where records differ."""
    return list(spec["shape"]) if "shape" in spec else [None] * spec["rank"]
