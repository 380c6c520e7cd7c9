"""The plain JAX training loop that benchmarks/training/train_step.py compares with Castor: one file of JAX and optax.

The decoder is that of train/model/decoder.py (RMSNorm, RoPE, multi-query attention inside segments, gated GELU, tied
embedding, z-loss), with the same AdamW, clip and schedule. The code is written as for a single experiment: a dict of
arrays, a scan over the layers, one jitted step. Batches are full rows of random ids, made by numpy in the loop. Nothing
is checked, logged, saved or resumed. Like Castor, the loop waits for the loss of the previous step, the minimum needed
to stop it from running ahead without limit.

    python benchmarks/training/bare_jax.py --steps=40

Prints one line with the seconds, from the start of the process, at which each step finished.
"""

import argparse
import json
import math
import os
import time

START = float(os.environ.get("BENCHMARK_START", time.time()))


def parse(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value in dict(
        width=256,
        layers=4,
        heads=8,
        kv_heads=1,
        head_dim=32,
        mlp=1024,
        vocabulary=32128,
        batch=16,
        length=256,
        steps=40,
    ).items():
        parser.add_argument(f"--{name}", type=int, default=value)
    return parser.parse_args(argv)


def main() -> None:
    c = parse()
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax

    R, G = c.heads // c.kv_heads, c.kv_heads

    def init(key):
        def normal(shape, fan_in):
            nonlocal key
            key, one = jax.random.split(key)
            return jax.random.truncated_normal(one, -2, 2, shape) / math.sqrt(fan_in)

        N, D, H, K, F = c.layers, c.width, c.heads, c.head_dim, c.mlp
        layers = {
            "query": normal((N, D, H, K), D), "key": normal((N, D, G, K), D), "value": normal((N, D, G, K), D),
            "out": normal((N, H, K, D), H * K * 2 * N),
            "gate": normal((N, D, F), D), "up": normal((N, D, F), D), "down": normal((N, F, D), F * 2 * N),
            "norm1": jnp.zeros((N, D)), "norm2": jnp.zeros((N, D)),
        }  # fmt: skip
        return {"embedding": normal((c.vocabulary, D), D), "layers": layers, "norm": jnp.zeros(D)}

    def norm(x, scale):
        return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6) * (1 + scale)

    def rope(x, positions):
        half = c.head_dim // 2
        angle = positions[:, :, None, None] * 10_000.0 ** (-jnp.arange(half) / half)
        a, b = jnp.split(x, 2, -1)
        return jnp.concatenate([a * jnp.cos(angle) - b * jnp.sin(angle), b * jnp.cos(angle) + a * jnp.sin(angle)], -1)

    def layer(x, p, positions, mask):
        B, L, _ = x.shape
        h = norm(x, p["norm1"])
        q = rope(jnp.einsum("bld,dhk->blhk", h, p["query"]), positions).reshape(B, L, G, R, c.head_dim) / math.sqrt(
            c.head_dim
        )
        k = rope(jnp.einsum("bld,dgk->blgk", h, p["key"]), positions)
        v = jnp.einsum("bld,dgk->blgk", h, p["value"])
        scores = jnp.where(mask[:, None, None], jnp.einsum("blgrk,bmgk->bgrlm", q, k), -1e9)
        o = jnp.einsum("bgrlm,bmgk->blgrk", jax.nn.softmax(scores), v).reshape(B, L, c.heads, c.head_dim)
        x = x + jnp.einsum("blhk,hkd->bld", o, p["out"])
        h = norm(x, p["norm2"])
        return x + (jax.nn.gelu(h @ p["gate"]) * (h @ p["up"])) @ p["down"]

    def loss_of(parameters, batch):
        positions, segments = batch["positions"].astype(jnp.float32), batch["segments"]
        mask = (segments[:, :, None] == segments[:, None, :]) & jnp.tril(jnp.ones((c.length, c.length), bool))
        x = parameters["embedding"][batch["inputs"]] * math.sqrt(c.width)
        x, _ = jax.lax.scan(lambda x, p: (layer(x, p, positions, mask), None), x, parameters["layers"])
        logits = norm(x, parameters["norm"]) @ parameters["embedding"].T
        log_z = jax.nn.logsumexp(logits, -1)
        picked = jnp.take_along_axis(logits, batch["targets"][:, :, None], -1)[:, :, 0]
        weights = batch["weights"]
        return jnp.sum((log_z - picked + 1e-4 * log_z**2) * weights) / jnp.sum(weights)

    schedule = optax.warmup_cosine_decay_schedule(0, 3e-3, 40, 1000, 3e-4)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, 0.9, 0.95, weight_decay=0.1))

    @jax.jit
    def start():
        parameters = init(jax.random.key(0))
        return parameters, optimizer.init(parameters)

    def step(parameters, state, batch):
        loss, gradients = jax.value_and_grad(loss_of)(parameters, batch)
        updates, state = optimizer.update(gradients, state, parameters)
        return optax.apply_updates(parameters, updates), state, loss

    step = jax.jit(step, donate_argnums=(0, 1))
    random = np.random.default_rng(0)

    def make_batch():
        ids = random.integers(1, c.vocabulary, (c.batch, c.length + 1), dtype=np.int32)
        ones = np.ones((c.batch, c.length), np.int32)
        positions = np.broadcast_to(np.arange(c.length, dtype=np.int32), ones.shape)
        return {
            "inputs": ids[:, :-1],
            "targets": ids[:, 1:],
            "positions": positions,
            "segments": ones,
            "weights": ones.astype(np.float32),
        }

    parameters, state = start()
    done, before = [], None
    for _ in range(c.steps):
        parameters, state, loss = step(parameters, state, make_batch())
        if before is not None:
            before.block_until_ready()
            done.append(time.time() - START)
        before = loss
    before.block_until_ready()
    done.append(time.time() - START)
    print(json.dumps({"done": done, "loss": float(loss)}))


if __name__ == "__main__":
    main()
