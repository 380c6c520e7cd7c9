"""The loss of a batch as sums over its tokens, split by domain.

Shapes as in train/model/decoder.py; t indexes the tokens of a chunk.

Two functions compute the same numbers. `losses` reads the logits of a whole batch. `from_hidden` reads the last hidden
layer and computes logits, loss and gradients for one chunk of tokens at a time. A row of 32,768 tokens over a
vocabulary of 262,144 then never holds 34 GB of logits in memory.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping

import flax.struct
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from castor.train.partitioning import Partitioner


class Losses(flax.struct.PyTreeNode):
    """Sums over the tokens of a batch, float32. Batches and devices can be added; divide by `tokens` for means.

    nll, z: sums of the negative log-likelihood in nats, and of log(Z)^2.
    tokens: sum of the loss weights.
    domain_nll_C, domain_tokens_C: the same by domain, [C].
    """

    nll: jax.Array
    z: jax.Array
    tokens: jax.Array
    domain_nll_C: jax.Array
    domain_tokens_C: jax.Array

    def objective(self, z_loss: float) -> jax.Array:
        """The training objective, as a sum over tokens."""
        return self.nll + z_loss * self.z


def cross_entropy(logits_BxLxV: jax.Array, targets_BxL: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(-log p(target), log Z) in nats, float32 [B, L] each.

    The target's logit is selected by comparison, which works for a sharded vocabulary axis.
    """
    logits_BxLxV = logits_BxLxV.astype(jnp.float32)
    log_z_BxL = jax.nn.logsumexp(logits_BxLxV, axis=-1)
    hit_BxLxV = jnp.arange(logits_BxLxV.shape[-1], dtype=jnp.int32) == targets_BxL[:, :, None]
    return log_z_BxL - jnp.sum(jnp.where(hit_BxLxV, logits_BxLxV, 0.0), axis=-1), log_z_BxL


def losses(logits_BxLxV: jax.Array, batch: Mapping[str, jax.Array], num_domains: int) -> Losses:
    """Loss sums of a batch.

    logits: [B, L, V].
    batch: the dict of `tasks.Batches`; decoder_loss_weights weight each token.
    num_domains: number of domains; domain -1 belongs to none.
    """
    return _sums(
        *cross_entropy(logits_BxLxV, batch["decoder_target_tokens"]),
        batch["decoder_loss_weights"],
        batch["domain"],
        num_domains,
    )


def _sums(nll_BxL, log_z_BxL, weights_BxL, domains_BxL, num_domains: int) -> Losses:
    weights_BxL = weights_BxL.astype(jnp.float32)
    domain_BxLxC = jax.nn.one_hot(domains_BxL, num_domains, dtype=jnp.float32)
    return Losses(
        nll=jnp.sum(nll_BxL * weights_BxL),
        z=jnp.sum(jnp.square(log_z_BxL) * weights_BxL),
        tokens=jnp.sum(weights_BxL),
        domain_nll_C=jnp.einsum("blc,bl->c", domain_BxLxC, nll_BxL * weights_BxL, precision="highest"),
        domain_tokens_C=jnp.einsum("blc,bl->c", domain_BxLxC, weights_BxL, precision="highest"),
    )


def from_hidden(
    x_BxLxD: jax.Array,
    embedding_VxD: jax.Array,
    batch: Mapping[str, jax.Array],
    num_domains: int,
    z_loss: float,
    chunk: int = 0,
    partitioner: Partitioner | None = None,
) -> tuple[jax.Array, Losses]:
    """(nll + z_loss * z, the `Losses` of the logits x @ embedding^T), computed by chunks.

    x: [B, L, D]. embedding: [V, D].
    batch: the dict of `tasks.Batches`.
    z_loss: weight of log(Z)^2.
    chunk: largest number of tokens per device whose logits exist at once; 0: one chunk.
    partitioner: the mesh; None: one device.

    Only the first result has a gradient, with respect to `x` and `embedding`. The gradient is computed together with
    the loss from each chunk's logits, so logits are never computed twice, and accumulated over chunks in float32.
    Between devices it is summed in the dtype of `x`, like the gradients of all other weights: the embedding, cast to
    that dtype, is gathered over the axes that shard it along D, and its gradient is scattered back. If the mesh shards
    the vocabulary, every device computes the logits of its own entries, and sums of exponents, target logits and
    gradients are reduced.
    """
    rows = (batch["decoder_target_tokens"], batch["decoder_loss_weights"], batch["domain"])
    return _from_hidden(_LossSharding.of(partitioner), num_domains, z_loss, chunk, x_BxLxD, embedding_VxD, rows)


