"""One training step as a pure function of (state, batch), and how its state is sharded over the mesh.

Randomness is a function of (seed, step), so the state holds no generator: dropout at a step is the same after any
restart.

Gradient accumulation splits a batch into microbatches, run sequentially, to save memory. Losses are summed over
microbatches and divided by the token count of the full batch, not of each microbatch.

An update whose loss or gradient is not finite is skipped: parameters and optimizer state stay exactly as they were. The
step is still counted, so training continues with the next batch.
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
from castor.train.model.decoder import Decoder, DecoderConfig
from castor.train.partitioning import Partitioner


class TrainState(flax.struct.PyTreeNode):
    """The state of a run: arrays, ShapeDtypeStructs or shardings.

    step: int32 [], updates done.
    parameters: tree of float32 arrays.
    optimizer: optax's state.
    """

    step: Any
    parameters: Any
    optimizer: Any


@dataclasses.dataclass(frozen=True)
class TrainStep:
    """The training step of a model, an optimizer and a mesh: its initial state and one update, both also compiled.

    model, optimizer, partitioner: what the step trains, how, and on which mesh.
    num_domains: number of components whose losses are reported separately.
    seed: of the initial weights and dropout.
    accumulate: number of microbatches; must divide the rows of every device.
    compiler_options: of the TPU compiler, by name; other platforms ignore them. gin/compiler/*.gin explain each.
    """

    model: DecoderConfig
    optimizer: optimizers.Optimizer
    partitioner: Partitioner
    num_domains: int
    seed: int = 0
    accumulate: int = 1
    compiler_options: Mapping[str, Any] | None = None

    def logical_axes(self) -> TrainState:
        """Logical axis names for every array in the train state, as a tree of tuples.

        Optimizer moments inherit the axes of their parameter, matched by path; Adafactor's factored moments drop one
        axis. All other arrays are not sharded.
        """
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
        """ShapeDtypeStructs with shardings of the state that `init` returns and a checkpoint is restored to."""

        def place(path, leaf, axes):
            return jax.ShapeDtypeStruct(
                leaf.shape, leaf.dtype, sharding=self.partitioner.sharding(axes, model_lib.parameter_name(path))
            )

        shapes = TrainState(jax.ShapeDtypeStruct((), jnp.int32), *self._shapes())
        return jax.tree_util.tree_map_with_path(place, shapes, self.logical_axes())

    def _shapes(self) -> tuple[Any, Any]:
        """Shapes of (parameters, optimizer state)."""
        parameters = nn.unbox(model_lib.abstract_parameters(self.model))
        return parameters, jax.eval_shape(self._transformation().init, parameters)

    def init(self) -> TrainState:
        """The state before the first update, initialized directly on the mesh. Its values do not depend on the mesh."""

        def make():
            tokens = jnp.zeros((1, 8), jnp.int32)
            parameters = nn.unbox(Decoder(self.model).init(jax.random.key(self.seed), tokens, tokens, tokens)["params"])
            return TrainState(jnp.zeros((), jnp.int32), parameters, self._transformation().init(parameters))

        shardings = jax.tree.map(lambda leaf: leaf.sharding, self.abstract_state())
        return jax.jit(make, out_shardings=shardings)()

    def step(self, state: TrainState, batch: Mapping[str, jax.Array]) -> tuple[TrainState, dict[str, jax.Array]]:
        """One update: (state, batch) -> (new state, metrics).

        state: donated if compiled.
        batch: the arrays of `tasks.Batches`, [B, L].

        The metrics, float32 [] unless noted:

            loss, z_loss              means over the batch's tokens, in nats
            gradient_norm             global norm of the gradients
            learning_rate, tokens     of this update
            skipped                   int32 []: 1 if loss or gradient was not finite and only the step changed, else 0
            domain_nll, domain_tokens [C]: sums per domain
        """
        dropout = jax.random.fold_in(jax.random.key(self.seed), state.step)
        gradients, losses = self._gradients(state.parameters, batch, dropout)
        means, norm = _means(losses), optax.tree.norm(gradients)
        # The global norm is NaN or Inf if any gradient entry is, so one scalar check avoids another pass over the
        # gradients.
        finite = jnp.isfinite(means["loss"]) & jnp.isfinite(norm)
        updates, optimizer = self._transformation().update(
            gradients, state.optimizer, state.parameters, step=state.step, norm=norm, finite=finite
        )
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
        """The loss metrics of a batch as `step` returns them, without dropout."""
        if self.accumulate == 1:
            return _means(self._losses(parameters, batch)[1])
        return _means(self._accumulate(lambda rows, _: self._losses(parameters, rows)[1], batch))

    def _gradients(
        self, parameters, batch: Mapping[str, jax.Array], dropout: jax.Array
    ) -> tuple[Any, losses_lib.Losses]:
        """(gradients of the batch's mean loss per token, loss sums)."""
        tokens = jnp.maximum(jnp.sum(batch["decoder_loss_weights"].astype(jnp.float32)), 1.0)

        def mean_loss(parameters, rows, key):
            objective, losses = self._losses(parameters, rows, key)
            return objective / tokens, losses

        gradients_of = jax.grad(mean_loss, has_aux=True)
        if self.accumulate == 1:
            return gradients_of(parameters, batch, dropout)
        shardings = jax.tree.map(lambda leaf: leaf.sharding, self.abstract_state().parameters)

        def of_microbatch(rows, number):
            gradients, losses = gradients_of(parameters, rows, jax.random.fold_in(dropout, number))
            # The running sums get the sharding of the parameters.
            return jax.lax.with_sharding_constraint(gradients, shardings), losses

        return self._accumulate(of_microbatch, batch)

    def _losses(
        self, parameters, batch: Mapping[str, jax.Array], dropout: jax.Array | None = None
    ) -> tuple[jax.Array, losses_lib.Losses]:
        """(objective summed over tokens, loss sums) of a batch. dropout: random key; None: no dropout."""
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

    def _accumulate(
        self, function: Callable[[Mapping[str, jax.Array], jax.Array], Any], batch: Mapping[str, jax.Array]
    ):
        """The sum of function(microbatch, index) over the microbatches of a batch, run sequentially."""
        microbatches = split_microbatches(batch, self.accumulate, self.partitioner)

        def add(total, numbered):
            return jax.tree.map(jnp.add, total, function(*numbered)), None

        numbers = jnp.arange(self.accumulate)
        shapes = jax.eval_shape(function, *jax.tree.map(lambda array: array[0], (microbatches, numbers)))
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        return jax.lax.scan(add, zeros, (microbatches, numbers))[0]

    def compile_step(self, batch: Mapping[str, jax.Array]):
        """`step`, compiled for the mesh. The compiled function donates its input state."""
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
    """Shapes, dtypes and shardings of a global batch [rows, length] of `tasks.Batches`, for the compiler."""
    sharding = partitioner.sharding(("batch", "length"), "the batch")
    names = ("decoder_input_tokens", "decoder_target_tokens", "decoder_segment_ids", "decoder_positions", "domain")
    dtypes = {**dict.fromkeys(names, jnp.int32), "decoder_loss_weights": jnp.float32}
    return {name: jax.ShapeDtypeStruct((rows, length), dtype, sharding=sharding) for name, dtype in dtypes.items()}


def split_microbatches(batch: Mapping[str, jax.Array], count: int, partitioner: Partitioner) -> dict[str, jax.Array]:
    """[B, L] -> [count, B / count, L]. Row r goes to microbatch r % count.

    Rows stay on their device: every microbatch has rows of each device.
    """
    result = {}
    for name, rows in batch.items():
        split = rows.reshape(rows.shape[0] // count, count, *rows.shape[1:])
        split = partitioner.constrain(split, "batch", None, "length")
        result[name] = partitioner.constrain(jnp.swapaxes(split, 0, 1), None, "batch", "length")
    return result


def _means(losses: losses_lib.Losses) -> dict[str, jax.Array]:
    """Metrics from loss sums: means per token; the sums per domain are unchanged."""
    tokens = jnp.maximum(losses.tokens, 1.0)
    return {
        "loss": losses.nll / tokens,
        "z_loss": losses.z / tokens,
        "tokens": losses.tokens,
        "domain_nll": losses.domain_nll_C,
        "domain_tokens": losses.domain_tokens_C,
    }


def _kept_axes(shape: tuple[int, ...], kept: tuple[int, ...], names: tuple[str | None, ...]) -> tuple[str | None, ...]:
    """The logical axes of an optimizer array.

    shape, names: shape and axes of its parameter.
    kept: shape of the optimizer array. An array of the parameter's shape has all of `names`; one that lacks one axis
        lacks that name; any other is not sharded.
    """
    if kept == shape:
        return names
    for axis in range(len(shape)):
        if kept == (*shape[:axis], *shape[axis + 1 :]):
            return (*names[:axis], *names[axis + 1 :])
    return (None,) * len(kept)
