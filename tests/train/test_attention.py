"""train/attention.py: every kernel against the same plain oracle, packed rows and gradients included; programs for TPU without a T x T array."""

import dataclasses
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tasks.errors import ConfigurationError
from train import attention, splash
from train.partitioning import Partitioner

SMALL_BLOCKS = splash.Blocks(q=128, kv=128, kv_compute=128, q_backward=128, kv_backward=256, kv_compute_backward=128, q_dq=128, kv_dq=128, fused=0)


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
        # One table of tiles for each row and two backward kernels; then one for all and a single one, and lengths that are no multiple of a tile.
        ("splash", 2, 256, 2, 1, 64, {"sparse_from": 0, "fused": 0}),
        ("splash", 1, 200, 4, 2, 128, {"fused": 2, "kv_backward": 128}),
    ],
)
def test_every_kernel_equals_the_oracle(kernel, B, L, H, G, K, options):
    q, k, v, segments, w = arrays(0, B, L, H, G, K)
    o, gradients = output_and_gradients(kernel, q, k, v, segments, w, blocks=dataclasses.replace(SMALL_BLOCKS, **options))
    np.testing.assert_allclose(o, oracle(q, k, v, segments), atol=1e-5)
    if kernel != "full":
        _, expected = output_and_gradients("full", q, k, v, segments, w)
        jax.tree.map(lambda actual, wanted: np.testing.assert_allclose(actual, wanted, atol=3e-5), gradients, expected)


def test_the_kernel_goes_by_the_devices_and_the_length():
    assert attention.choose("auto", "tpu", 2048) == "splash"
    assert attention.choose("auto", "cpu", 4096) == "blockwise" and attention.choose("blockwise", "cpu", 256) == "blockwise"
    assert attention.choose("auto", "tpu", 8) == attention.choose("auto", "cpu", 64) == "full"
    with pytest.raises(ConfigurationError, match="Transformer.attention = 'flash'"):
        attention.choose("flash", "cpu", 64)


def test_the_program_for_tpu_holds_no_square_of_the_length():
    from jax.experimental import topologies

    devices = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2").devices
    place = Partitioner.create({"fsdp": 4}, devices)
    L = 4096

    def abstract(dtype, *shape):
        axes = ("batch", "length", "act_heads", "head")[: len(shape)]
        return jax.ShapeDtypeStruct(shape, dtype, sharding=place.sharding(axes))

    def loss(q, k, v, segments):
        return jnp.sum(attention.packed(q, k, v, segments, partitioner=place).astype(jnp.float32) ** 2)

    q, kv = abstract(jnp.bfloat16, 4, L, 2, 64), abstract(jnp.bfloat16, 4, L, 1, 64)
    compiled = jax.jit(jax.grad(loss, (0, 1, 2))).lower(q, kv, kv, abstract(jnp.int32, 4, L)).compile()
    text = compiled.as_text()
    assert "splash_mqa_fwd" in text and f"{L},{L}" not in text
    assert compiled.memory_analysis().temp_size_in_bytes < L * L  # a byte a score would already be more


def test_rows_and_heads_cut_over_eight_devices_give_what_one_device_gives():
    """Length over 8, 3 and 2 x 2 devices, heads over 2 and 4; every kernel; multi-query, grouped and multi-head."""
    child = subprocess.run([sys.executable, __file__], capture_output=True, text=True, timeout=300)
    assert child.returncode == 0, child.stderr
    found = json.loads(child.stdout.splitlines()[-1])
    assert len(found) == len(CUTS) and max(found.values()) < 5e-5, found


# kernel, mesh, (B, L, H, G, K), whether the work over the length is balanced
CUTS = [
    ("blockwise", {"context": 8}, (1, 2048, 2, 1, 16), True),
    ("blockwise", {"data": 2, "context": 2, "tensor": 2}, (2, 512, 4, 2, 16), True),
    ("blockwise", {"context": 2, "sequence": 2, "tensor": 2}, (1, 512, 12, 2, 8), True),
    ("blockwise", {"tensor": 8}, (1, 256, 24, 6, 8), False),
    ("blockwise", {"context": 3}, (1, 768, 2, 2, 16), True),
    ("full", {"fsdp": 2, "context": 4}, (2, 64, 2, 1, 16), False),
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
        text = str(jax.make_jaxpr(lambda *x: attention.packed(*x, kernel, place, SMALL_BLOCKS))(q, k, v, segments))
        assert ("ppermute" in text) == balanced, (kernel, mesh)
        result[f"{kernel} {mesh} {shape}"] = max(float(np.abs(a - b).max()) for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected)))
    return result


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 8)
    print(json.dumps(differences()))
