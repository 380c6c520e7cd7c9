"""train/optimizers.py: schedules by value, AdamW against its formula in numpy, sharded states, skipped updates."""

import dataclasses
import json
import re
import shutil

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gin
from castor.launch import training_runs
from castor.tasks import configuration
from castor.tasks.errors import ConfigurationError
from castor.train import optimizers
from castor.train.checkpoints.checkpoints import CheckpointStore
from castor.train.model import decoder as model_lib
from castor.train.model.decoder import Block, Decoder, DecoderConfig
from castor.train.optimizers import Adafactor, AdamW, WarmupCosine, WarmupRsqrt, WarmupStableDecay
from castor.train.partitioning import MESH_AXES, Partitioner
from castor.train.run import RunConfig
from castor.train.step import TrainStep, _kept_axes

SMALL = DecoderConfig(vocab_size=128, embed=32, layers=2, heads=4, head_dim=8, mlp=64)


def make_batch(rows=2, length=16, vocab=128, seed=0):
    tokens = np.random.default_rng(seed).integers(1, vocab, (rows, length)).astype(np.int32)
    ones = np.ones_like(tokens)
    batch = {
        "decoder_input_tokens": tokens,
        "decoder_target_tokens": np.roll(tokens, -1, 1),
        "decoder_segment_ids": ones,
        "domain": 0 * ones,
    }
    return batch | {
        "decoder_positions": np.tile(np.arange(length, dtype=np.int32), (rows, 1)),
        "decoder_loss_weights": ones.astype(np.float32),
    }


def make_train_step(optimizer, model=SMALL) -> TrainStep:
    return TrainStep(model, optimizer, Partitioner.create({}, jax.devices()[:1]), 1)


def compiled_step(train_step, batch):
    """`train_step.step` without donation of the state; compiled once for all shardings of the states."""
    return jax.jit(train_step.step).lower(train_step.abstract_state(), batch).compile()


def update_arguments(gradients, step) -> dict:
    """Keyword arguments of an update besides the gradients."""
    return {"step": step, "norm": optax.tree.norm(gradients), "finite": jnp.array(True)}


def updater(optimizer):
    """(gradients, state, parameters, step) -> (updates, state), compiled."""
    return jax.jit(
        lambda gradients, state, parameters, step: optimizer.update(
            gradients, state, parameters, **update_arguments(gradients, step)
        )
    )


# ------------------------------------------------------------------------------------------------------------ schedules


def test_schedules_by_value():
    cosine = WarmupCosine(peak=1.0, warmup_steps=10, total_steps=110, final_share=0.1).build()
    np.testing.assert_allclose([cosine(s) for s in (0, 4, 9, 59, 109)], [0.1, 0.5, 1.0, 0.55, 0.1], rtol=1e-5)
    rsqrt = WarmupRsqrt(peak=1.0, warmup_steps=100).build()
    np.testing.assert_allclose([rsqrt(s) for s in (0, 49, 99, 399)], [0.01, 0.5, 1.0, 0.5], rtol=1e-5)
    assert float(WarmupCosine(total_steps=3, warmup_steps=40).build()(2)) > 0


@pytest.mark.parametrize(
    "decay, halfway, last",
    [
        ("linear", 0.1 + 0.9 * 0.5, 0.1 + 0.9 * 0.05),
        ("1-sqrt", 0.1 + 0.9 * (1 - 0.5**0.5), 0.1 + 0.9 * (1 - 0.95**0.5)),
        ("cosine", 0.55, 0.10554),
    ],
)
def test_warmup_stable_decay_by_value(decay, halfway, last):
    schedule = WarmupStableDecay(peak=2.0, warmup_steps=10, total_steps=100, decay=decay, final_share=0.1)
    assert schedule.decay_start == 80 and dataclasses.replace(schedule, decay_steps=30).decay_start == 70
    rates = [schedule.build()(s) for s in (0, 4, 9, 50, 80, 90, 99)]
    np.testing.assert_allclose(rates, np.array([0.1, 0.5, 1.0, 1.0, 1.0, halfway, last]) * 2, rtol=1e-4)


