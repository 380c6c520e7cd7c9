"""The decoder-only Transformer and its key-value cache.

Pre-norm blocks of causal multi-query attention and a gated GELU, with RoPE, RMSNorm and one embedding table for input
and output. This is the architecture of the Gemini 1.0 report where published, and Gemma's form otherwise. The model is
written in Flax *linen* rather than nnx, because it is then a pure function of a parameter tree. `nn.scan` stacks the
layers into one compiled loop body. Parameters carry the names of their axes as metadata, which is all that partitioning
needs.

Names carry shapes: B batch, L length (queries), M length (keys), D embed, H heads, G key-value heads, R = H / G queries
per key-value head, K head, F mlp, V vocabulary, N layers, C domains. Parameters are float32. `Transformer.dtype` is the
type of matrix products. Norms, softmax, logits and losses are float32.

Two entry points share the parameters. `Decoder.__call__` reads packed rows [B, L], whose segments are independent.
`Decoder.decode` reads the next tokens of B sequences, with the keys and values of earlier tokens in a `KVCache`.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

import gin
from castor.tasks.checks import check_integer
from castor.tasks.errors import ConfigurationError
from castor.train.model.attention import attention, blockwise, splash
from castor.train.partitioning import Partitioner

# Activations saved for the backward pass in addition to each layer's input, fewest first. The names are those that
# `checkpoint_name` gives to activations in `Block`. Everything else is recomputed. docs/measurements/pod_slices.md
# lists the cost of each in memory and time.
REMAT_POLICIES: dict[str, tuple[str, ...] | None] = {
    "full": (),
    "attention": (blockwise.RESIDUALS,),  # the attention kernel is not recomputed
    "qkv": ("query", "key", "value", blockwise.RESIDUALS),  # nor are the products before attention
    "dots": (
        "query",
        "key",
        "value",
        "attention_out",
        "gate",
        "up",
    ),  # results of weight products; norms, attention and activations are recomputed
    "minimal": (
        "query",
        "key",
        "value",
        blockwise.RESIDUALS,
        "attention_out",
        "gate",
        "up",
    ),  # no matrix product is recomputed
    "offload": (
        "query",
        "key",
        "value",
        blockwise.RESIDUALS,
        "attention_out",
        "gate",
        "up",
    ),  # as minimal, in host memory
    "none": None,  # every activation
}
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


@gin.configurable("Transformer", module="train.model")
@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """The shape of a model. Gin name: train.model.Transformer; a gin file binds MODEL = @train.model.Transformer().

    vocab_size: rows of the embedding; 0 takes the size of the task caches' vocabulary.
    embed, layers, heads, kv_heads, head_dim, mlp: widths. kv_heads = 1 is multi-query attention (arXiv 1911.02150),
        kv_heads = heads plain multi-head attention.
    dropout: share of activations dropped on the residual branches and the embedding.
    dtype: "float32" or "bfloat16", the type of matrix products. Parameters stay float32.
    remat: activations of a layer saved for the backward pass, one of REMAT_POLICIES: from "full" (recompute everything
        inside a layer) to "none" (save everything).
    loss_chunk: tokens per device whose logits exist at once; 0: all, with the plain loss. See `losses.from_hidden`.
    rope_theta: base of the rotary wavelengths (arXiv 2104.09864).
    z_loss: weight of log(Z)^2, which keeps the logits from drifting (PaLM, arXiv 2204.02311, uses 1e-4).
    attention: the kernel, one of attention.KERNELS; "auto" chooses by device and length.
    splash_blocks: tile sizes of splash attention on TPU.
    mup_base_embed, mup_base_head_dim: widths of the model for which the learning rate was tuned; muP transfers the rate
        to this model (arXiv 2203.03466; docs/optimizers.md). 0: the standard parametrization. At the base widths both
        are the same model.
    """

    vocab_size: int = 0
    embed: int = 128
    layers: int = 4
    heads: int = 4
    kv_heads: int = 1
    head_dim: int = 32
    mlp: int = 512
    dropout: float = 0.0
    dtype: str = "float32"
    remat: str = "none"
    loss_chunk: int = 0
    rope_theta: float = 10_000.0
    z_loss: float = 1e-4
    attention: str = "auto"
    splash_blocks: splash.BlockSizes = dataclasses.field(
        default_factory=splash.BlockSizes
    )  # evaluated late: gin may bind the sizes after import
    mup_base_embed: int = 0
    mup_base_head_dim: int = 0

    def __post_init__(self):
        if isinstance(self.splash_blocks, Mapping):  # as read from model.json
            object.__setattr__(self, "splash_blocks", splash.BlockSizes(**self.splash_blocks))
        if self.attention not in attention.KERNELS:
            raise ConfigurationError(
                f"Transformer.attention = {self.attention!r}.", f"Choose one of {', '.join(attention.KERNELS)}."
            )
        if self.dtype not in DTYPES:
            raise ConfigurationError(f"Transformer.dtype = {self.dtype!r}.", f"Choose one of {', '.join(DTYPES)}.")
        if self.remat not in REMAT_POLICIES:
            raise ConfigurationError(
                f"Transformer.remat = {self.remat!r}.", f"Choose one of {', '.join(REMAT_POLICIES)}."
            )
        check_integer(
            "Transformer.loss_chunk",
            self.loss_chunk,
            at_least=0,
            remedy="Give the number of tokens per chunk, or 0 for the plain loss.",
        )
        if self.heads % self.kv_heads:
            raise ConfigurationError(
                f"Transformer.heads = {self.heads} is not a multiple of kv_heads = {self.kv_heads}.",
                "Change one of them.",
            )
        if self.head_dim % 2:
            raise ConfigurationError(
                f"Transformer.head_dim = {self.head_dim} is odd.", "RoPE rotates pairs of values: use an even number."
            )

    @property
    def logit_scale(self) -> float:
        """muP's factor of the logits: sqrt(base / embed), given embedding rows of variance 1 / embed."""
        return math.sqrt(self.mup_base_embed / self.embed) if self.mup_base_embed else 1.0

    @property
    def query_scale(self) -> float:
        """muP's factor of the queries, so that attention scales by 1 / head_dim instead of 1 / sqrt(head_dim)."""
        return math.sqrt(self.mup_base_head_dim / self.head_dim) if self.mup_base_head_dim else 1.0

    def check_mesh(self, partitioner: Partitioner) -> None:
        """Raises ConfigurationError if the mesh does not divide a width."""
        widths = {"vocab_size": "vocab", "embed": "embed", "heads": "heads", "mlp": "mlp"}
        partitioner.check_divides({f"Transformer.{name}": (axis, getattr(self, name)) for name, axis in widths.items()})


