"""train/model/losses.py: the chunked loss equals the plain loss, with gradients and domain sums, on any mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from castor.train.model import losses
from castor.train.partitioning import Partitioner

B, L, D, V, DOMAINS, Z_LOSS = 4, 12, 8, 64, 3, 0.1


def inputs(dtype=np.float32):
    random = np.random.default_rng(0)
    x, embedding = random.normal(size=(B, L, D)).astype(dtype) * 2, random.normal(size=(V, D)).astype(np.float32)
    weights = (random.random((B, L)) < 0.8).astype(np.float32)
    domain = np.where(weights > 0, random.integers(0, DOMAINS, (B, L)), -1)
    batch = {"decoder_target_tokens": random.integers(0, V, (B, L)), "domain": domain}
    return (
        x,
        embedding,
        {name: array.astype(np.int32) for name, array in batch.items()} | {"decoder_loss_weights": weights},
    )


def value_and_gradients(function):
    def objective(x, embedding):
        value, sums = function(x, embedding)
        return value / 7.0, sums

    return jax.jit(jax.value_and_grad(objective, argnums=(0, 1), has_aux=True))


def plain(batch):
    def function(x, embedding):
        sums = losses.losses(
            jnp.einsum("bld,vd->blv", x, embedding.astype(x.dtype), preferred_element_type=jnp.float32), batch, DOMAINS
        )
        return sums.objective(Z_LOSS), sums

    return value_and_gradients(function)


def chunked(batch, chunk, partitioner=None):
    return value_and_gradients(
        lambda x, embedding: losses.from_hidden(x, embedding, batch, DOMAINS, Z_LOSS, chunk, partitioner)
    )


def close(found, expected, tolerance=1e-5):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * np.abs(b).max()), found, expected
    )


@pytest.mark.parametrize("chunk", [0, 5, 16, 1000])
def test_chunks_are_the_whole(chunk):
    x, embedding, batch = inputs()
    expected = plain(batch)(x, embedding)
    close(chunked(batch, chunk)(x, embedding), expected)
    _, sums = jax.jit(lambda x: losses.from_hidden(x, embedding, batch, DOMAINS, Z_LOSS, chunk))(
        x
    )  # without gradients the program differs
    close(sums, expected[0][1])


def test_bfloat16_is_close_and_the_gradient_of_the_embedding_is_summed_in_float32():
    x, embedding, batch = inputs()
    x = jnp.asarray(x, jnp.bfloat16)
    (_, _), (dx, dembedding) = chunked(batch, 6)(x, embedding)
    assert dx.dtype == jnp.bfloat16 and dembedding.dtype == jnp.float32
    (_, _), expected = plain(batch)(x.astype(jnp.float32), embedding)
    close((dx.astype(jnp.float32), dembedding), expected, 0.03)


def test_no_array_has_all_logits():
    x, embedding, batch = inputs()
    text = chunked(batch, 6).lower(x, embedding).as_text()
    assert (
        f"tensor<6x{V}xf32>" in text
        and f"tensor<{B * L}x{V}xf32>" not in text
        and f"tensor<{B}x{L}x{V}xf32>" not in text
    )


def check_on_meshes():
    """Runs in a subprocess with eight devices."""
    x, embedding, batch = inputs()
    expected = plain(batch)(x, embedding)
    for mesh in (
        {"fsdp": 4, "tensor": 2},
        {"data": 2, "sequence": 2, "tensor": 2},
        {"fsdp": 2, "context": 2, "sequence": 2},
    ):
        partitioner = Partitioner.create(mesh)
        placed = partitioner.place_batch(batch, B)
        arguments = (
            jax.device_put(x, partitioner.sharding(("batch", "length", "act_embed"))),
            jax.device_put(embedding, partitioner.sharding(("vocab", "embed"))),
        )
        for chunk in (0, 2):
            found = chunked(placed, chunk, partitioner)(*arguments)
            close(jax.device_get(found), expected)


def test_every_cut_of_the_mesh_gives_the_same(on_eight_devices):
    on_eight_devices(__file__, "check_on_meshes")
