"""The sidecar of a shard: where each record begins and how long its features are, and the counts per block that follow from that.

A sidecar is a npy file with one row per record: byte offset <u8, then one <u4 length per feature. Packing plans need nothing else.
"""

import io
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from castor.tasks.cache.features import is_token_feature
from castor.tasks.mixing import packing

PACKING = {"version": packing.VERSION, "block_records": packing.BLOCK_RECORDS}
"""What rows and blocks were counted by; under "packing" in a manifest."""


def index_dtype(features: Iterable[str]) -> np.dtype:
    """The row of a sidecar: byte offset of the record, then the length (first axis) of each feature, by name."""
    return np.dtype([("offset", "<u8"), *((name, "<u4") for name in sorted(features))])


def index_header(dtype: np.dtype, records_: int) -> bytes:
    """What a sidecar begins with: the header of a npy file, version 1.0."""
    buffer = io.BytesIO()
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (records_,)}
    np.lib.format.write_array_header_1_0(buffer, header)
    return buffer.getvalue()


def count_rows(index: np.ndarray, features: Mapping[str, Mapping[str, Any]]) -> dict[str, list[int]]:
    """Packed rows of each block of a shard, by length of a row: {"64": [of block 0, ...], ..., "32768": ...}, from its sidecar [records].

    Of `targets` alone and by best_fit, at packing.STANDARD_LENGTHS; empty where a task has no such token feature.
    """
    if "targets" not in features or not is_token_feature(features["targets"]):
        return {}
    size = packing.BLOCK_RECORDS
    blocks = [index["targets"][start : start + size] for start in range(0, len(index), size)]
    return {str(length): [packing.count_rows(block, length) for block in blocks] for length in packing.STANDARD_LENGTHS}


def count_blocks(index: np.ndarray, features: Iterable[str]) -> dict[str, list[int]]:
    """Values (first axis) in each block of packing.BLOCK_RECORDS records of a shard, by feature, from its sidecar [records]."""
    starts = np.arange(0, len(index), packing.BLOCK_RECORDS)
    return {
        name: np.add.reduceat(index[name], starts, dtype=np.int64).tolist() if len(index) else []
        for name in sorted(features)
    }
