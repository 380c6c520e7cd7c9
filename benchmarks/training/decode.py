"""Tokens per second of decoding: in batches on the device, one request at a time, and in a plain JAX loop.

    python benchmarks/training/decode.py [--requests 64] [--tokens 64] [--repeats 3]

The model has random weights (width 256, 4 layers, 8 heads of 32, one key-value head, MLP 1024, vocabulary 32,128).
Prompts have 8 to 200 tokens. Answers have exactly --tokens tokens: nothing ends them early. All contenders sample with
temperature 0.8 and top-k 40.

batched: train.decode.Generator, 32 rows.
nucleus: the same with top_p 0.9 of all tokens and no top-k.
one_by_one: a quarter of the requests, one after the other.
plain_loop: a loop without Castor's generator: the same model and cache, 32 rows padded to the longest, and a jitted
    step with jax.lax.top_k and jax.random.categorical, called from a Python loop.

Programs are compiled before timing. Results are medians over the repeats, which alternate. Prints one JSON line.
"""

import argparse
import functools
import json
import os
import pathlib
import platform
import statistics
import time

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from castor.train.inference.decode import Generator, Request
from castor.train.inference.grammar import Grammar, Table
from castor.train.inference.sampling import Sampling
from castor.train.model.decoder import Decoder, DecoderConfig, KVCache

CONFIG = DecoderConfig(vocab_size=32_128, embed=256, layers=4, heads=8, kv_heads=1, head_dim=32, mlp=1024)
TABLE = Table(
    size=32_128, pad=0, eos=1, text=range(256, 32_000), sizes=range(128, 256), image=range(32_000, 32_064), close=3
)
MAX_LENGTH = 512
ROWS = 32


def requests(count: int, tokens: int, top_k: int = 40, top_p: float = 1.0) -> list[Request]:
    random = np.random.default_rng(0)
    lengths = random.integers(8, 201, count)
    # A picture of `tokens` codes and three more ids: a grammar that never ends early.
    grammar = Grammar.picture(tokens - 3, (1, tokens - 3))
    return [
        Request(random.integers(256, 32_000, n).tolist(), grammar, Sampling(0.8, top_k, i, top_p))
        for i, n in enumerate(lengths)
    ]


def plain_loop(parameters, asked: list[Request], tokens: int) -> int:
    """Number of tokens written: rows in order, padded to the longest, with one Python call per step."""
    written = 0
    for start in range(0, len(asked), ROWS):
        prompts = [[0, *r.prompt] for r in asked[start : start + ROWS]]
        lengths = np.array([len(p) for p in prompts], np.int32)
        padded = np.zeros((len(prompts), 256), np.int32)
        for row, prompt in enumerate(prompts):
            padded[row, : len(prompt)] = prompt
        cache = KVCache.create(CONFIG, len(prompts), MAX_LENGTH)
        chosen, cache = _plain_step(
            parameters, padded, np.zeros(len(prompts), np.int32), lengths, cache, jax.random.key(0)
        )
        ids = [np.asarray(chosen)]
        for step in range(tokens - 1):
            positions = lengths + step
            chosen, cache = _plain_step(
                parameters, chosen[:, None], positions, np.ones_like(lengths), cache, jax.random.key(step + 1)
            )
            ids.append(np.asarray(chosen))
        written += sum(map(len, ids))
    return written


@functools.partial(jax.jit, donate_argnums=4)
def _plain_step(parameters, tokens, starts, lengths, cache, key):
    positions = starts[:, None] + jnp.arange(tokens.shape[1], dtype=jnp.int32)
    logits, cache = Decoder(CONFIG).apply({"params": parameters}, tokens, positions, lengths, cache, method="decode")
    best, ids = jax.lax.top_k(logits / 0.8, 40)
    picked = jax.random.categorical(key, best)
    return jnp.take_along_axis(ids, picked[:, None], axis=1)[:, 0].astype(jnp.int32), cache


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    a = parser.parse_args()
    zeros = np.zeros((1, 8), np.int32)
    parameters = nn.unbox(jax.jit(Decoder(CONFIG).init)(jax.random.key(0), zeros, zeros, zeros)["params"])
    asked = requests(a.requests, a.tokens)

    generator = Generator(CONFIG, parameters, TABLE, MAX_LENGTH, batch_size=ROWS)
    nucleus = requests(a.requests, a.tokens, 0, 0.9)
    runs = {
        "batched": lambda: sum(map(len, generator(asked))),
        "nucleus": lambda: sum(map(len, generator(nucleus))),
        "one_by_one": lambda: sum(len(generator([request])[0]) for request in asked[::4]),
        "plain_loop": lambda: plain_loop(parameters, asked, a.tokens),
    }
    speeds: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(a.repeats + 1):  # the first compiles
        for name, run in runs.items():
            start = time.perf_counter()
            written = run()
            if repeat:
                speeds[name].append(written / (time.perf_counter() - start))
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    machine = {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "device": jax.devices()[0].device_kind,
    }
    ratios = {
        f"batched_over_{name}": round(medians["batched"] / value, 2)
        for name, value in medians.items()
        if name != "batched"
    }
    print(
        json.dumps(
            {"tokens_per_s": {name: round(value, 1) for name, value in medians.items()}, **ratios, **vars(a), **machine}
        )
    )


def _cpu() -> str:
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


if __name__ == "__main__":
    main()
