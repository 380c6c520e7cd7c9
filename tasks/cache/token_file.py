"""The token file of a shard: the ids of `targets` in the smallest dtype that holds them, with checksums.

Example: ids [7, 300] as uint16 are stored as a CRC-32C (4 bytes), then 07 00 2c 01. A document of 5000 ids has two
CRC-32C, one per 4096 ids, then its 5000 ids.
"""

import numpy as np

from castor.tasks.cache import records

TOKEN_DTYPES = ("uint16", "uint32")
TOKENS_PER_CRC, CRC_BYTES = 4096, 4
"""Ids per CRC and bytes per CRC: a piece of a long document is checked without reading the whole document."""


def token_dtype(largest: int) -> str | None:
    """The smallest dtype for ids up to `largest`; None if no dtype of TOKEN_DTYPES holds them."""
    return next((name for name in TOKEN_DTYPES if largest <= np.iinfo(name).max), None)


def encode_tokens(ids: np.ndarray, dtype: str) -> bytes:
    """One record of the token file: the CRC-32C of every TOKENS_PER_CRC ids, then the ids, all little-endian.

    ids: integers [n].

    dtype: one of TOKEN_DTYPES.
    """
    data = ids.astype(np.dtype(dtype).newbyteorder("<")).tobytes()
    part = TOKENS_PER_CRC * np.dtype(dtype).itemsize
    return b"".join(
        [*(records.crc32c(data[i : i + part]).to_bytes(CRC_BYTES, "little") for i in range(0, len(data), part)), data]
    )


def encoded_tokens_bytes(lengths: np.ndarray, dtype: str) -> np.ndarray:
    """The bytes that records occupy in the token file, int64 [n].

    lengths: integers [n], ids of each record.

    dtype: one of TOKEN_DTYPES.
    """
    lengths = np.asarray(lengths, dtype=np.int64)
    return lengths * np.dtype(dtype).itemsize + -(-lengths // TOKENS_PER_CRC) * CRC_BYTES