@settings(deadline=None, max_examples=25)
@given(
    st.integers(0, 50),
    st.integers(1, 300),
    st.integers(1, 300),
    st.sampled_from(["linear", "1-sqrt", "cosine"]),
    st.integers(0, 100),
)
def test_the_stable_part_does_not_know_the_end(warmup, total, longer, decay, decay_steps):
    """Its checkpoints can therefore be prolonged or decayed. Every rate is in (0, peak], and no rate rises after the
    warmup.
    """
    schedule, steps = (
        WarmupStableDecay(1.0, warmup, total, decay_steps, decay=decay),
        np.arange(300),
    )  # one shape, compiled once
    rates = np.asarray(schedule.build()(steps))[:total]
    assert (rates > 0).all() and (rates <= 1).all() and (np.diff(rates[warmup:]) <= 0).all()
    prolonged = np.asarray(dataclasses.replace(schedule, total_steps=total + longer).build()(steps))[:total]
    np.testing.assert_array_equal(rates[: schedule.decay_start + 1], prolonged[: schedule.decay_start + 1])


@pytest.mark.parametrize(
    "make, match",
    [
        (lambda: optimizers.learning_rate(AdamW(schedule=0.1)), "schedule"),
        (lambda: WarmupStableDecay(decay="steep"), "'steep'.*linear"),
        (lambda: WarmupStableDecay(decay_share=1.5), "decay_share = 1.5"),
        (lambda: WarmupCosine(peak=-1.0), "WarmupCosine.peak = -1.0"),
        (lambda: WarmupRsqrt(warmup_steps=None), "WarmupRsqrt.warmup_steps = None"),
        (lambda: AdamW(first_moment="int8"), "first_moment = 'int8'.*bfloat16"),
        (
            lambda: make_train_step(Adafactor(), dataclasses.replace(SMALL, mup_base_embed=16)).abstract_state(),
            "Adafactor.*muP.*AdamW",
        ),
    ],
)
def test_what_is_no_schedule_or_optimizer_is_refused(make, match):
    with pytest.raises(ConfigurationError, match=match):
        make()


@pytest.mark.parametrize(
    "files, optimizer, schedule",
    [
        ((), AdamW, WarmupCosine(1e-3, 7, 50)),
        (("adamw_bfloat16.gin", "wsd.gin"), AdamW, WarmupStableDecay(1e-3, 7, 50)),
        (("adafactor.gin",), Adafactor, WarmupRsqrt(1e-3, 7)),
        (("mup.gin", "adafactor.gin", "wsd.gin"), Adafactor, WarmupStableDecay(1e-3, 7, 50)),
    ],
)
def test_gin_files_choose(castor, tmp_path, files, optimizer, schedule):
    flags = castor.bindings(tmp_path, LEARNING_RATE=1e-3, WARMUP_STEPS=7, TRAIN_STEPS=50)
    chosen = [f"--gin_file=optimizers/{name}" for name in files]
    flags = [
        flag for flag in flags if "total_steps" not in flag
    ]  # TRAIN_STEPS alone determines the end of the schedule
    run = training_runs.configure(configuration.split_flags([*flags[:2], *chosen, *flags[2:]])[0])
    gin.clear_config()
    assert (
        isinstance(run, RunConfig)
        and type(run.optimizer) is optimizer
        and run.optimizer.schedule == schedule
        and run.skip_limit == 10
    )
    assert run.model.mup_base_embed == (128 if "mup.gin" in files else 0)
    if optimizer is AdamW:
        assert run.optimizer.first_moment == ("bfloat16" if files else "float32") and run.optimizer.clip == 1.0


def test_a_decay_on_the_side_of_a_stable_run(castor, tmp_path):
    """docs/optimizers.md: a stable checkpoint, copied, decays as the run would have that was to end there; the stable
    run goes on.
    """
    macros = {"WARMUP_STEPS": 1, "DECAY_STEPS": 2, "CHECKPOINT_PERIOD": 2, "Checkpoints.keep": None, "EVAL_PERIOD": 0}

    def train(folder, steps):
        flags = castor.bindings(tmp_path / folder, TRAIN_STEPS=steps, **macros)
        code, _, err = castor("train", *flags[:2], "--gin_file=optimizers/wsd.gin", *flags[2:])
        assert code == 0, err
        return [json.loads(line) for line in (tmp_path / folder / "metrics.jsonl").read_text().splitlines()]

    whole, stable = train("whole", 4), train("stable", 8)
    assert [row["learning_rate"] for row in stable[1:6]] == 5 * [whole[1]["learning_rate"]] and whole[3][
        "learning_rate"
    ] < whole[2]["learning_rate"]
    (tmp_path / "side").mkdir()
    shutil.copytree(tmp_path / "stable" / "checkpoint_2", tmp_path / "side" / "checkpoint_2")
    assert train("side", 4) == whole[2:] and stable[:3] == whole[:3]


