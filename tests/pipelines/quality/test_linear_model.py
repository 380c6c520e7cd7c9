"""The linear model: features that never drift, exact scores, a folder that is checked before it is believed."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from castor.pipelines.quality import linear_model
from castor.pipelines.quality.linear_model import HIGH, LOW, Features, LinearModel
from castor.tasks.errors import CorpusError

GOLDEN = [826549, 460670, 944687, 443980, 119398, 75587, 856325, 374497]


def small(bits=8, **changes) -> LinearModel:
    weights = (np.arange(1 << bits) * 37 % 101 - 50).astype(np.int16)
    return LinearModel(
        Features(bits=bits), weights, **{"step": 0.125, "bias": -0.5, "keep": HIGH, "threshold": 0.5, **changes}
    )


def test_features_are_what_they_always_were():
    assert Features(bits=20).of("The Cafe's open, the CAFES closed.").tolist() == GOLDEN
    assert Features(bits=20).of("the cafés OPEN: the cafes closed!").tolist() == GOLDEN
    assert (
        Features().of(" \n").tolist() == []
        and Features(order=1).of("a a a").tolist() == Features(order=1).of("a").tolist()
    )


def test_numbers_count_as_one_unless_they_are_to_differ():
    assert Features().of("in 2019").tolist() == Features().of("in 2024").tolist()
    assert Features(numbers=True).of("in 2019").tolist() != Features(numbers=True).of("in 2024").tolist()


@given(st.text(max_size=200))
def test_a_text_has_at_most_so_many_features(text):
    few, all_of_them = Features(most=5).of(text), Features(most=10**6).of(text)
    assert len(few) == min(5, len(all_of_them)) and set(few) <= set(all_of_them) and (few < 1 << 20).all()
    assert 0 <= small().score(text) <= 1


def test_a_score_by_hand():
    model = small()
    buckets = np.array([3, 5, 7, 7])
    odds = sum(int(model.weights[b]) for b in buckets) * 0.125 / 2 - 0.5
    assert model.score_of(buckets) == round(1 / (1 + np.exp(-odds)), 6)
    assert model.score("") == round(1 / (1 + np.exp(0.5)), 6)
    assert linear_model.probability(-5000) == 0.0 and linear_model.probability(5000) == 1.0


def test_which_end_passes():
    assert small().passes(0.5) and not small().passes(0.49) and small().passes(0.2, threshold=0.1)
    assert small(keep=LOW).passes(0.5) and not small(keep=LOW).passes(0.51)


@given(st.lists(st.floats(-1e6, 1e6), max_size=20))
def test_quantised_weights_are_near(values):
    weights = np.array(values)
    whole, step = linear_model.quantise(weights)
    assert np.abs(whole * step - weights).max(initial=0) <= step / 2 and step <= max(
        np.abs(weights).max(initial=0) / 16000, 1
    )


def test_saved_and_loaded(tmp_path):
    model = small(manifest={"name": "m", "measures": {"auc": 0.9}})
    model.save(str(tmp_path / "m"))
    again = linear_model.load(str(tmp_path / "m"))
    assert (again.features, again.step, again.bias, again.keep, again.threshold) == (
        model.features,
        0.125,
        -0.5,
        HIGH,
        0.5,
    )
    assert np.array_equal(again.weights, model.weights) and again.manifest["measures"] == {"auc": 0.9}
    assert sorted(p.name for p in (tmp_path / "m").iterdir()) == ["manifest.json", "weights.bin"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "corpus"}, "kind 'corpus', format 1 instead of 'linear_model', 1"),
        ({"step": "1"}, "not a finite number"),
        ({"bias": True}, "not a finite number"),
        ({"keep": "both"}, "out of range"),
        ({"features": {"bits": 60, "order": 2, "most": 5, "numbers": False, "version": 1, "view": 1}}, "out of range"),
        (
            {"features": {"bits": 8, "order": 2, "most": 5, "numbers": False, "version": 99, "view": 1}},
            "has features version 99 on tokenization version 1; this version of Castor has 1 and 1",
        ),
        ({"weights": {"file": "../../etc/passwd", "bytes": 512, "sha256": "0" * 64}}, "does not match its manifest"),
        ({"weights": {}}, "KeyError"),
    ],
)
def test_an_invalid_manifest_is_rejected(tmp_path, change, message):
    small().save(str(tmp_path))
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps({**manifest, **change}))
    with pytest.raises(CorpusError, match=message):
        linear_model.load(str(tmp_path))


def test_damage_is_rejected(tmp_path):
    with pytest.raises(CorpusError, match="no model at .*castor data quality-train"):
        linear_model.load(str(tmp_path))
    small().save(str(tmp_path))
    data = bytearray((tmp_path / "weights.bin").read_bytes())
    for wrong in (bytes(data[:-2]), bytes(data + b"\0\0"), bytes(data[:9] + b"\x01" + data[10:])):
        (tmp_path / "weights.bin").write_bytes(wrong)
        with pytest.raises(CorpusError, match="does not match its manifest"):
            linear_model.load(str(tmp_path))
    (tmp_path / "manifest.json").write_text("[" * 100_000)
    with pytest.raises(CorpusError, match="cannot be read as a model"):
        linear_model.load(str(tmp_path))