@dataclasses.dataclass(frozen=True)
class _LossSharding:
    """The mesh axes that shard the loss.

    batch, length: axes that split the tokens.
    embedding: for V and D of the embedding, the axes among those of the tokens that shard its storage.
    vocabulary: axes that split the vocabulary; none of them splits tokens.
    """

    mesh: jax.sharding.Mesh | None = None
    batch: tuple[str, ...] = ()
    length: tuple[str, ...] = ()
    embedding: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    vocabulary: tuple[str, ...] = ()

    @classmethod
    def of(cls, partitioner: Partitioner | None) -> "_LossSharding":
        if partitioner is None or partitioner.mesh.size == 1:
            return cls()
        batch, length = map(_names, partitioner.spec(("batch", "length"), "the batch"))
        vocab, embed = map(_names, partitioner.spec(("vocab", "embed"), "the embedding"))
        parts = tuple(tuple(axis for axis in axes if axis in batch + length) for axes in (vocab, embed))
        return cls(partitioner.mesh, batch, length, parts, tuple(axis for axis in vocab if axis not in batch + length))

    @property
    def tokens(self) -> tuple[str, ...]:
        return self.batch + self.length

    def run(self, function, gradients: bool, *arguments):
        """Runs `function` on every device's shard of (x, embedding, rows).

        The result is `Losses`; with `gradients`, also the gradients of x and embedding.
        """
        if self.mesh is None:
            return function(*arguments)
        rows, whole = PartitionSpec(self.batch, self.length), PartitionSpec()
        x, embedding = (
            PartitionSpec(self.batch, self.length, None),
            PartitionSpec(self.vocabulary + self.embedding[0], self.embedding[1]),
        )
        out = (whole, x, embedding) if gradients else whole
        return jax.shard_map(function, mesh=self.mesh, in_specs=(x, embedding, rows), out_specs=out, check_vma=False)(
            *arguments
        )

    def gather(self, part):
        """The device's stored shard of the embedding -> [vocabulary shard, D]."""
        for axis in (1, 0):
            if self.embedding[axis]:
                part = jax.lax.all_gather(part, self.embedding[axis], axis=axis, tiled=True)
        return part

    def scatter(self, gradient):
        """Gradient from this device's tokens [vocabulary shard, D] -> the sum over all devices of its stored shard."""
        for axis in (0, 1):
            if self.embedding[axis]:
                gradient = jax.lax.psum_scatter(gradient, self.embedding[axis], scatter_dimension=axis, tiled=True)
        rest = tuple(axis for axis in self.tokens if axis not in self.embedding[0] + self.embedding[1])
        return jax.lax.psum(gradient, rest) if rest else gradient

    def over_vocabulary(self, x):
        return jax.lax.psum(x, self.vocabulary) if self.vocabulary else x

    def over_tokens(self, x):
        return jax.tree.map(lambda leaf: jax.lax.psum(leaf, self.tokens), x) if self.tokens else x

    def top(self, x):
        return jax.lax.pmax(x, self.vocabulary) if self.vocabulary else x

    def first_word(self, words: int):
        return jax.lax.axis_index(self.vocabulary) * words if self.vocabulary else 0


def _names(entry) -> tuple[str, ...]:
    return () if entry is None else (entry,) if isinstance(entry, str) else tuple(entry)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2, 3))
def _from_hidden(sharding: _LossSharding, num_domains: int, z_loss: float, chunk: int, x_BxLxD, embedding_VxD, rows):
    device = functools.partial(_device, sharding, num_domains, z_loss, chunk, False)
    sums = sharding.run(device, False, x_BxLxD, embedding_VxD, rows)
    return sums.objective(z_loss), sums