# -------------------------------------------------------------------------------------------------------------- updates


def numpy_adamw(parameters, gradients_of_steps, rates, b1, b2, eps, decay, clip, multipliers):
    """The formula of arXiv 1711.05101, algorithm 2, in float64."""
    parameters = {name: np.float64(value) for name, value in parameters.items()}
    m, v = ({name: np.zeros_like(value) for name, value in parameters.items()} for _ in range(2))
    for t, (gradients, rate) in enumerate(zip(gradients_of_steps, rates), 1):
        norm = np.sqrt(sum(np.square(np.float64(g)).sum() for g in gradients.values()))
        for name, g in gradients.items():
            g = np.float64(g) * min(1.0, clip / norm)
            m[name] = b1 * m[name] + (1 - b1) * g
            v[name] = b2 * v[name] + (1 - b2) * g * g
            direction = m[name] / (1 - b1**t) / (np.sqrt(v[name] / (1 - b2**t)) + eps)
            pull = 0 if name == "scale" else decay * parameters[name]
            parameters[name] = parameters[name] - rate * (multipliers.get(name, 1.0) * direction + pull)
    return parameters


@pytest.mark.parametrize("first_moment, rtol", [("float32", 2e-6), ("bfloat16", 2e-2)])
def test_adamw_is_its_formula(first_moment, rtol):
    random = np.random.default_rng(0)
    shapes = {"gate": (3, 8, 16), "scale": (8,), "embedding": (32, 8)}
    start = {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    gradients = [
        {n: (random.normal(size=s) * 10.0 ** random.integers(-3, 2)).astype(np.float32) for n, s in shapes.items()}
        for _ in range(12)
    ]
    schedule, multipliers = WarmupStableDecay(0.03, 3, 12), {"gate": 0.25, "embedding": 0.5}
    optimizer = AdamW(schedule, b1=0.9, b2=0.95, eps=1e-8, weight_decay=0.1, clip=1.0, first_moment=first_moment).build(
        multipliers
    )

    parameters, state, update = start, optimizer.init(start), updater(optimizer)
    assert {leaf.dtype for leaf in jax.tree.leaves(state[-2].mu)} == {jnp.dtype(first_moment)}
    assert {leaf.dtype for leaf in jax.tree.leaves(state[-2].nu)} == {jnp.dtype("float32")}
    for step, gradient in enumerate(gradients):
        updates, state = update(gradient, state, parameters, step)
        parameters = optax.apply_updates(parameters, updates)
    rates = np.asarray(schedule.build()(np.arange(12)))
    expected = numpy_adamw(start, gradients, rates, 0.9, 0.95, 1e-8, 0.1, 1.0, multipliers)
    for name in shapes:
        moved = np.abs(expected[name] - start[name]).mean()
        np.testing.assert_allclose(parameters[name], expected[name], rtol=1e-6, atol=rtol * moved, err_msg=name)


def test_decay_spares_the_norms():
    parameters = {"layers": {"gate": jnp.ones((2, 4, 4)), "mlp_norm": {"scale": jnp.ones((2, 4))}}}
    schedule = WarmupCosine(peak=1.0, warmup_steps=0)
    for optimizer in (AdamW(schedule, weight_decay=0.5), Adafactor(schedule, weight_decay=0.5)):
        built = optimizer.build()
        zeros = jax.tree.map(jnp.zeros_like, parameters)
        updates, _ = updater(built)(zeros, built.init(parameters), parameters, 0)
        assert float(jnp.abs(updates["layers"]["mlp_norm"]["scale"]).max()) == 0.0
        assert float(updates["layers"]["gate"].max()) < -0.1


def test_adafactor_takes_every_layer_as_a_parameter_of_its_own():
    """The stack's update is optax's adafactor of each layer alone, whatever the other layers' sizes."""
    random = np.random.default_rng(1)
    scales = np.array([1.0, 100.0, 1e-2], np.float32)[:, None, None]
    gate = random.normal(size=(3, 128, 192)).astype(np.float32) * scales
    embedding = random.normal(size=(256, 128)).astype(np.float32)
    parameters = {"layers": {"gate": gate}, "embedding": embedding}
    ours, theirs = Adafactor(WarmupRsqrt(0.5, 1)).build(), optax.adafactor(0.5)
    state, update, update_single = ours.init(parameters), updater(ours), jax.jit(theirs.update)
    singles = [{"gate": gate[n]} for n in range(3)] + [{"gate": embedding}]
    single_states = [theirs.init(single) for single in singles]
    for _ in range(2):
        gradients = jax.tree.map(lambda p: random.normal(size=p.shape).astype(np.float32), parameters)
        updates, state = update(gradients, state, parameters, 0)
        for number, gradient in enumerate([*gradients["layers"]["gate"], gradients["embedding"]]):
            expected, single_states[number] = update_single({"gate": gradient}, single_states[number], singles[number])
            found = updates["layers"]["gate"][number] if number < 3 else updates["embedding"]
            np.testing.assert_allclose(found, expected["gate"], rtol=2e-5, atol=1e-7)


@pytest.mark.parametrize(
    "optimizer, poison",
    [
        (AdamW(), "nan"),
        (AdamW(first_moment="bfloat16"), "inf"),
        (Adafactor(WarmupRsqrt(1e-2, 2), clip=1.0, weight_decay=1e-3), "nan"),
    ],
)
def test_an_optimizer_learns_skips_and_its_state_lies_with_its_parameters(optimizer, poison):
    mesh = jax.sharding.AbstractMesh(tuple(2 if axis in ("fsdp", "tensor") else 1 for axis in MESH_AXES), MESH_AXES)
    place = Partitioner(mesh)
    state, spec = TrainStep(SMALL, optimizer, place, 1).abstract_state(), place.spec(("layers", "embed", "mlp"))
    assert state.parameters["layers"]["gate"].sharding.spec == spec and "fsdp" in str(spec) and "tensor" in str(spec)
    moments = [leaf for leaf in jax.tree.leaves(state.optimizer) if leaf.shape == (2, 32, 64)]
    assert moments and all(leaf.sharding.spec == spec for leaf in moments)

    train_step, batch = make_train_step(optimizer), make_batch()
    state, step, found = train_step.init(), compiled_step(train_step, batch), []
    for _ in range(5):
        state, results = step(state, batch)
        found.append(float(results["loss"]))
    assert np.all(np.isfinite(found)) and found[-1] < found[0]

    # A non-finite update changes only the step; the next update is as if it had not happened, but with its own step's
    # rate.
    bad = batch | {"decoder_loss_weights": batch["decoder_loss_weights"] * np.float32(poison)}
    after, results = step(state, bad)
    assert int(results["skipped"]) == 1 and int(after.step) == 6
    jax.tree.map(
        np.testing.assert_array_equal, (after.parameters, after.optimizer), (state.parameters, state.optimizer)
    )
    resumed, results = step(after, batch)
    assert int(results["skipped"]) == 0 and int(resumed.step) == 7
    expected, _ = step(state.replace(step=jnp.int32(6)), batch)
    jax.tree.map(np.testing.assert_array_equal, resumed, expected)


def test_adafactors_factored_state_is_cut_as_its_parameters():
    wide = dataclasses.replace(SMALL, embed=128, mlp=256, heads=2, head_dim=128)
    mesh = jax.sharding.AbstractMesh(tuple(2 if axis in ("fsdp", "tensor") else 1 for axis in MESH_AXES), MESH_AXES)
    place = Partitioner(mesh)
    state = TrainStep(wide, Adafactor(), place, 1).abstract_state()
    leaves = jax.tree_util.tree_leaves_with_path(state.optimizer)
    specs = {jax.tree_util.keystr(path): (leaf.shape, leaf.sharding.spec) for path, leaf in leaves}
    (row,), (column,) = (
        [s for name, s in specs.items() if name.endswith(f".{part}['layers']['gate']")] for part in ("v_row", "v_col")
    )
    assert dict([row, column]) == {(2, 128): place.spec(("layers", "embed")), (2, 256): place.spec(("layers", "mlp"))}
    assert sum(np.prod(shape) for shape, _ in specs.values()) < 0.1 * model_lib.count_parameters(wide)


def test_adafactors_state_is_saved_and_restored(tmp_path):
    train_step = make_train_step(Adafactor())
    state, abstract = train_step.init(), train_step.abstract_state()
    store = CheckpointStore(str(tmp_path))
    store.save(1, state.parameters, state.optimizer, {})
    store.wait()
    restored = store.restore(1, abstract.parameters, abstract.optimizer)
    store.close()
    jax.tree.map(np.testing.assert_array_equal, restored, (state.parameters, state.optimizer))


def one_update(optimizer, mesh, devices):
    """(parameters and state after an update of random gradients, the compiled program) on a mesh."""
    model = dataclasses.replace(SMALL, embed=128, mlp=256, heads=2, head_dim=128, vocab_size=256)
    train_step = TrainStep(model, optimizer, Partitioner.create(mesh, devices), 1)
    abstract, transformation = train_step.abstract_state(), optimizer.build()
    random = np.random.default_rng(0)
    parameters, gradients = (
        jax.tree.map(
            lambda leaf: jax.device_put(random.normal(size=leaf.shape).astype(np.float32), leaf.sharding),
            abstract.parameters,
        )
        for _ in range(2)
    )
    shardings = jax.tree.map(lambda leaf: leaf.sharding, (abstract.parameters, abstract.optimizer))

    def update(parameters, gradients):
        updates, state = transformation.update(
            gradients, transformation.init(parameters), parameters, **update_arguments(gradients, 0)
        )
        return optax.apply_updates(parameters, updates), state

    compiled = jax.jit(update, out_shardings=shardings).lower(parameters, gradients).compile()
    return jax.device_get(compiled(parameters, gradients)), compiled.as_text()


def check_partitioned():
    """Runs in a subprocess with eight devices."""
    for optimizer in (AdamW(), Adafactor(clip=1.0)):
        expected, _ = one_update(optimizer, {}, jax.devices()[:1])
        found, program = one_update(optimizer, {"data": 2, "fsdp": 2, "tensor": 2}, None)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-7), found, expected)
        # Sums over sharded axes are communicated, parameters and moments never: the smallest matrix is 2 x 128 x 128,
        # its rows and columns 2 x 128.
        moved = [
            np.prod([int(size) for size in shape.split(",") if size])
            for line in program.splitlines()
            if re.search(r" (all-gather|all-to-all|all-reduce|reduce-scatter|collective-permute)(-start)?\(", line)
            for shape in re.findall(r"f32\[([0-9,]*)\]", line.split(" = ")[1])
        ]
        assert moved and max(moved) <= 2 * 256, sorted(moved)[-3:]


