"""The .idx file (sidecar) of a shard: byte offset and feature lengths of each record, and counts per block.

An .idx file is an npy file with one row per record: byte offset `<u8`, then one length `<u4` per feature. Packing
plans need no other file.
"""

import io
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from castor.tasks.cache.features import is_token_feature
from castor.tasks.mixing import packing

PACKING = {"version": packing.VERSION, "block_records": packing.BLOCK_RECORDS}
"""The packing that the row and block counts belong to; stored in the manifest as "packing"."""


def index_dtype(features: Iterable[str]) -> np.dtype:
    """The row dtype of an .idx file: byte offset, then the length (first axis) of each feature, sorted by name."""
    return np.dtype([("offset", "<u8"), *((name, "<u4") for name in sorted(features))])


def index_header(dtype: np.dtype, records_: int) -> bytes:
    """The first bytes of an .idx file: an npy header, version 1.0."""
    buffer = io.BytesIO()
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (records_,)}
    np.lib.format.write_array_header_1_0(buffer, header)
    return buffer.getvalue()


def count_rows(index: np.ndarray, features: Mapping[str, Mapping[str, Any]]) -> dict[str, list[int]]:
    """Packed rows of each block of a shard by row length: {"64": [rows of block 0, ...], ..., "32768": [...]}.

    Rows hold `targets` alone, packed with best_fit at packing.STANDARD_LENGTHS. The result is empty for a task
    without an integer feature `targets`.

    index: .idx array [records].

    features: name -> declaration.
    """
    if "targets" not in features or not is_token_feature(features["targets"]):
        return {}
    size = packing.BLOCK_RECORDS
    blocks = [index["targets"][start : start + size] for start in range(0, len(index), size)]
    return {str(length): [packing.count_rows(block, length) for block in blocks] for length in packing.STANDARD_LENGTHS}


def count_blocks(index: np.ndarray, features: Iterable[str]) -> dict[str, list[int]]:
    """Values (first axis) in each block of a shard, by feature: {"targets": [values of block 0, ...]}.

    index: .idx array [records].

    features: names of the features.
    """
    starts = np.arange(0, len(index), packing.BLOCK_RECORDS)
    return {
        name: np.add.reduceat(index[name], starts, dtype=np.int64).tolist() if len(index) else []
        for name in sorted(features)
    }
