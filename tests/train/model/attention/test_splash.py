"""train/model/attention/splash.py: tile sizes that fit, and tables that fetch every tile in time.

tests/train/model/attention/test_attention.py checks that the kernels compute attention.
"""

import hypothesis
import jax
import numpy as np
import pytest
from hypothesis import strategies as st

from castor.tasks.errors import ConfigurationError
from castor.train.model.attention import splash

visits = jax.jit(splash.visits, static_argnums=1)


@pytest.mark.parametrize("wrong", [{"kv": 100}, {"q": 0}, {"kv_compute": True}, {"fused": -1}])
def test_blocks_that_cannot_be(wrong):
    with pytest.raises(ConfigurationError, match=f"Blocks.{next(iter(wrong))}"):
        splash.BlockSizes(**wrong)


def test_blocks_fit_the_length():
    assert [splash.fit(1024, length) for length in (128, 384, 2048, 1280)] == [128, 384, 1024, 640]


def test_tiles_go_by_the_length():
    short, long = splash.tiles(2048, 2048, splash.BlockSizes()), splash.tiles(32768, 32768, splash.BlockSizes())
    assert (short["block_q"], short["block_kv"], short["block_kv_dkv"], short["use_fused_bwd_kernel"]) == (
        512,
        512,
        1024,
        True,
    )
    assert (long["block_q"], long["block_kv"], long["block_q_dq"], long["use_fused_bwd_kernel"]) == (
        1024,
        1024,
        1024,
        False,
    )
    of_a_shard = splash.tiles(256, 32768, splash.BlockSizes())
    assert of_a_shard["block_q"] == of_a_shard["block_q_dkv"] == 256 and of_a_shard["block_kv"] == 1024


@hypothesis.given(st.sampled_from([(1, 4), (3, 3), (4, 2)]), st.data())  # a program for each shape
def test_tables_name_the_tile_that_is_needed_next(shape, data):
    outer, inner = shape
    needed = np.array(
        data.draw(st.lists(st.lists(st.booleans(), min_size=inner, max_size=inner), min_size=outer, max_size=outer))
    )
    for keys_outside in (False, True):
        table, run = (np.asarray(x)[0] for x in visits((needed.T if keys_outside else needed)[None], keys_outside))
        table, run = (table.T, run.T) if keys_outside else (table, run)
        np.testing.assert_array_equal(run, needed)
        visited = [j for i in range(outer) for j in range(inner) if needed[i, j]]
        first = iter(visited)
        upcoming = next(first, None)
        for i in range(outer):
            for j in range(inner):
                if upcoming is not None:
                    assert table[i, j] == upcoming
                if needed[i, j]:
                    upcoming = next(first, visited[0])