def _from_hidden_forward(sharding, num_domains, z_loss, chunk, x_BxLxD, embedding_VxD, rows):
    device = functools.partial(_device, sharding, num_domains, z_loss, chunk, True)
    sums, dx_BxLxD, dembedding_VxD = sharding.run(device, True, x_BxLxD, embedding_VxD, rows)
    return (sums.objective(z_loss), sums), (dx_BxLxD, dembedding_VxD.astype(embedding_VxD.dtype))


def _from_hidden_backward(sharding, num_domains, z_loss, chunk, kept, cotangents):
    dx_BxLxD, dembedding_VxD = kept
    scale, _ = cotangents
    return (dx_BxLxD * scale).astype(dx_BxLxD.dtype), dembedding_VxD * scale, None


_from_hidden.defvjp(_from_hidden_forward, _from_hidden_backward)


def _device(
    sharding: _LossSharding, num_domains: int, z_loss: float, chunk: int, gradients: bool, x_BxLxD, part_VxD, rows
):
    """The loss of one device's tokens, one chunk at a time."""
    B, L, D = x_BxLxD.shape
    dtype = x_BxLxD.dtype
    embedding_VxD = sharding.gather(part_VxD.astype(dtype))
    words_V = sharding.first_word(embedding_VxD.shape[0]) + jnp.arange(embedding_VxD.shape[0], dtype=jnp.int32)
    count = next(n for n in range(math.ceil(B * L / (chunk or B * L)), B * L + 1) if B * L % n == 0)

    def of_chunk(gradient_VxD, taken):
        x_txD, (targets_t, weights_t, domains_t) = taken
        weights_t = weights_t.astype(jnp.float32)
        logits_txV = jnp.einsum("td,vd->tv", x_txD, embedding_VxD, preferred_element_type=jnp.float32)
        top_t = sharding.top(jnp.max(logits_txV, axis=-1))
        hit_txV = words_V == targets_t[:, None]
        exponents_txV = jnp.exp(logits_txV - top_t[:, None])
        z_t = sharding.over_vocabulary(jnp.sum(exponents_txV, axis=-1))
        log_z_t = top_t + jnp.log(z_t)
        nll_t = log_z_t - sharding.over_vocabulary(jnp.sum(jnp.where(hit_txV, logits_txV, 0.0), axis=-1))
        sums = _sums(nll_t[None], log_z_t[None], weights_t[None], domains_t[None], num_domains)
        if not gradients:
            return gradient_VxD, (sums, None)
        # d nll / d logits = p - hit; d log_z^2 / d logits = 2 log_z p.
        share_t = weights_t * (1.0 + 2.0 * z_loss * log_z_t) / z_t
        dlogits_txV = (exponents_txV * share_t[:, None] - jnp.where(hit_txV, weights_t[:, None], 0.0)).astype(dtype)
        dx_txD = sharding.over_vocabulary(jnp.einsum("tv,vd->td", dlogits_txV, embedding_VxD))
        dembedding_VxD = jnp.einsum("tv,td->vd", dlogits_txV, x_txD, preferred_element_type=jnp.float32)
        return dembedding_VxD if gradient_VxD is None else gradient_VxD + dembedding_VxD, (sums, dx_txD)

    chunks = jax.tree.map(lambda array: array.reshape(count, B * L // count, *array.shape[2:]), (x_BxLxD, rows))
    if count == 1:
        gradient_VxD, (sums, dx) = of_chunk(None, jax.tree.map(lambda array: array[0], chunks))
    else:
        zeros = jnp.zeros(embedding_VxD.shape, jnp.float32) if gradients else None
        gradient_VxD, (sums, dx) = jax.lax.scan(of_chunk, zeros, chunks)
        sums = jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0), sums)
    sums = sharding.over_tokens(sums)
    return (sums, dx.reshape(B, L, D), sharding.scatter(gradient_VxD.astype(dtype))) if gradients else sums
