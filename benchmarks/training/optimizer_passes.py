"""Memory traffic of an optimizer update, and the effect of a first moment in bfloat16. Peer: optax.adamw with clip.

    JAX_PLATFORMS=cpu python benchmarks/training/optimizer_passes.py

Traffic is the compiler's own count of bytes, in passes of 4 bytes per parameter, from the TPU compiler (libtpu; no TPU
is needed) and the CPU compiler.

Prints one JSON line: {"tpu": {update: passes}, "cpu": {...}, "bfloat16": {...}, versions}. AdamW needs at least 8
passes: the gradient is read for its norm and for the update; the parameter and two moments are read and written.
bfloat16: 2,000 noisy steps towards a target (noise six times the distance) with either moment: the difference of the
end points relative to the distance, and the ratio of their squared errors at the end.
"""

import importlib.metadata
import json
import platform

import jax
import jax.numpy as jnp
import optax

from castor.train.optimizers import Adafactor, AdamW, WarmupCosine

SHAPE = (16, 4096, 4096)  # a gigabyte each of two, far beyond what a chip could keep on it
UPDATES = {
    "adamw": AdamW(),
    "adamw without clip": AdamW(clip=None),
    "adamw bfloat16": AdamW(first_moment="bfloat16"),
    "adafactor": Adafactor(),
    "optax.adamw, no skip": None,
}


def peer() -> optax.GradientTransformationExtraArgs:
    adamw = optax.adamw(WarmupCosine().build(), 0.9, 0.95, 1e-8, weight_decay=0.1)
    return optax.with_extra_args_support(optax.chain(optax.clip_by_global_norm(1.0), adamw))


def passes(optimizer, sharding) -> dict[str, float]:
    """Bytes accessed and temporary memory of one update, over those of the parameters."""
    transformation = optimizer.build() if optimizer else peer()

    def abstract(tree):
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree)

    def update(parameters, state, gradients, step):
        norm = optax.tree.norm(gradients)
        updates, state = transformation.update(
            gradients, state, parameters, step=step, norm=norm, finite=jnp.isfinite(norm)
        )
        return optax.apply_updates(parameters, updates), state, norm

    parameters = abstract({"layers": {name: jax.ShapeDtypeStruct(SHAPE, jnp.float32) for name in ("gate", "up")}})
    state, step = (
        abstract(jax.eval_shape(transformation.init, parameters)),
        abstract(jax.ShapeDtypeStruct((), jnp.int32)),
    )
    compiled = jax.jit(update, donate_argnums=(0, 1)).lower(parameters, state, parameters, step).compile()
    size = sum(leaf.size * 4 for leaf in jax.tree.leaves(parameters))
    sizes = {
        "passes": compiled.cost_analysis()["bytes accessed"],
        "temporary": compiled.memory_analysis().temp_size_in_bytes,
    }
    return {name: round(value / size, 2) for name, value in sizes.items()}


def descend(first_moment: str, steps: int = 2000) -> tuple[jax.Array, jax.Array]:
    """(where the parameters end, their mean squared error over the last 50 steps)."""
    transformation = AdamW(WarmupCosine(1e-3, 20, steps), weight_decay=0.0, first_moment=first_moment).build()
    start, target = {"gate": jnp.zeros((64, 64))}, 0.05 * jax.random.normal(jax.random.key(1), (64, 64))

    def one(carry, step):
        parameters, state = carry
        noise = 0.3 * jax.random.normal(jax.random.fold_in(jax.random.key(2), step), target.shape)
        gradients = {"gate": parameters["gate"] - target + noise}
        told = {"step": step, "norm": optax.tree.norm(gradients), "finite": jnp.array(True)}
        updates, state = transformation.update(gradients, state, parameters, **told)
        return (optax.apply_updates(parameters, updates), state), jnp.mean(jnp.square(parameters["gate"] - target))

    (parameters, _), errors = jax.jit(
        lambda: jax.lax.scan(one, (start, transformation.init(start)), jnp.arange(steps))
    )()
    return parameters["gate"], jnp.mean(errors[-50:])


def rounding() -> dict[str, float]:
    (exact, exact_error), (rounded, rounded_error) = descend("float32"), descend("bfloat16")
    difference = jnp.sqrt(jnp.mean(jnp.square(rounded - exact)) / jnp.mean(jnp.square(exact)))
    return {"difference": round(float(difference), 5), "error": round(float(rounded_error / exact_error), 5)}


def main() -> None:
    from jax.experimental import topologies

    chip = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2").devices[0]
    places = {"tpu": jax.sharding.SingleDeviceSharding(chip), "cpu": None}
    result = {
        place: {name: passes(optimizer, sharding) for name, optimizer in UPDATES.items()}
        for place, sharding in places.items()
    }
    versions = {name: importlib.metadata.version(name) for name in ("jax", "optax", "libtpu")}
    print(
        json.dumps(
            result
            | {
                "bfloat16": rounding(),
                "topology": "v5e:2x2",
                "machine": platform.machine(),
                "python": platform.python_version(),
                "versions": versions,
            }
        )
    )


if __name__ == "__main__":
    main()