def test_an_update_on_a_mesh_is_that_of_one_device_and_moves_no_parameter(on_eight_devices):
    on_eight_devices(__file__, "check_partitioned")


def test_adafactors_rows_and_columns_keep_the_axes_that_remain():
    names = ("layers", "embed", "mlp")
    assert _kept_axes((2, 32, 64), (2, 32, 64), names) == names
    assert _kept_axes((2, 32, 64), (2, 64), names) == ("layers", "mlp")
    assert _kept_axes((2, 32, 64), (2, 32), names) == ("layers", "embed")
    assert _kept_axes((2, 32, 64), (1,), names) == (None,)


def test_an_update_is_one_pass_over_its_arrays(optimized):
    """By the compiler's byte count there are no intermediate arrays, and the skip is free.

    The CPU compiler writes each result in a separate loop, so it reads the gradient four times and both moments two or
    three times. The TPU compiler needs 8 passes (benchmarks/training/optimizer_passes.py).
    """
    parameters = {
        "layers": {
            "gate": jax.ShapeDtypeStruct((4, 128, 256), jnp.float32),
            "up": jax.ShapeDtypeStruct((4, 128, 256), jnp.float32),
        }
    }
    transformation = AdamW().build()

    def update(parameters, state, gradients, step):
        norm = optax.tree.norm(gradients)
        updates, state = transformation.update(
            gradients, state, parameters, step=step, norm=norm, finite=jnp.isfinite(norm)
        )
        return optax.apply_updates(parameters, updates), state

    state, step = jax.eval_shape(transformation.init, parameters), jax.ShapeDtypeStruct((), jnp.int32)
    compiled = jax.jit(update, donate_argnums=(0, 1)).lower(parameters, state, parameters, step).compile()
    size = 2 * 4 * 128 * 256 * 4
    assert compiled.cost_analysis()["bytes accessed"] < 11.05 * size
    assert compiled.memory_analysis().temp_size_in_bytes < 0.01 * size


