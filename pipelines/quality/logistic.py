"""Logistic regression on sparse rows of ones with a reproducible fit, and quality measures of a classifier.

The loss is convex, so the result does not depend on the starting point. The fit is L-BFGS (Liu and Nocedal 1989) on all
rows at once, without random order, threads or library sums. Both classes have equal total weight, whatever their number
of rows. This file knows no text and no Beam.

scipy's L-BFGS-B is not used: its dot products come from the BLAS library, whose order of addition depends on its number
of threads and on the CPU. With 131,072 columns, one thread, two threads and OPENBLAS_CORETYPE=Prescott give three
different models; OPENBLAS_CORETYPE=Haswell gives the model of two threads. test_logistic.py checks that this fit gives
one model.
"""

import dataclasses

import numpy as np

_HISTORY = 8
_BLOCK = 1 << 22
_ARMIJO = 1e-4


@dataclasses.dataclass(frozen=True, eq=False)
class Rows:
    """Sparse rows. Row i has the columns indices[starts[i] : starts[i + 1]], n >= 1 of them, each with the value 1 /
    sqrt(n).

    starts: [rows + 1] int64.

    indices: [entries] int32 or int64 in [0, columns).

    columns: number of columns.
    """

    starts: np.ndarray
    indices: np.ndarray
    columns: int

    @staticmethod
    def of(rows: list[np.ndarray], columns: int) -> "Rows":
        starts = np.concatenate(([0], np.cumsum([len(row) for row in rows]))).astype(np.int64)
        return Rows(starts, np.concatenate(rows, dtype=np.int32), columns)

    @property
    def scales(self) -> np.ndarray:
        """The value of the entries of each row, [rows] float64."""
        return 1.0 / np.sqrt(np.diff(self.starts))

    def times(self, weights: np.ndarray) -> np.ndarray:
        """Product with a vector, [columns] -> [rows]."""
        parts = [
            np.add.reduceat(weights[self._entries(a, b)], self.starts[a:b] - self.starts[a]) for a, b in self._blocks()
        ]
        return np.concatenate(parts) * self.scales

    def transposed_times(self, values: np.ndarray) -> np.ndarray:
        """Product of the transposed rows with a vector, [rows] -> [columns]."""
        values, total = values * self.scales, np.zeros(self.columns)
        for a, b in self._blocks():
            total += np.bincount(
                self._entries(a, b), np.repeat(values[a:b], np.diff(self.starts[a : b + 1])), self.columns
            )
        return total

    def _entries(self, first: int, end: int) -> np.ndarray:
        return self.indices[self.starts[first] : self.starts[end]]

    def _blocks(self) -> list[tuple[int, int]]:
        """Runs of rows with a few million entries each, so that the memory is little more than that of the indices."""
        cuts = np.flatnonzero(np.diff(self.starts[:-1] // _BLOCK, prepend=-1))
        return list(zip(cuts.tolist(), [*cuts[1:].tolist(), len(self.starts) - 1], strict=True))


def fit(
    rows: Rows, labels: np.ndarray, l2: float, most_steps: int = 200, tolerance: float = 1e-5
) -> tuple[np.ndarray, float, int]:
    """Fits by minimising the mean logistic loss with balanced classes, plus l2 / 2 |weights|^2.

    rows: the features.

    labels: bool [rows]; both classes must occur.

    l2: strength of the regularization. The bias is not regularized.

    most_steps: maximum number of steps.

    tolerance: the fit ends when every element of the gradient is at most `tolerance` times the largest element of the
        first gradient.

    Returns (weights [columns], bias, steps taken).
    """
    share = np.where(labels, 0.5 / max(labels.sum(), 1), 0.5 / max((~labels).sum(), 1))
    signs = np.where(labels, 1.0, -1.0)

    def loss_and_gradient(point):
        weights, bias = point[:-1], point[-1]
        margins = signs * (rows.times(weights) + bias)
        loss = (share * np.logaddexp(0.0, -margins)).sum() + 0.5 * l2 * (weights * weights).sum()
        pull = -share * signs * np.exp(-np.logaddexp(0.0, margins))
        return loss, np.append(rows.transposed_times(pull) + l2 * weights, pull.sum())

    point = np.zeros(rows.columns + 1)
    loss, gradient = loss_and_gradient(point)
    enough = tolerance * np.abs(gradient).max()
    history: list[tuple[np.ndarray, np.ndarray, float]] = []
    for step in range(most_steps):
        if np.abs(gradient).max() <= enough:
            return point[:-1], float(point[-1]), step
        direction = -_inverse_hessian_times(history, gradient)
        slope = (direction * gradient).sum()
        length = 1.0 if history else 1.0 / np.sqrt((gradient * gradient).sum())
        while True:
            new = point + length * direction
            new_loss, new_gradient = loss_and_gradient(new)
            if new_loss <= loss + _ARMIJO * length * slope:
                break
            length *= 0.5
            if length < 1e-12:  # limit of float64 precision
                return point[:-1], float(point[-1]), step
        moved, turned = new - point, new_gradient - gradient
        curvature = (moved * turned).sum()
        if curvature > 0:
            history = [*history[1 - _HISTORY :], (moved, turned, 1.0 / curvature)]
        point, loss, gradient = new, new_loss, new_gradient
    return point[:-1], float(point[-1]), most_steps


def calibrate(odds: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """(factor, shift) that turn log-odds into calibrated probabilities: sigmoid(factor * odds + shift).

    Platt 1999, with his targets slightly inside (0, 1); balanced classes. Example: with 8 positives their target is
    9/10.

    odds: float64 [documents].

    labels: bool [documents].
    """
    positives, negatives = max(int(labels.sum()), 1), max(int((~labels).sum()), 1)
    share = np.where(labels, 0.5 / positives, 0.5 / negatives)
    targets = np.where(labels, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    factor, shift = 1.0, 0.0
    for _ in range(50):
        predicted = np.exp(-np.logaddexp(0.0, -(factor * odds + shift)))
        error, curve = share * (predicted - targets), share * predicted * (1 - predicted) + 1e-12
        slope = np.array([(error * odds).sum(), error.sum()])
        a, b, c = (curve * odds * odds).sum(), (curve * odds).sum(), curve.sum()
        determinant = a * c - b * b
        if determinant <= 0:
            break
        move = np.array([c * slope[0] - b * slope[1], a * slope[1] - b * slope[0]]) / determinant
        factor, shift = factor - float(np.clip(move[0], -1, 1)), shift - float(np.clip(move[1], -1, 1))
        if np.abs(move).max() < 1e-9:
            break
    return max(factor, 1e-3), shift


def _inverse_hessian_times(history, gradient: np.ndarray) -> np.ndarray:
    """The two-loop recursion of L-BFGS."""
    result, factors = gradient.copy(), []
    for moved, turned, inverse in reversed(history):
        factor = inverse * (moved * result).sum()
        result -= factor * turned
        factors.append(factor)
    if history:
        moved, turned, inverse = history[-1]
        result *= 1.0 / (inverse * (turned * turned).sum())
    for (moved, turned, inverse), factor in zip(history, reversed(factors), strict=True):
        result += (factor - inverse * (turned * result).sum()) * moved
    return result


# Measures. Scores are probabilities, [documents] float64; labels bool.


def auc(scores: np.ndarray, labels: np.ndarray) -> float:
    """Share of (positive, negative) pairs whose scores are in the right order, ties counted half; 0.5 if a class is
    missing.

    Example: positives 0.9 and 0.4 against the negative 0.5 give 0.5.
    """
    positives, negatives = np.sort(scores[labels]), np.sort(scores[~labels])
    if not len(positives) or not len(negatives):
        return 0.5
    below = np.searchsorted(negatives, positives, "left").sum() + np.searchsorted(negatives, positives, "right").sum()
    return float(below / (2 * len(positives) * len(negatives)))


def threshold_for(scores: np.ndarray, share: float, high: bool = True) -> float:
    """The threshold that keeps at least `share` of the scores.

    Example: scores [0.1, 0.5, 0.9] with share 0.5 give 0.5, which keeps two of three.

    high: keep scores at or above the threshold; False keeps those at or below.
    """
    ordered = np.sort(scores)[::-1] if high else np.sort(scores)
    return float(ordered[min(max(int(np.ceil(share * len(ordered))), 1), len(ordered)) - 1])


def table(
    scores: np.ndarray, labels: np.ndarray, shares=(0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
) -> list[dict[str, float]]:
    """One row per share of negatives kept.

    Each row has the threshold; recall, the share of positives at or above the threshold; and precision, for equally
    many positives and negatives. Example: recall 0.8 with 0.2 of the negatives kept is a precision of 0.8 / (0.8 + 0.2)
    = 0.8.
    """
    rows = []
    for share in shares:
        threshold = threshold_for(scores[~labels], share)
        recall, false = float((scores[labels] >= threshold).mean()), float((scores[~labels] >= threshold).mean())
        precision = recall / (recall + false)
        rows.append(
            {
                "share": share,
                "threshold": threshold,
                "kept": round(false, 6),
                "recall": round(recall, 6),
                "precision": round(precision, 6),
            }
        )
    return rows


def calibration(scores: np.ndarray, labels: np.ndarray, bins: int = 10) -> tuple[list[dict[str, float]], float]:
    """(one row per bin of predicted probability, expected calibration error). Both classes have the same total weight,
    as in the fit.

    A row has the mean predicted probability (`said`), the true share of positives (`true`) and the weight of its
    documents. The error is the weighted mean distance of the two.
    """
    weights = np.where(labels, 0.5 / max(labels.sum(), 1), 0.5 / max((~labels).sum(), 1))
    places = np.minimum((scores * bins).astype(int), bins - 1)
    rows, distance = [], 0.0
    for place in range(bins):
        inside = places == place
        weight = float(weights[inside].sum())
        if weight:
            predicted = float((weights * scores)[inside].sum() / weight)
            true = float((weights * labels)[inside].sum() / weight)
            distance += weight * abs(predicted - true)
            rows.append(
                {"from": place / bins, "weight": round(weight, 6), "said": round(predicted, 6), "true": round(true, 6)}
            )
    return rows, round(distance, 6)