class KVCache(flax.struct.PyTreeNode):
    """Keys and values of all layers, [N, B, M, G, K] each.

    Slot m of a row holds the token at position m, so no other state is needed.
    """

    k_NxBxMxGxK: jax.Array
    v_NxBxMxGxK: jax.Array

    @classmethod
    def create(cls, config: DecoderConfig, batch_size: int, max_length: int) -> "KVCache":
        shape = (config.layers, batch_size, max_length, config.kv_heads, config.head_dim)
        return cls(jnp.zeros(shape, DTYPES[config.dtype]), jnp.zeros(shape, DTYPES[config.dtype]))


def rope(x_BxLxHxK: jax.Array, positions_BxL: jax.Array, theta: float) -> jax.Array:
    """Rotates the pairs (x[i], x[i + K/2]) by position * theta^(-2i/K), in float32. Returns the dtype of `x`."""
    half = x_BxLxHxK.shape[-1] // 2
    frequencies = theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angles_BxLx1xk = positions_BxL.astype(jnp.float32)[:, :, None, None] * frequencies
    return _rotate(x_BxLxHxK, jnp.sin(angles_BxLx1xk), jnp.cos(angles_BxLx1xk))


@jax.custom_vjp
def _rotate(x_BxLxHxK, sin_BxLx1xk, cos_BxLx1xk):
    half = x_BxLxHxK.shape[-1] // 2
    if x_BxLxHxK.dtype == jnp.bfloat16 and half % 128:
        # Splitting and joining halves that are not whole TPU vectors is slow. Here the halves are exchanged by
        # multiplying with a matrix of 0, 1 and -1. The product is exact in bfloat16 and its cost negligible.
        exchange_KxK = np.eye(2 * half, k=half) - np.eye(2 * half, k=-half)
        other_BxLxHxK = jnp.einsum("blhk,kj->blhj", x_BxLxHxK, jnp.asarray(exchange_KxK, jnp.bfloat16)).astype(
            jnp.float32
        )
        sin, cos = (jnp.concatenate([table, table], axis=-1) for table in (sin_BxLx1xk, cos_BxLx1xk))
        return (x_BxLxHxK.astype(jnp.float32) * cos + other_BxLxHxK * sin).astype(x_BxLxHxK.dtype)
    a, b = jnp.split(x_BxLxHxK.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([a * cos_BxLx1xk - b * sin_BxLx1xk, b * cos_BxLx1xk + a * sin_BxLx1xk], axis=-1).astype(
        x_BxLxHxK.dtype
    )


def _rotate_forward(x_BxLxHxK, sin_BxLx1xk, cos_BxLx1xk):
    return _rotate(x_BxLxHxK, sin_BxLx1xk, cos_BxLx1xk), (sin_BxLx1xk, cos_BxLx1xk)


def _rotate_backward(kept, dy_BxLxHxK):  # the rotation by the negative angle
    sin_BxLx1xk, cos_BxLx1xk = kept
    return _rotate(dy_BxLxHxK, -sin_BxLx1xk, cos_BxLx1xk), jnp.zeros_like(sin_BxLx1xk), jnp.zeros_like(cos_BxLx1xk)


_rotate.defvjp(_rotate_forward, _rotate_backward)


def _scaled(x: jax.Array, factor: float) -> jax.Array:
    return x if factor == 1.0 else x * factor


class RMSNorm(nn.Module):
    """x / rms(x) * (1 + scale), in float32 (arXiv 1910.07467).

    `scale` starts at 0, so that weight decay, if any, pulls towards the identity.
    """

    @nn.compact
    def __call__(self, x_BxLxD: jax.Array) -> jax.Array:
        scale_D = self.param(
            "scale", nn.with_partitioning(nn.initializers.zeros_init(), ("norm",)), (x_BxLxD.shape[-1],), jnp.float32
        )
        x = x_BxLxD.astype(jnp.float32)
        x *= jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + 1e-6)
        return (x * (1.0 + scale_D)).astype(x_BxLxD.dtype)


