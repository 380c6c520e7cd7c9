"""The loss of a batch as sums over its tokens, split by domain. Shapes as in train/model.py."""

import flax.struct
import jax
import jax.numpy as jnp


class Losses(flax.struct.PyTreeNode):
    """Sums over the tokens of a batch, float32, so that batches and devices add up: divide by the tokens for means."""

    nll: jax.Array
    z: jax.Array
    tokens: jax.Array
    domain_nll_C: jax.Array
    domain_tokens_C: jax.Array


def cross_entropy(logits_BxLxV: jax.Array, targets_BxL: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(-log p(target), log Z) in nats, float32 [B, L] each. The target's logit is picked by comparison, which a cut vocabulary axis allows."""
    logits_BxLxV = logits_BxLxV.astype(jnp.float32)
    log_z_BxL = jax.nn.logsumexp(logits_BxLxV, axis=-1)
    hit_BxLxV = jnp.arange(logits_BxLxV.shape[-1], dtype=jnp.int32) == targets_BxL[:, :, None]
    return log_z_BxL - jnp.sum(jnp.where(hit_BxLxV, logits_BxLxV, 0.0), axis=-1), log_z_BxL


def losses(logits_BxLxV: jax.Array, batch: dict[str, jax.Array], num_domains: int) -> Losses:
    """Loss sums of a batch (the dict of `tasks.Batches`), weighted by decoder_loss_weights and split by domain (-1: no domain)."""
    nll_BxL, log_z_BxL = cross_entropy(logits_BxLxV, batch["decoder_target_tokens"])
    weights_BxL = batch["decoder_loss_weights"].astype(jnp.float32)
    domain_BxLxC = jax.nn.one_hot(batch["domain"], num_domains, dtype=jnp.float32)
    return Losses(
        nll=jnp.sum(nll_BxL * weights_BxL),
        z=jnp.sum(jnp.square(log_z_BxL) * weights_BxL),
        tokens=jnp.sum(weights_BxL),
        domain_nll_C=jnp.einsum("blc,bl->c", domain_BxLxC, nll_BxL * weights_BxL, precision="highest"),
        domain_tokens_C=jnp.einsum("blc,bl->c", domain_BxLxC, weights_BxL, precision="highest"),
    )