# ---------------------------------------------------------------------------------------------------------------- muP


def activations(model: DecoderConfig, parameters, batch) -> dict[str, jax.Array]:
    """The residual stream after every layer and the logits."""
    tokens, positions, segments = (
        batch[name] for name in ("decoder_input_tokens", "decoder_positions", "decoder_segment_ids")
    )
    x, found = parameters["embedding"][tokens] * np.sqrt(model.embed), {}
    for number in range(model.layers):
        layer = jax.tree.map(lambda stacked, number=number: stacked[number], parameters["layers"])
        x, _ = Block(model, None, False).apply({"params": layer}, x, None, positions, segments)
        found[f"layer {number}"] = x
    found["logits"] = Decoder(model).apply({"params": parameters}, tokens, positions, segments)
    return found


def movement(width: int, base: int, steps: int = 3) -> dict[str, float]:
    """How far activations of a model of this width move in a few steps (root mean squares)."""
    model = DecoderConfig(
        vocab_size=64,
        embed=width,
        layers=2,
        heads=width // 16,
        head_dim=16,
        mlp=2 * width,
        mup_base_embed=base,
        z_loss=0.0,
    )
    train_step = make_train_step(
        AdamW(WarmupCosine(peak=3e-3, warmup_steps=0, total_steps=1000), weight_decay=0.0), model
    )
    batch = make_batch(4, 16, 64)
    step = compiled_step(train_step, batch)
    look = jax.jit(lambda parameters: activations(model, parameters, batch))
    state = train_step.init()
    before = look(state.parameters)
    for _ in range(steps):
        state, _ = step(state, batch)
    after = look(state.parameters)
    return {name: float(jnp.sqrt(jnp.mean(jnp.square(after[name] - before[name])))) for name in before}