@jax.custom_vjp
def product_of_gated_gelu(gate_BxLxF: jax.Array, up_BxLxF: jax.Array, down_FxD: jax.Array) -> jax.Array:
    """(gelu(gate) * up) @ down: [B, L, D] (arXiv 2002.05202; tanh approximation of GELU, arXiv 1606.08415).

    The activation is computed in float32. The derivative is written by hand for accelerators. By default, compilers
    fuse the activation into the matrix products that read it, where every tile of the result recomputes its tanh. They
    would also save the activation in addition to gate and up. Here the activation is computed once with gate and up,
    and once more in the backward pass, together with both gradients.
    """
    return jax.lax.optimization_barrier(_gated_gelu(gate_BxLxF, up_BxLxF)) @ down_FxD


def _gated_gelu(gate_BxLxF, up_BxLxF):
    return (jax.nn.gelu(gate_BxLxF.astype(jnp.float32), approximate=True) * up_BxLxF.astype(jnp.float32)).astype(
        gate_BxLxF.dtype
    )


def _gated_gelu_forward(gate_BxLxF, up_BxLxF, down_FxD):
    return product_of_gated_gelu(gate_BxLxF, up_BxLxF, down_FxD), (gate_BxLxF, up_BxLxF, down_FxD)


def _gated_gelu_backward(kept, dy_BxLxD):
    gate_BxLxF, up_BxLxF, down_FxD = kept
    # A product that wrote three arrays and read two more besides its operands would need tiles too small for the matrix
    # unit.
    dh_BxLxF = jax.lax.optimization_barrier(jnp.einsum("bld,fd->blf", dy_BxLxD, down_FxD))
    gate, up, dh = (x.astype(jnp.float32) for x in (gate_BxLxF, up_BxLxF, dh_BxLxF))
    square = gate * gate
    share = 0.5 + 0.5 * jnp.tanh(gate * (GELU_SLOPE + GELU_SLOPE * GELU_CUBIC * square))  # gelu(x) / x
    gelu = gate * share
    slope = share + gelu * (1.0 - share) * (2.0 * GELU_SLOPE + 6.0 * GELU_SLOPE * GELU_CUBIC * square)
    activations = (gelu * up, dh * up * slope, dh * gelu)
    h_BxLxF, dgate_BxLxF, dup_BxLxF = jax.lax.optimization_barrier(
        tuple(x.astype(gate_BxLxF.dtype) for x in activations)
    )
    return dgate_BxLxF, dup_BxLxF, jnp.einsum("blf,bld->fd", h_BxLxF, dy_BxLxD)


