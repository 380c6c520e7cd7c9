"""Weights from counts: exact shares that add up, the papers' properties, SeqIO's rates, and stable numbers."""

import fractions
import subprocess
import sys
import types

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gin
from castor.tasks.errors import ConfigurationError
from castor.tasks.mixing import weights

F = fractions.Fraction
COUNTS = st.dictionaries(st.sampled_from("abcdefgh"), st.integers(0, 10**13), min_size=1).filter(
    lambda c: any(c.values())
)
SETTINGS = settings(derandomize=True, deadline=None)
WEIGHTINGS = st.one_of(
    st.just(weights.Proportional()),
    st.builds(weights.Temperature, st.floats(0.5, 100)),
    st.builds(weights.UniMax, st.integers(1, 10**14), st.floats(0.01, 100)),
    st.builds(
        weights.ExampleRates,
        st.one_of(st.none(), st.integers(1, 10**9)),
        st.floats(1e-6, 1e6),
        st.one_of(st.just(1.0), st.floats(0.5, 10)),
    ),
)


@pytest.fixture(autouse=True)
def clean_gin():
    yield
    gin.clear_config()


@SETTINGS
@given(WEIGHTINGS, COUNTS, st.randoms(use_true_random=False))
def test_shares_add_up_and_do_not_depend_on_order(weighting, counts, random):
    shares = weighting.weights(counts)
    assert list(shares) == list(counts) and sum(shares.values()) == 1
    assert all(isinstance(s, F) and (s > 0) == (counts[n] > 0) for n, s in shares.items())
    assert all(shares[a] <= shares[b] for a in counts for b in counts if counts[a] <= counts[b])
    names = list(counts)
    random.shuffle(names)
    assert weighting.weights({name: counts[name] for name in names}) == shares


def test_golden_vectors():
    counts = {"web": 2_741_000_000_000, "code": 95_000_000_000, "books": 26_000_000_000, "none": 0}
    assert weights.Proportional().weights(counts) == {
        "web": F(2741, 2862),
        "code": F(95, 2862),
        "books": F(26, 2862),
        "none": 0,
    }
    roots = {"web": F("13994.8960987"), "code": F("4562.90263539"), "books": F("2962.49606841"), "none": F(0)}
    assert weights.Temperature(3).weights(counts) == {name: root / sum(roots.values()) for name, root in roots.items()}
    assert weights.ExampleRates(maximum=2**20, temperature=1.5).rates({"a": 10**9, "b": 12345, "c": 3}) == {
        "a": F("10321.2732407"),
        "b": F("534.146921236"),
        "c": F("2.08008382305"),
    }
    assert weights.UniMax(10**12, 4).weights(counts) == {
        "web": F(516, 1000),
        "code": F(380, 1000),
        "books": F(104, 1000),
        "none": 0,
    }


def test_temperature_one_is_proportional_and_a_high_one_nearly_uniform():
    counts = {"a": 3, "b": 10**12 + 7}
    assert (
        weights.Temperature(1).weights(counts)
        == weights.Temperature(1.0).weights(counts)
        == weights.Proportional().weights(counts)
    )
    assert abs(weights.Temperature(1e6).weights(counts)["a"] - F(1, 2)) < F(1, 10**4)


def test_a_power_that_is_exact_is_exact():
    assert weights.ExampleRates(temperature=3).rates({"a": 8, "b": 10**12}) == {"a": 2, "b": 10**4}
    assert weights.ExampleRates(temperature=2).rates({"a": 1234567890125**2}) == {"a": 1234567890120}, (
        "a tie goes to the even digit"
    )
    assert weights.ExampleRates(temperature=0.5).rates({"a": 7}) == {"a": 49}


def test_the_decimal_module_of_pure_python_gives_the_same():
    program = (
        "{block}import decimal, fractions; from castor.tasks.mixing import weights; F = fractions.Fraction\n"
        "bases = [F(b) for b in (2, 3, 10, 95, 4096, 12345, 10**9 + 7, 1234567890125**2, '1/3', '0.001')]\n"
        "exponents = [F(e) for e in ('1/2', '1/3', '2/3', '3/10', '10/7', '2')]\n"
        "print(type(decimal.Context.power).__name__, [str(weights._power(b, e)) for b in bases for e in exponents])"
    )
    fast, pure = (
        subprocess.run(
            [sys.executable, "-P", "-c", program.format(block=block)], capture_output=True, text=True, check=True
        ).stdout.split(" ", 1)
        for block in ("", "import sys; sys.modules['_decimal'] = None; ")
    )
    assert fast[0] != pure[0] and fast[1] == pure[1]


@SETTINGS
@given(COUNTS, st.integers(1, 10**14), st.integers(1, 40))
def test_unimax_caps_epochs_and_is_uniform_elsewhere(counts, budget, quarters):
    max_epochs = F(quarters, 4)
    shares = weights.UniMax(budget, quarters / 4).weights(counts)
    caps = {name: count * max_epochs for name, count in counts.items()}
    if budget > sum(caps.values()):
        assert shares == weights.Proportional().weights(counts)
        return
    given_out = {name: share * budget for name, share in shares.items()}
    assert all(given_out[name] <= caps[name] for name in counts)
    free = {given_out[name] for name in counts if given_out[name] < caps[name]}
    assert len(free) <= 1, "what nothing caps has equal shares"
    assert all(given_out[name] <= max(free, default=budget) for name in counts), "and no capped component has more"
    assert all(count <= float(max_epochs) * (1 + 1e-12) for count in weights.epochs(shares, counts, budget).values())


