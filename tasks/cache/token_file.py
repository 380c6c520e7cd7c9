"""The token file of a shard: the ids of `targets` in their smallest dtype, with a checksum for each piece of a document.

Ids of [7, 300] as uint16 are stored as CRC-32C (4 bytes), 07 00, 2c 01. A document of 5,000 ids has two checksums, then its 5,000 ids.
"""

import numpy as np

from castor.tasks.cache import records

TOKEN_DTYPES = ("uint16", "uint32")
TOKENS_PER_CRC, CRC_BYTES = 4096, 4
"""A piece of a long document is checked without reading all of it."""


def token_dtype(largest: int) -> str | None:
    """The dtype of a file of tokens up to this one; None if there can be none."""
    return next((name for name in TOKEN_DTYPES if largest <= np.iinfo(name).max), None)


def encode_tokens(ids: np.ndarray, dtype: str) -> bytes:
    """A record in the file of tokens: the CRC-32C of every TOKENS_PER_CRC of its ids, then the ids, all little-endian."""
    data = ids.astype(np.dtype(dtype).newbyteorder("<")).tobytes()
    part = TOKENS_PER_CRC * np.dtype(dtype).itemsize
    return b"".join(
        [*(records.crc32c(data[i : i + part]).to_bytes(CRC_BYTES, "little") for i in range(0, len(data), part)), data]
    )


def encoded_tokens_bytes(lengths: np.ndarray, dtype: str) -> np.ndarray:
    """int64 [n]: bytes of records of so many ids in the file of tokens."""
    lengths = np.asarray(lengths, dtype=np.int64)
    return lengths * np.dtype(dtype).itemsize + -(-lengths // TOKENS_PER_CRC) * CRC_BYTES