product_of_gated_gelu.defvjp(_gated_gelu_forward, _gated_gelu_backward)
GELU_SLOPE, GELU_CUBIC = (
    math.sqrt(2.0 / math.pi),
    0.044715,
)  # gelu(x) = x / 2 * (1 + tanh(GELU_SLOPE * (x + GELU_CUBIC * x^3)))


@jax.custom_vjp
def whole_gradient(x: jax.Array) -> jax.Array:
    """`x`, whose gradient is materialized as one array before anything is computed from it.

    Otherwise the reductions of a norm's derivative are fused into the matrix product that computes the gradient, and
    slow that product down by a third on TPU.
    """
    return x


whole_gradient.defvjp(lambda x: (x, None), lambda _, dx: (jax.lax.optimization_barrier(dx),))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def gradient_of_whole_rows(partitioner: Partitioner, x_BxLxD: jax.Array) -> jax.Array:
    """`x`, whose gradient is gathered along `sequence` when it leaves the residual stream.

    The other operands of the products that made `x` are gathered in the same way. Otherwise the compiler gathers both
    over the whole batch if `context` splits the rows too.
    """
    return x_BxLxD


gradient_of_whole_rows.defvjp(
    lambda _, x: (x, None), lambda partitioner, _, dx: (partitioner.constrain(dx, "batch", "length", "act_embed"),)
)


class Block(nn.Module):
    """One layer: attention and gated GELU (arXiv 2002.05202), each applied to a norm and added to the stream."""

    config: DecoderConfig
    partitioner: Partitioner | None
    train: bool

    @nn.compact
    def __call__(self, x_BxLxD, cache, positions_BxL, segment_ids_BxL):
        c = self.config
        D, H, G, K, F = c.embed, c.heads, c.kv_heads, c.head_dim, c.mlp
        residual_scale = 1.0 / (2 * c.layers)  # of variance: 2N branches sum to the variance of one (GPT-2)
        constrain = self.partitioner.constrain if self.partitioner else lambda x, *axes: x

        def to_stream(x_BxLxD):
            whole = gradient_of_whole_rows(self.partitioner, x_BxLxD) if self.partitioner else x_BxLxD
            return constrain(whole, "batch", "residual_length", "act_embed")

        dropout = nn.Dropout(c.dropout, deterministic=not self.train)

        def kernel(name, shape, axes, fan_in, scale=1.0):
            init = nn.initializers.truncated_normal(stddev=math.sqrt(scale / fan_in))
            return self.param(name, nn.with_partitioning(init, axes), shape, jnp.float32).astype(x_BxLxD.dtype)

        # Under sequence parallelism, the residual stream x is split along its length, while the projections in between
        # are split by heads and by the MLP's hidden axis.
        h_BxLxD = whole_gradient(constrain(RMSNorm(name="attention_norm")(x_BxLxD), "batch", "length", "act_embed"))
        q_BxLxHxK = jnp.einsum("bld,dhk->blhk", h_BxLxD, kernel("query", (D, H, K), ("embed", "heads", "head"), D))
        k_BxLxGxK = jnp.einsum("bld,dgk->blgk", h_BxLxD, kernel("key", (D, G, K), ("embed", "kv_heads", "head"), D))
        v_BxLxGxK = jnp.einsum("bld,dgk->blgk", h_BxLxD, kernel("value", (D, G, K), ("embed", "kv_heads", "head"), D))
        q_BxLxHxK = constrain(
            rope(_scaled(q_BxLxHxK, c.query_scale), positions_BxL, c.rope_theta), "batch", "length", "act_heads", "head"
        )
        q_BxLxHxK = checkpoint_name(q_BxLxHxK, "query")
        k_BxLxGxK = checkpoint_name(rope(k_BxLxGxK, positions_BxL, c.rope_theta), "key")
        v_BxLxGxK = checkpoint_name(v_BxLxGxK, "value")
        if cache is None:
            o_BxLxHxK = attention.packed(
                q_BxLxHxK, k_BxLxGxK, v_BxLxGxK, segment_ids_BxL, c.attention, self.partitioner, c.splash_blocks
            )
        else:
            rows_Bx1 = jnp.arange(x_BxLxD.shape[0])[:, None]
            k_BxMxGxK = cache.k_NxBxMxGxK.at[rows_Bx1, positions_BxL].set(k_BxLxGxK)
            v_BxMxGxK = cache.v_NxBxMxGxK.at[rows_Bx1, positions_BxL].set(v_BxLxGxK)
            cache = KVCache(k_BxMxGxK, v_BxMxGxK)
            o_BxLxHxK = attention.cached(q_BxLxHxK, k_BxMxGxK, v_BxMxGxK, positions_BxL)
        o_BxLxHxK = constrain(o_BxLxHxK, "batch", "length", "act_heads", "head")
        out_HxKxD = kernel("out", (H, K, D), ("heads", "head", "embed"), H * K, residual_scale)
        out_BxLxD = to_stream(jnp.einsum("blhk,hkd->bld", o_BxLxHxK, out_HxKxD))
        x_BxLxD += dropout(checkpoint_name(out_BxLxD, "attention_out"))

        h_BxLxD = whole_gradient(constrain(RMSNorm(name="mlp_norm")(x_BxLxD), "batch", "length", "act_embed"))
        gate_BxLxF = constrain(h_BxLxD @ kernel("gate", (D, F), ("embed", "mlp"), D), "batch", "length", "act_mlp")
        up_BxLxF = constrain(h_BxLxD @ kernel("up", (D, F), ("embed", "mlp"), D), "batch", "length", "act_mlp")
        down_FxD = kernel("down", (F, D), ("mlp", "embed"), F, residual_scale)
        down_BxLxD = product_of_gated_gelu(
            checkpoint_name(gate_BxLxF, "gate"), checkpoint_name(up_BxLxF, "up"), down_FxD
        )
        x_BxLxD += dropout(to_stream(down_BxLxD))
        return x_BxLxD, cache


