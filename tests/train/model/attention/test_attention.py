"""train/model/attention/attention.py: every kernel against a plain reference, with packed rows and gradients.

TPU programs contain no T x T array.
"""

import dataclasses
import functools
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from castor.tasks.errors import ConfigurationError
from castor.train.model.attention import attention, splash, triton
from castor.train.partitioning import Partitioner

SMALL_BLOCKS = splash.BlockSizes(
    q=128,
    kv=128,
    kv_compute=128,
    q_backward=128,
    kv_backward=256,
    kv_compute_backward=128,
    q_dq=128,
    kv_dq=128,
    fused=0,
)


def segment_ids(random, rows: int, length: int) -> np.ndarray:
    """Packed rows: segments 1, 2, ... of random lengths, padding 0 at the end of some."""
    result = np.zeros((rows, length), np.int32)
    for row in result:
        cuts = np.sort(random.integers(0, length + 1, random.integers(1, 5)))
        for number, (start, end) in enumerate(zip([0, *cuts], cuts), 1):
            row[start:end] = number
    return result


def oracle(q, k, v, segments) -> np.ndarray:
    """In float64, row by row and head by head."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    B, L, H, K = q.shape
    result = np.zeros_like(q)
    for b in range(B):
        seen = (segments[b][:, None] == segments[b][None, :]) & np.tri(L, dtype=bool)
        for h in range(H):
            g = h // (H // k.shape[2])
            scores = np.where(seen, q[b, :, h] @ k[b, :, g].T / np.sqrt(K), -np.inf)
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            result[b, :, h] = weights / weights.sum(-1, keepdims=True) @ v[b, :, g]
    return result


def arrays(seed: int, B: int, L: int, H: int, G: int, K: int):
    """(q, k, v, segment ids, weights of the outputs in a sum that is differentiated)."""
    random = np.random.default_rng(seed)
    q, k, v, w = (random.normal(size=(B, L, heads, K)).astype(np.float32) for heads in (H, G, G, H))
    return q, k, v, segment_ids(random, B, L), w


def output_and_gradients(kernel, q, k, v, segments, w, **options):
    def weighted(q, k, v):
        o = attention.packed(q, k, v, jnp.asarray(segments), kernel, **options)
        return jnp.sum(o * w), o

    (_, o), gradients = jax.jit(jax.value_and_grad(weighted, (0, 1, 2), has_aux=True))(q, k, v)
    return o, gradients


@pytest.mark.parametrize(
    "kernel, B, L, H, G, K, options",
    [
        ("full", 2, 48, 4, 1, 16, {}),
        ("full", 2, 48, 4, 4, 16, {}),
        ("blockwise", 2, 700, 4, 2, 16, {}),
        ("triton", 1, 200, 2, 1, 16, {}),
        # Separate tile tables per row and two backward kernels; then a shared table and one kernel; and lengths that no
        # tile divides.
        ("splash", 2, 256, 2, 1, 64, {"sparse_from": 0, "fused": 0}),
        ("splash", 1, 200, 4, 2, 128, {"fused": 2, "kv_backward": 128}),
    ],
)
def test_every_kernel_equals_the_oracle(kernel, B, L, H, G, K, options):
    q, k, v, segments, w = arrays(0, B, L, H, G, K)
    o, gradients = output_and_gradients(
        kernel, q, k, v, segments, w, blocks=dataclasses.replace(SMALL_BLOCKS, **options)
    )
    np.testing.assert_allclose(o, oracle(q, k, v, segments), atol=1e-5)
    if kernel != "full":
        _, expected = output_and_gradients("full", q, k, v, segments, w)
        jax.tree.map(lambda actual, wanted: np.testing.assert_allclose(actual, wanted, atol=3e-5), gradients, expected)


@pytest.mark.parametrize(
    "platform, length, options, expected",
    [
        ("tpu", 2048, {}, "splash"),
        ("cpu", 2048, {}, "blockwise"),
        ("gpu", 2048, {}, "triton"),
        ("gpu", 2048, {"head_dim": 256}, "blockwise"),
        ("gpu", 2048, {"dtype": "float32"}, "blockwise"),
        ("gpu", 2048, {"length_parts": 2}, "blockwise"),
        ("tpu", 8, {}, "full"),
        ("cpu", 64, {}, "full"),
    ],
)
def test_the_kernel_goes_by_devices_length_and_shape(platform, length, options, expected):
    assert attention.choose("auto", platform, length, **options) == expected
    assert attention.choose("full", platform, length, **options) == "full"


def test_kernels_that_cannot_be():
    with pytest.raises(ConfigurationError, match="Transformer.attention = 'flash'"):
        attention.choose("flash", "cpu", 64)
    with pytest.raises(ConfigurationError, match="'triton' reads whole rows"):
        attention.choose("triton", "gpu", 2048, length_parts=2)


@pytest.mark.parametrize("L", [1, 3, 40])
def test_queries_to_a_cache_see_what_stands_before_them(L):
    """Rows at different positions: one token, a few tokens, and a prompt processed in blocks."""
    random = np.random.default_rng(L)
    q = random.normal(size=(2, L, 4, 16)).astype(np.float32)
    k, v = random.normal(size=(2, 2, 96, 2, 16)).astype(np.float32)
    positions = np.array([[0], [96 - L]], np.int32) + np.arange(L, dtype=np.int32)
    found = jax.jit(attention.cached)(q, k, v, positions)
    for row, start in enumerate((0, 96 - L)):
        here = oracle(
            np.concatenate([np.zeros((1, start, 4, 16)), q[row : row + 1]], axis=1),
            k[row : row + 1, : start + L],
            v[row : row + 1, : start + L],
            np.ones((1, start + L)),
        )
        np.testing.assert_allclose(found[row], here[0, start:], atol=1e-5)


def test_a_prompt_reads_its_cache_without_all_scores(optimized):
    L, M = 2048, 8192
    q, k = jax.ShapeDtypeStruct((1, L, 2, 16), jnp.float32), jax.ShapeDtypeStruct((1, M, 1, 16), jnp.float32)
    memory = (
        jax.jit(attention.cached).lower(q, k, k, jax.ShapeDtypeStruct((1, L), jnp.int32)).compile().memory_analysis()
    )
    assert memory.temp_size_in_bytes < L * M


def test_the_program_for_gpu_is_three_kernels():
    """Forward, and backward for queries and for keys. Lowered for CUDA without a GPU, which cannot compile further."""
    q, k = jax.ShapeDtypeStruct((1, 1024, 4, 64), jnp.bfloat16), jax.ShapeDtypeStruct((1, 1024, 1, 64), jnp.bfloat16)

    def loss(q, k, v, segments):
        return jnp.sum(triton.attend(q, k, v, segments).astype(jnp.float32))

    abstract = (q, k, k, jax.ShapeDtypeStruct((1, 1024), jnp.int32))
    text = jax.jit(jax.grad(loss, (0, 1, 2))).trace(*abstract).lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("xla.gpu.triton") == 3 and "1024x1024" not in text


def test_the_program_for_tpu_holds_no_square_of_the_length():
    """Rows split over four chips, compiled by the real TPU compiler, which would reject tiles that exceed its
    memory.
    """
    from jax.experimental import topologies

    devices = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2").devices
    place = Partitioner.create({"context": 4}, devices)
    L = 8192

    def abstract(dtype, *shape):
        axes = ("batch", "length", "act_heads", "head")[: len(shape)]
        return jax.ShapeDtypeStruct(shape, dtype, sharding=place.sharding(axes))

    def loss(q, k, v, segments):
        return jnp.sum(attention.packed(q, k, v, segments, partitioner=place).astype(jnp.float32) ** 2)

    q, kv = abstract(jnp.bfloat16, 2, L, 2, 64), abstract(jnp.bfloat16, 2, L, 1, 64)
    compiled = jax.jit(jax.grad(loss, (0, 1, 2))).lower(q, kv, kv, abstract(jnp.int32, 2, L)).compile()
    text = compiled.as_text()
    assert "splash_mha_fwd" in text and "collective-permute" in text
    assert f"{L},{L}" not in text and f"{L // 4},{L}" not in text
    assert (
        compiled.memory_analysis().temp_size_in_bytes < L * L // 2
    )  # of 2 rows, a bit a score would already be as much


def test_rows_and_heads_cut_over_eight_devices_give_what_one_device_gives():
    """Length over 8, 3 and 2 devices, heads over 2, 4 and 8; multi-query, grouped and multi-head attention."""
    child = subprocess.run([sys.executable, __file__], capture_output=True, text=True, timeout=300)
    assert child.returncode == 0, child.stderr
    found = json.loads(child.stdout.splitlines()[-1])
    assert len(found) == len(CUTS) and max(found.values()) < 5e-5, found


# kernel, mesh, (B, L, H, G, K), whether the work over the length is balanced
CUTS = [
    ("blockwise", {"context": 8}, (1, 2048, 2, 1, 16), True),
    ("blockwise", {"data": 2, "context": 2, "tensor": 2}, (2, 512, 4, 2, 16), True),
    ("blockwise", {"context": 2, "sequence": 2, "tensor": 2}, (1, 512, 8, 2, 8), True),
    ("full", {"tensor": 8}, (1, 128, 24, 6, 8), False),
    ("full", {"context": 3}, (1, 192, 2, 2, 16), False),
    ("splash", {"context": 2}, (1, 512, 2, 1, 64), True),
]


def differences() -> dict[str, float]:
    """Case -> the largest difference of output and gradients from full attention on one device."""
    result = {}
    for kernel, mesh, shape, balanced in CUTS:
        count = int(np.prod(list(mesh.values())))
        place = Partitioner.create(mesh, jax.devices()[:count])
        q, k, v, segments, w = arrays(2, *shape)
        expected = output_and_gradients("full", q, k, v, segments, w)
        found = output_and_gradients(kernel, q, k, v, segments, w, partitioner=place, blocks=SMALL_BLOCKS)
        text = str(
            jax.make_jaxpr(functools.partial(attention.packed, kernel=kernel, partitioner=place, blocks=SMALL_BLOCKS))(
                q, k, v, segments
            )
        )
        assert ("ppermute" in text) == balanced, (kernel, mesh)
        result[f"{kernel} {mesh} {shape}"] = max(
            float(np.abs(a - b).max()) for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected))
        )
    return result


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 8)
    print(json.dumps(differences()))
