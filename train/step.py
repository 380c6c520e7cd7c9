"""One training step as a pure function of (state, batch), and where its state lives on the mesh.

Randomness is a function of (seed, step), so no generator is kept in the state: dropout at a step is the same after any restart.

Gradient accumulation takes a batch in parts, one after the other, for want of memory. It changes nothing else: sums over tokens add up over
the parts and are divided by the tokens of the whole batch, never by those of a part.

An update whose loss or gradient is not finite is skipped: parameters and optimizer state stay exactly as they were, and the step counts all the
same, so that the next batch is the next.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax

from castor.train import optimizers
from castor.train.model import decoder as model_lib
from castor.train.model import losses as losses_lib
from castor.train.model.decoder import Decoder, Transformer
from castor.train.partitioning import Partitioner


class TrainState(flax.struct.PyTreeNode):
    """step: int32 [], updates done. parameters: float32 tree. optimizer: optax's state. Of arrays, ShapeDtypeStructs or shardings alike."""

    step: Any
    parameters: Any
    optimizer: Any


@dataclasses.dataclass(frozen=True)
class Trainer:
    """What the step function is compiled from.

    num_domains: components whose losses are told apart. accumulate: parts that a batch is taken in; they divide the rows of every device.
    compiler_options: of the TPU compiler, by name; elsewhere they mean nothing and are left out. gin/compiler/*.gin bind them with their reasons.
    """

    model: Transformer
    optimizer: optimizers.Optimizer
    partitioner: Partitioner
    num_domains: int
    seed: int = 0
    accumulate: int = 1
    compiler_options: Mapping[str, Any] | None = None

    def logical_axes(self) -> TrainState:
        """What each axis of every array of the state means, tuples in the place of arrays: the names that parameters bear, and for the optimizer's
        moments those of their parameter, under whose path they stand (Adafactor's lack one of its axes). Anything else is not cut."""
        parameters, state = self._shapes()
        axes = model_lib.logical_axes(self.model)
        shapes = {path: leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(parameters)}

        def of_optimizer(path, leaf):
            for start in range(len(path)):
                shape = shapes.get(tuple(path[start:]))
                if shape is not None:
                    return _kept_axes(shape, leaf.shape, axes[model_lib.parameter_name(path[start:])])
            return (None,) * len(leaf.shape)

        return TrainState(
            step=(),
            parameters=jax.tree_util.tree_map_with_path(
                lambda path, _: axes[model_lib.parameter_name(path)], parameters
            ),
            optimizer=jax.tree_util.tree_map_with_path(of_optimizer, state),
        )

    def abstract_state(self) -> TrainState:
        """ShapeDtypeStructs with their shardings: what init makes and what a checkpoint is restored to."""

        def place(path, leaf, axes):
            return jax.ShapeDtypeStruct(
                leaf.shape, leaf.dtype, sharding=self.partitioner.sharding(axes, model_lib.parameter_name(path))
            )

        shapes = TrainState(jax.ShapeDtypeStruct((), jnp.int32), *self._shapes())
        return jax.tree_util.tree_map_with_path(place, shapes, self.logical_axes())

    def _shapes(self) -> tuple[Any, Any]:
        """Of parameters and optimizer state."""
        parameters = nn.unbox(model_lib.abstract_parameters(self.model))
        return parameters, jax.eval_shape(self._transformation().init, parameters)

    def init(self) -> TrainState:
        """The state before the first update, made in place on the mesh; the same values for every mesh."""

        def make():
            tokens = jnp.zeros((1, 8), jnp.int32)
            parameters = nn.unbox(Decoder(self.model).init(jax.random.key(self.seed), tokens, tokens, tokens)["params"])
            return TrainState(jnp.zeros((), jnp.int32), parameters, self._transformation().init(parameters))

        shardings = jax.tree.map(lambda leaf: leaf.sharding, self.abstract_state())
        return jax.jit(make, out_shardings=shardings)()

    def step(self, state: TrainState, batch: Mapping[str, jax.Array]) -> tuple[TrainState, dict[str, jax.Array]]:
        """One update. Metrics: loss and z_loss (means over the batch's tokens, nats), gradient_norm, learning_rate, tokens, skipped (1 where the
        loss or the gradient was not finite and nothing but the step changed, else 0); domain_nll and domain_tokens [C] are sums."""
        dropout = jax.random.fold_in(jax.random.key(self.seed), state.step)
        gradients, losses = self._gradients(state.parameters, batch, dropout)
        means, norm = _means(losses), optax.tree.norm(gradients)
        finite = jnp.isfinite(means["loss"]) & jnp.isfinite(
            norm
        )  # the norm sees every number of the gradient; a test of each would be a pass more
        told = {"step": state.step, "norm": norm, "finite": finite}
        updates, optimizer = self._transformation().update(gradients, state.optimizer, state.parameters, **told)
        metrics = {
            **means,
            "gradient_norm": norm,
            "learning_rate": jnp.asarray(optimizers.learning_rate(self.optimizer)(state.step), jnp.float32),
            "skipped": 1 - finite.astype(jnp.int32),
        }
        return TrainState(state.step + 1, optax.apply_updates(state.parameters, updates), optimizer), metrics

    def _transformation(self) -> optax.GradientTransformationExtraArgs:
        return self.optimizer.build(model_lib.rate_multipliers(self.model))

    def evaluate(self, parameters, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """The loss of a batch without dropout, as `step` tells it."""
        if self.accumulate == 1:
            return _means(self._losses(parameters, batch)[1])
        return _means(self._over_parts(lambda part, _: self._losses(parameters, part)[1], batch))

    def _gradients(
        self, parameters, batch: Mapping[str, jax.Array], dropout: jax.Array
    ) -> tuple[Any, losses_lib.Losses]:
        """Of the batch's loss, the mean over its tokens: (gradients, loss sums)."""
        tokens = jnp.maximum(jnp.sum(batch["decoder_loss_weights"].astype(jnp.float32)), 1.0)

        def loss_of(parameters, part, key):
            objective, losses = self._losses(parameters, part, key)
            return objective / tokens, losses

        gradients_of = jax.grad(loss_of, has_aux=True)
        if self.accumulate == 1:
            return gradients_of(parameters, batch, dropout)
        shardings = jax.tree.map(lambda leaf: leaf.sharding, self.abstract_state().parameters)

        def of_part(part, number):
            gradients, losses = gradients_of(parameters, part, jax.random.fold_in(dropout, number))
            return jax.lax.with_sharding_constraint(
                gradients, shardings
            ), losses  # so that the sums lie where the parameters lie

        return self._over_parts(of_part, batch)

    def _losses(
        self, parameters, batch: Mapping[str, jax.Array], dropout: jax.Array | None = None
    ) -> tuple[jax.Array, losses_lib.Losses]:
        """(What is lowered, as a sum over tokens; loss sums) of a batch. dropout: its key, None for none."""
        model = self.model

        def apply(method):
            return Decoder(model, self.partitioner, train=dropout is not None).apply(
                {"params": parameters},
                batch["decoder_input_tokens"],
                batch["decoder_positions"],
                batch["decoder_segment_ids"],
                rngs={} if dropout is None else {"dropout": dropout},
                method=method,
            )

        if model.loss_chunk:
            x_BxLxD, _ = apply("hidden")
            return losses_lib.from_hidden(
                x_BxLxD,
                parameters["embedding"],
                batch,
                self.num_domains,
                model.z_loss,
                model.loss_chunk,
                self.partitioner,
            )
        losses = losses_lib.losses(apply("__call__"), batch, self.num_domains)
        return losses.objective(model.z_loss), losses

    def _over_parts(
        self, function: Callable[[Mapping[str, jax.Array], jax.Array], Any], batch: Mapping[str, jax.Array]
    ):
        """The sum of function(part, its number) over the parts of a batch, one at a time."""
        parts = split_rows(batch, self.accumulate, self.partitioner)

        def add(total, numbered):
            return jax.tree.map(jnp.add, total, function(*numbered)), None

        numbers = jnp.arange(self.accumulate)
        shapes = jax.eval_shape(function, *jax.tree.map(lambda array: array[0], (parts, numbers)))
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        return jax.lax.scan(add, zeros, (parts, numbers))[0]

    def compile_step(self, batch: Mapping[str, jax.Array]):
        """`step`, compiled for the mesh; the state given to it is consumed."""
        abstract = self.abstract_state()
        shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
        step = jax.jit(self.step, donate_argnums=0, out_shardings=(shardings, self.partitioner.replicated()))
        return step.lower(abstract, batch).compile(self._compiler_options())

    def compile_evaluate(self, batch: Mapping[str, jax.Array]):
        """`evaluate`, compiled for the mesh."""
        evaluate = jax.jit(self.evaluate, out_shardings=self.partitioner.replicated())
        return evaluate.lower(self.abstract_state().parameters, batch).compile(self._compiler_options())

    def _compiler_options(self) -> dict[str, Any] | None:
        on_tpu = self.partitioner.mesh.devices.flat[0].platform == "tpu"
        return dict(self.compiler_options) if on_tpu and self.compiler_options else None


def abstract_batch(partitioner: Partitioner, rows: int, length: int) -> dict[str, jax.ShapeDtypeStruct]:
    """A global batch [rows, length] of `tasks.Batches` as the compiler sees it."""
    sharding = partitioner.sharding(("batch", "length"), "the batch")
    names = ("decoder_input_tokens", "decoder_target_tokens", "decoder_segment_ids", "decoder_positions", "domain")
    dtypes = {**dict.fromkeys(names, jnp.int32), "decoder_loss_weights": jnp.float32}
    return {name: jax.ShapeDtypeStruct((rows, length), dtype, sharding=sharding) for name, dtype in dtypes.items()}


def split_rows(batch: Mapping[str, jax.Array], parts: int, partitioner: Partitioner) -> dict[str, jax.Array]:
    """[B, L] -> [parts, B / parts, L]; row r goes to part r % parts. So every device keeps its rows: a part has some of each device's."""
    result = {}
    for name, rows in batch.items():
        split = rows.reshape(rows.shape[0] // parts, parts, *rows.shape[1:])
        split = partitioner.constrain(split, "batch", None, "length")
        result[name] = partitioner.constrain(jnp.swapaxes(split, 0, 1), None, "batch", "length")
    return result


def _means(losses: losses_lib.Losses) -> dict[str, jax.Array]:
    tokens = jnp.maximum(losses.tokens, 1.0)
    return {
        "loss": losses.nll / tokens,
        "z_loss": losses.z / tokens,
        "tokens": losses.tokens,
        "domain_nll": losses.domain_nll_C,
        "domain_tokens": losses.domain_tokens_C,
    }


def _kept_axes(shape: tuple[int, ...], kept: tuple[int, ...], names: tuple[str | None, ...]) -> tuple[str | None, ...]:
    """The logical axes of an array shaped like the parameter, or like it without one of its axes; nothing is known of other shapes."""
    if kept == shape:
        return names
    for axis in range(len(shape)):
        if kept == (*shape[:axis], *shape[axis + 1 :]):
            return (*names[:axis], *names[axis + 1 :])
    return (None,) * len(kept)