def test_unimax_as_its_paper_writes_it():
    """Algorithm 1 of arXiv 2304.09151, line by line, in floats."""
    counts, budget, cap = {"a": 5, "b": 100, "c": 1000, "d": 10**5}, 3000, 4
    left, uncapped = float(budget), {}
    for i, name in enumerate(sorted(counts, key=counts.get)):
        each = left / (len(counts) - i)
        uncapped[name] = counts[name] * cap if each > counts[name] * cap else each
        left -= uncapped[name]
    total = sum(uncapped.values())
    shares = weights.UniMax(budget, cap).weights(counts)
    assert {n: float(s) for n, s in shares.items()} == pytest.approx(
        {n: u / total for n, u in uncapped.items()}, rel=1e-12
    )
    assert shares == {"a": F(20, 3000), "b": F(400, 3000), "c": F(1290, 3000), "d": F(1290, 3000)}


def test_unimax_beyond_all_caps_repeats_all_alike():
    shares = weights.UniMax(10_000, 2).weights({"a": 10, "b": 90})
    assert shares == {"a": F(1, 10), "b": F(9, 10)}
    assert weights.epochs(shares, {"a": 10, "b": 90}, 10_000) == {"a": 100.0, "b": 100.0}


def test_example_rates_are_seqios():
    seqio = pytest.importorskip("seqio")
    counts = [1, 2, 7, 999, 65536, 123456789, 10**12]
    for arguments in (
        {},
        {"maximum": 65536},
        {"maximum": 1000, "temperature": 3.0},
        {"scale": 0.37, "temperature": 1.7},
        {"maximum": 5e5, "scale": 3, "temperature": 0.9},
    ):
        mine = weights.ExampleRates(**arguments).rates({str(c): c for c in counts})
        for count in counts:
            task = types.SimpleNamespace(
                cache_dir="cached", get_cached_stats=lambda split, count=count: {"examples": count}, name="t"
            )
            assert float(mine[str(count)]) == pytest.approx(seqio.mixing_rate_num_examples(task, **arguments), rel=1e-9)


def test_combine_is_exact():
    shares = {"a": F(1, 3), "b": F(2, 3), "c": F(0)}
    assert weights.combine(shares, {"c": 1, "b": 0.1, "a": 2}) == {"c": 0, "b": F(1, 15), "a": F(2, 3)}
    with pytest.raises(ConfigurationError, match="'b' has a count or a multiplier, not both"):
        weights.combine(shares, {"a": 1, "c": 1})
    with pytest.raises(ConfigurationError, match="no component with a multiplier above 0 holds any data"):
        weights.combine(shares, {"a": 0, "b": 0, "c": 5})
    with pytest.raises(ConfigurationError, match="the multiplier of 'a' is -1"):
        weights.combine(shares, {"a": -1, "b": 0, "c": 5})


def test_epochs():
    counts = {"a": 1000, "b": 10, "c": 0}
    assert weights.epochs({"a": 3, "b": 1, "c": 0}, counts, 400) == {"a": 0.3, "b": 10.0, "c": 0.0}
    assert weights.epochs({"a": 0.5, "b": 0, "c": 0.5}, counts, 4000) == {"a": 2.0, "b": 0.0, "c": float("inf")}
    assert weights.epochs({"a": 1, "b": 1, "c": 1}, counts, 0) == {"a": 0.0, "b": 0.0, "c": 0.0}


@pytest.mark.parametrize(
    "make, match",
    [
        (lambda: weights.Temperature(0), "Temperature.temperature is 0"),
        (lambda: weights.Temperature(float("nan")), "is nan"),
        (lambda: weights.Temperature("3"), "is '3'"),
        (lambda: weights.UniMax(0, 1), "UniMax.budget"),
        (lambda: weights.UniMax(1, -1), "UniMax.max_epochs"),
        (lambda: weights.ExampleRates(maximum=0), "ExampleRates.maximum"),
        (lambda: weights.ExampleRates(scale=0), "ExampleRates.scale"),
        (lambda: weights.Temperature(1e-7).weights({"a": 3}), "temperature of 1 or more"),
        (lambda: weights.ExampleRates(scale=0.1, temperature=1e-7).weights({"a": 3}), "temperature of 1 or more"),
        (lambda: weights.Proportional().weights({"a": 0, "b": 0}), "all of a, b are empty"),
        (lambda: weights.UniMax(5, 1).weights({"a": 0}), "all of a are empty"),
        (lambda: weights.Proportional().weights({}), "the mixture has no components"),
        (lambda: weights.Proportional().weights({"a": -1}), "count of 'a' = -1 is not an integer"),
        (lambda: weights.Proportional().weights({"a": 0.5}), "count of 'a' = 0.5 is not an integer"),
    ],
)
def test_bad_use(make, match):
    with pytest.raises(ConfigurationError, match=match):
        make()


def test_gin():
    gin.parse_config("import castor.tasks.mixing.weights\ntasks.weights.Temperature.temperature = 3")
    gin.parse_config("b/tasks.weights.UniMax.budget = 10\nb/UniMax.max_epochs = 2")
    assert weights.Temperature() == weights.Temperature(3)
    assert (weights.Temperature.unit, weights.ExampleRates.unit) == ("tokens", "examples")
    with gin.config_scope("b"):
        assert weights.UniMax() == weights.UniMax(10, 2)
    with pytest.raises(RuntimeError, match="Required bindings for `UniMax`"):
        weights.UniMax()


def test_the_module_needs_nothing_heavy():
    program = "import sys, castor.tasks.mixing.weights; print(sorted({'tensorflow', 'seqio', 'jax', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True).stdout.strip() == "[]"