class Decoder(nn.Module):
    """The model.

    config: its shape.
    partitioner: constrains the sharding of activations; None leaves it to the compiler.
    train: applies dropout; needs a "dropout" rng.
    """

    config: DecoderConfig
    partitioner: Partitioner | None = None
    train: bool = False

    def setup(self):
        c = self.config
        # Rows of variance 1/D: scaled by sqrt(D) at the input they have unit variance, as do the logits at
        # initialization.
        init = nn.with_partitioning(nn.initializers.normal(stddev=1.0 / math.sqrt(c.embed)), ("vocab", "embed"))
        self.embedding_VxD = self.param("embedding", init, (c.vocab_size, c.embed), jnp.float32)
        block = Block
        if REMAT_POLICIES[c.remat] is not None:
            block = nn.remat(block, policy=remat_policy(c.remat), prevent_cse=False)
        self.layers = nn.scan(
            block,
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=(0, nn.broadcast, nn.broadcast),
            out_axes=0,
            length=c.layers,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )(c, self.partitioner, self.train)
        self.final_norm = RMSNorm()
        self.dropout = nn.Dropout(c.dropout, deterministic=not self.train)

    def hidden(self, tokens_BxL, positions_BxL, segment_ids_BxL=None, cache: KVCache | None = None):
        """The normed output of the last layer [B, L, D], and the cache.

        tokens, positions: int32 [B, L].
        segment_ids: int32 [B, L], for packed rows.
        cache: for decoding, instead of segment ids.
        """
        c = self.config
        embedding_VxD = self.embedding_VxD.astype(DTYPES[c.dtype])
        if self.partitioner:
            x_BxLxD = self.partitioner.constrain(
                self._looked_up(embedding_VxD, tokens_BxL), "batch", "residual_length", "act_embed"
            )
        else:
            x_BxLxD = embedding_VxD[tokens_BxL]
        x_BxLxD *= math.sqrt(c.embed)
        x_BxLxD, cache = self.layers(self.dropout(x_BxLxD), cache, positions_BxL, segment_ids_BxL)
        x_BxLxD = _scaled(self.final_norm(x_BxLxD), c.logit_scale)
        return self.partitioner.constrain(
            x_BxLxD, "batch", "length", "act_embed"
        ) if self.partitioner else x_BxLxD, cache

    def _looked_up(self, embedding_VxD, tokens_BxL):
        """The tokens' rows of the embedding, before they are split along their length."""
        constrain, size = self.partitioner.constrain, self.partitioner.size
        if size("residual_length") == size("length"):
            return embedding_VxD[tokens_BxL]
        # Each device looks up the tokens of its rows in its own shard of the vocabulary. Otherwise the compiler may
        # gather the whole table.
        words_VxD = constrain(embedding_VxD, "act_vocab", "act_embed")
        return constrain(words_VxD[tokens_BxL], "batch", "length", "act_embed")

    def logits(self, x_BxLxD):
        """float32 [B, L, V]."""
        embedding_VxD = self.embedding_VxD.astype(x_BxLxD.dtype)
        logits_BxLxV = jnp.einsum("bld,vd->blv", x_BxLxD, embedding_VxD, preferred_element_type=jnp.float32)
        return (
            self.partitioner.constrain(logits_BxLxV, "batch", "length", "act_vocab")
            if self.partitioner
            else logits_BxLxV
        )

    def __call__(self, tokens_BxL, positions_BxL, segment_ids_BxL):
        """Packed rows int32 [B, L] -> logits float32 [B, L, V]."""
        x_BxLxD, _ = self.hidden(tokens_BxL, positions_BxL, segment_ids_BxL)
        return self.logits(x_BxLxD)

    def decode(self, tokens_BxL, positions_BxL, lengths_B, cache: KVCache):
        """Reads the next L tokens of each row and predicts the following token.

        tokens, positions: int32 [B, L]; a row's positions continue where the row ended before.
        lengths: int32 [B], the number of real tokens per row; the rest is padding on the right. Slots written by
            padding are overwritten before any query attends to them.
        cache: keys and values of earlier tokens.

        Returns (logits float32 [B, V] after the last real token of each row, cache).
        """
        x_BxLxD, cache = self.hidden(tokens_BxL, positions_BxL, cache=cache)
        last_Bx1xD = jnp.take_along_axis(x_BxLxD, (lengths_B - 1)[:, None, None], axis=1)
        return self.logits(last_Bx1xD)[:, 0], cache