def test_the_coordinate_check():
    """Under muP a few steps at one learning rate move activations and logits about equally far at all widths; in the
    standard parametrization the farther the wider (arXiv 2203.03466, figure 5). At 8 times the base width: by 0.5 to
    1.6 of the base's way, and by 3 to 20 of it.
    """
    base, mup, standard = movement(32, 32), movement(256, 32), movement(256, 0)
    for name in base:
        assert 0.5 < mup[name] / base[name] < 1.6, (name, base, mup)
        assert standard[name] / base[name] > 3, (name, base, standard)


def test_multipliers_of_mup():
    model = dataclasses.replace(SMALL, embed=128, mup_base_embed=32, mup_base_head_dim=2)
    multipliers = model_lib.rate_multipliers(model)
    assert multipliers.keys() == model_lib.logical_axes(model).keys()
    assert multipliers["embedding"] == 0.5 and multipliers["layers/down"] == multipliers["layers/key"] == 0.25
    assert multipliers["final_norm/scale"] == multipliers["layers/mlp_norm/scale"] == 1.0
    assert (model.logit_scale, model.query_scale) == (0.5, 0.5) and model_lib.rate_multipliers(SMALL) == {}


def test_the_initial_values_are_scaled_by_width_and_depth():
    """Variance 1 / fan-in; projections into the stream also by 1 / (2 layers), so that the stream keeps its input's
    variance.
    """
    model = DecoderConfig(vocab_size=512, embed=128, layers=8, heads=4, head_dim=32, mlp=512)
    tokens = jnp.zeros((1, 8), jnp.int32)
    parameters = nn.unbox(jax.jit(Decoder(model).init)(jax.random.key(0), tokens, tokens, tokens)["params"])
    wanted = {"query": 128, "key": 128, "gate": 128, "up": 128, "out": 128 * 16, "down": 512 * 16}
    for name, fan_in in wanted.items():
        # A normal distribution truncated at two standard deviations has 0.88 of the standard deviation.
        np.testing.assert_allclose(
            float(jnp.std(parameters["layers"][name])), 0.8796 / np.sqrt(fan_in), rtol=0.02, err_msg=name
        )
    np.testing.assert_allclose(float(jnp.std(parameters["embedding"])), 1 / np.sqrt(128), rtol=0.02)
