"""Logistic regression: against the textbook's optimum, always the same; measures against their definitions."""

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from castor.pipelines.quality import logistic


def problem(count=300, columns=40, seed=0):
    rng = np.random.default_rng(seed)
    rows = [np.unique(rng.integers(0, columns, rng.integers(1, 12))) for _ in range(count)]
    truth = rng.normal(size=columns)
    labels = np.array([truth[row].sum() / np.sqrt(len(row)) + rng.normal() * 0.3 > 0.4 for row in rows])
    return logistic.Rows.of(rows, columns), labels


@pytest.mark.parametrize("block", [1, 16, 1 << 22])
def test_sparse_products_are_dense_ones(block, monkeypatch):
    monkeypatch.setattr(logistic, "_BLOCK", block)
    rows, _ = problem()
    dense = np.zeros((300, 40))
    for i in range(300):
        dense[i, rows.indices[rows.starts[i] : rows.starts[i + 1]]] = rows.scales[i]
    assert np.allclose(np.linalg.norm(dense, axis=1), 1)
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=40), rng.normal(size=300)
    assert np.allclose(rows.times(x), dense @ x) and np.allclose(rows.transposed_times(y), dense.T @ y)


def test_the_fit_is_the_minimum_and_the_same_every_time():
    rows, labels = problem()
    weights, bias, steps = logistic.fit(rows, labels, 1e-3, tolerance=1e-8)
    assert steps < 200
    share = np.where(labels, 0.5 / labels.sum(), 0.5 / (~labels).sum())
    errors = share * (1 / (1 + np.exp(-(rows.times(weights) + bias))) - labels)
    assert np.abs(rows.transposed_times(errors) + 1e-3 * weights).max() < 1e-7 and abs(errors.sum()) < 1e-7
    again = logistic.fit(rows, labels, 1e-3, tolerance=1e-8)
    assert weights.tobytes() == again[0].tobytes() and bias == again[1]
    assert logistic.auc(rows.times(weights), labels) > 0.9


def test_the_fit_depends_neither_on_the_threads_of_a_library_nor_on_the_kernels_for_a_cpu():
    program = """if True:
        import hashlib
        import numpy as np
        from castor.pipelines.quality import logistic
        rng = np.random.default_rng(0)
        rows = logistic.Rows.of([np.unique(rng.integers(0, 1 << 17, 50)) for _ in range(200)], 1 << 17)
        labels = rows.times(rng.normal(size=1 << 17)) > 0
        print(hashlib.sha256(logistic.fit(rows, labels, 1e-3)[0].tobytes()).hexdigest())
    """
    settings = [{"OPENBLAS_NUM_THREADS": "1"}, {"OPENBLAS_NUM_THREADS": "2"}, {"OPENBLAS_CORETYPE": "Prescott"}]
    command = [sys.executable, "-P", "-c", program]
    runs = [subprocess.run(command, env={**os.environ, **s}, capture_output=True, check=True) for s in settings]
    assert len({run.stdout for run in runs}) == 1 and len(runs[0].stdout) == 65


def test_separable_and_tiny_problems_end():
    rows = logistic.Rows.of([np.array([0]), np.array([1])], 2)
    weights, bias, _ = logistic.fit(rows, np.array([True, False]), 1e-6)
    assert weights[0] > 5 and weights[1] < -5 and abs(bias) < 1e-3 and np.isfinite(weights).all()


def test_calibration_finds_the_scale():
    rng = np.random.default_rng(0)
    odds = rng.normal(size=20_000) * 2
    labels = rng.random(20_000) < 1 / (1 + np.exp(-odds))
    factor, shift = logistic.calibrate(odds / 5 + 1, labels)
    assert abs(factor - 5) < 0.3 and abs(shift + 5) < 0.4
    _, distance = logistic.calibration(1 / (1 + np.exp(-odds)), labels)
    assert distance < 0.02
    for separable in (np.array([-3.0, -2, 2, 3]), np.array([3.0, 2, -2, -3]), np.zeros(4)):
        factor, shift = logistic.calibrate(separable, np.array([False, False, True, True]))
        assert factor > 0 and np.isfinite([factor, shift]).all()


@given(st.lists(st.tuples(st.integers(0, 6), st.booleans()), max_size=30))
def test_auc_by_definition(pairs):
    scores, labels = np.array([s for s, _ in pairs], float), np.array([b for _, b in pairs], bool)
    wins = [1.0 if p > n else 0.5 if p == n else 0.0 for p in scores[labels] for n in scores[~labels]]
    assert logistic.auc(scores, labels) == pytest.approx(np.mean(wins) if wins else 0.5)


@given(st.lists(st.integers(0, 20), min_size=1, max_size=50), st.floats(0.01, 1), st.booleans())
def test_threshold_keeps_at_least_the_share_and_no_more_than_ties_ask(values, share, high):
    scores = np.array(values, float)
    threshold = logistic.threshold_for(scores, share, high)
    kept, tighter = (scores >= threshold, scores > threshold) if high else (scores <= threshold, scores < threshold)
    assert kept.mean() >= share - 1e-9 and tighter.sum() < max(share * len(values), 1) + 1e-9


def test_table():
    scores, labels = np.array([0.9, 0.8, 0.7, 0.6, 0.2, 0.1]), np.array([True, True, False, True, False, False])
    assert logistic.table(scores, labels, (0.3,)) == [
        {"share": 0.3, "threshold": 0.7, "kept": 0.333333, "recall": 0.666667, "precision": 0.666667}
    ]