def remat_policy(name: str):
    """The `jax.checkpoint` policy for a name in REMAT_POLICIES."""
    kept = REMAT_POLICIES[name]
    if name == "offload":
        return jax.checkpoint_policies.save_and_offload_only_these_names(
            names_which_can_be_saved=[],
            names_which_can_be_offloaded=list(kept),
            offload_src="device",
            offload_dst="pinned_host",
        )
    return jax.checkpoint_policies.save_only_these_names(*kept)


@functools.cache
def abstract_parameters(config: DecoderConfig):
    """The boxed parameter tree (shapes, dtypes and logical axis names), without allocating parameters."""
    tokens = jax.ShapeDtypeStruct((1, 8), jnp.int32)
    return jax.eval_shape(Decoder(config).init, jax.random.key(0), tokens, tokens, tokens)["params"]


def parameter_name(path) -> str:
    """A key path of the parameter tree as text: layers/query."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def logical_axes(config: DecoderConfig) -> dict[str, tuple[str | None, ...]]:
    """Parameter name -> logical axis names."""
    leaves = jax.tree_util.tree_leaves_with_path(
        abstract_parameters(config), is_leaf=lambda leaf: isinstance(leaf, nn.Partitioned)
    )
    return {parameter_name(path): tuple(leaf.names) for path, leaf in leaves}


def count_parameters(config: DecoderConfig) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(abstract_parameters(config)))


def rate_multipliers(config: DecoderConfig) -> dict[str, float]:
    """Parameter name -> factor of Adam's learning rate under muP; 1 if absent. Empty in the standard parametrization.

    With m = embed / mup_base_embed, matrices of the layers have 1 / m, the embedding 1 / sqrt(m) and norms 1 (arXiv
    2203.03466, table 8). The embedding's entries are of size 1 / sqrt(embed), and the input multiplies them by
    sqrt(embed), so its factor includes the embedding's scale. mlp and heads * head_dim are assumed to grow in
    proportion to embed.
    """
    if not config.mup_base_embed:
        return {}
    m = config.embed / config.mup_base_embed
    by_meaning = {"norm": 1.0, "vocab": 1.0 / math.sqrt(m)}
    return {
        name: next((by_meaning[axis] for axis in axes if axis in by_meaning), 1.0 / m)
        for name, axes in logical_axes(config).items()
    }
