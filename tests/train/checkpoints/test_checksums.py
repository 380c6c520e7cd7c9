"""train/checkpoints/checksums.py: equal on every sharding, different for different content, and fixed golden values."""

import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from castor.train.checkpoints.checksums import checksums, digest


def test_golden_values():
    tree = {"a": {"b": jnp.arange(6.0).reshape(2, 3)}, "step": jnp.int32(7), "half": jnp.ones(4, jnp.bfloat16)}
    found = checksums(tree)
    assert found == {"a/b": "52c0e84577b814c6", "half": "d61946c9987190d5", "step": "bfec62936f99c04b"}
    assert digest({"parameters": found}) == "7d5f9eeda8e115cb"


@given(st.integers(0, 11), st.integers(0, 31))
def test_one_bit_changes_the_sum_and_so_does_the_order(place, bit):
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    flipped = values.copy()
    flipped.view(np.uint32).reshape(-1)[place] ^= np.uint32(1 << bit)
    one, other, turned = (checksums([jnp.asarray(array)])["0"] for array in (values, flipped, values[::-1].copy()))
    assert len({one, other, turned}) == 3
