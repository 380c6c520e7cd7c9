"""Context parallelism: attention over rows that are split along their length over devices.

Everything here runs inside shard_map.

Every device attends its queries to all keys. Keys and values are gathered instead of passed around a ring. With one
key-value head of width 256, 32,768 tokens of keys and values are 32 MB in bfloat16, one percent of what the query side
of a layer moves. Any kernel can read them with any mask, and no partial softmax has to be merged. Llama 3 does the same
for the same reasons (arXiv 2407.21783, 3.3.2).

Under a causal mask, the device with the last queries of a row would do nearly twice the mean work. Each row is
therefore divided into 2C chunks, and device d of C takes chunks d and 2C - 1 - d. Every such pair attends to equally
many keys (also as in Llama 3). Only queries move (two halves out, two halves back), and only inside attention; the
batch and all other layers keep their order.
"""

import functools

import jax
import jax.numpy as jnp


def home(chunk: int, size: int) -> int:
    """The device, of `size`, that attends the queries of `chunk`, one of 2 * size."""
    return min(chunk, 2 * size - 1 - chunk)


def balance(x_BxLx: jax.Array, axes: tuple[str, ...], size: int) -> jax.Array:
    """Exchanges chunks along axis 1 between the devices.

    Each device holds two consecutive chunks before, and chunks d and 2 * size - 1 - d after, the even one first.
    """
    even, odd = jnp.split(x_BxLx, 2, axis=1)  # device d holds chunks 2d and 2d + 1
    even = jax.lax.ppermute(even, axes, [(device, home(2 * device, size)) for device in range(size)])
    odd = jax.lax.ppermute(odd, axes, [(device, home(2 * device + 1, size)) for device in range(size)])
    return jnp.concatenate([even, odd], axis=1)


def unbalance(x_BxLx: jax.Array, axes: tuple[str, ...], size: int) -> jax.Array:
    """Inverse of `balance`."""
    even, odd = jnp.split(x_BxLx, 2, axis=1)
    even = jax.lax.ppermute(even, axes, [(home(2 * device, size), device) for device in range(size)])
    odd = jax.lax.ppermute(odd, axes, [(home(2 * device + 1, size), device) for device in range(size)])
    return jnp.concatenate([even, odd], axis=1)


def index(length: int, axes: tuple[str, ...], size: int, balanced: bool) -> jax.Array:
    """Row indices of this device's `length` queries: int32 [length]."""
    device = jax.lax.axis_index(axes)
    if not balanced:
        return device * length + jnp.arange(length, dtype=jnp.int32)
    half = length // 2
    other = 2 * size - 1 - device
    even, odd = jnp.where(device % 2 == 0, jnp.stack([device, other]), jnp.stack([other, device]))
    return jnp.concatenate([chunk * half + jnp.arange(half, dtype=jnp.int32) for chunk in (even, odd)])


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def gather(x_BxLx: jax.Array, axes: tuple[str, ...]) -> jax.Array:
    """The whole row on every device, along axis 1. Gradients are summed over the devices in float32."""
    return jax.lax.all_gather(x_BxLx, axes, axis=1, tiled=True)


def _gather_forward(x_BxLx, axes):
    return gather(x_BxLx, axes), None


def _gather_backward(axes, _, gradient):
    summed = jax.lax.psum_scatter(gradient.astype(jnp.float32), axes, scatter_dimension=1, tiled=True)
    return (summed.astype(gradient.dtype),)


gather.defvjp(_gather_forward, _gather_backward)
