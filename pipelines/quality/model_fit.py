"""Fits a linear model of text to labelled rows: weights, calibration, threshold, and the measures on held-out rows.

Pure functions of rows (training_rows.Row); no Beam.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from castor.pipelines.quality import linear_model, logistic, training_rows
from castor.pipelines.quality.linear_model import HIGH, Features, LinearModel
from castor.pipelines.quality.training_rows import Row
from castor.tasks.errors import CorpusError

_LEAST = 8  # documents of each set on each side of the split
_SHOWN = 40
_DIGITS = 4  # of the calibration: few enough to hide the last bits of a machine's floating-point arithmetic


def without_repeats(rows: Sequence[Row]) -> list[Row]:
    """Rows with distinct features, in order. Of equal rows, the first reference row is kept, else the first row.

    A repeated page could be both fitted and held out, and a page in both sets has no label.
    """
    first: dict[bytes, Row] = {}
    for row in rows:
        key = row.buckets.tobytes()
        if key not in first or (row.reference and not first[key].reference):
            first[key] = row
    return [row for row in rows if first[row.buckets.tobytes()] is row]


def fit(
    rows: Sequence[Row],
    features: Features,
    *,
    name: str,
    l2: float,
    min_documents: int,
    kept_share: float,
    keep: str,
) -> tuple[LinearModel, dict[str, Any]]:
    """Fits a model and measures it on the held-out rows; returns (model, measures).

    rows: distinct rows of all parts of the split; their order is the order of the fit.
    features: the features that the rows were made with.
    name: the job's name, for error messages.
    l2: strength of the regularisation.
    min_documents: features in fewer fitted rows get no weight.
    kept_share: share of the held-out sample that the threshold keeps.
    keep: "high" if good texts score high, "low" if unwanted texts do.

    Raises CorpusError if either set has fewer than 8 documents in a part of the split.
    """
    parts = {part: [row for row in rows if row.part == part] for part in training_rows.PARTS}
    labels = {part: np.array([row.reference for row in members], bool) for part, members in parts.items()}
    counts = {part: {"reference": int(own.sum()), "sample": int((~own).sum())} for part, own in labels.items()}
    for part, both in counts.items():
        for which, count in both.items():
            if count < _LEAST:
                raise CorpusError(
                    f"job {name}: only {count} different documents of the {which} are {part.replace('_', ' ')}; "
                    f"at least {_LEAST} are needed.",
                    "Add documents, raise SAMPLE_DOCUMENTS, change HELD_OUT, or split by id.",
                )
    known, columns = _columns(parts["fitted"], features.bits, min_documents)
    weights, bias, steps = logistic.fit(logistic.Rows.of(columns, len(known)), labels["fitted"], l2)
    everything = np.zeros(1 << features.bits)
    everything[known] = weights
    whole, step = linear_model.quantise(everything)
    model = LinearModel(features, whole, step, bias, keep, 0.0)
    odds = np.array([model.odds_of(row.buckets) for row in parts["calibrated"]])
    factor, shift = logistic.calibrate(odds, labels["calibrated"])
    factor, shift = round(factor, _DIGITS), round(shift + factor * bias, _DIGITS)
    model = dataclasses.replace(model, step=step * factor, bias=shift)
    fitted_scores, scores = _scores(model, parts["fitted"]), _scores(model, parts["held_out"])
    held_out = labels["held_out"]
    threshold = logistic.threshold_for(scores[~held_out], kept_share, keep == HIGH)
    model = dataclasses.replace(model, threshold=threshold)
    bins, distance = logistic.calibration(scores, held_out)
    passed = np.array([model.passes(score) for score in scores])
    return model, {
        "documents": counts,
        "features": len(known),
        "steps": steps,
        "auc": round(logistic.auc(scores, held_out), 6),
        "auc_fitted": round(logistic.auc(fitted_scores, labels["fitted"]), 6),
        "threshold": threshold,
        "kept_of_sample": round(float(passed[~held_out].mean()), 6),
        "kept_of_reference": round(float(passed[held_out].mean()), 6),
        "table": logistic.table(scores, held_out),
        "calibration": bins,
        "calibration_error": distance,
    }


def strongest_ngrams(model: LinearModel, rows: Sequence[Row]) -> dict[str, list[tuple[str, float]]]:
    """The n-grams with the largest weights for and against the reference: {"for" or "against": [(n-gram, weight)]}.

    Only n-grams that occur in the rows' excerpts have names and are listed, at most 40 per side.
    """
    order = np.argsort(model.weights, kind="stable")
    ends = {"against": order[: 4 * _SHOWN], "for": order[::-1][: 4 * _SHOWN]}
    names = training_rows.names_of({int(b) for end in ends.values() for b in end}, rows, model.features)
    shown = {}
    for side, buckets in ends.items():
        named = (b for b in buckets.tolist() if b in names and model.weights[b])
        shown[side] = [(names[b], float(model.weights[b] * model.step)) for b in named][:_SHOWN]
    return shown


def _scores(model: LinearModel, rows: Sequence[Row]) -> np.ndarray:
    return np.array([model.score_of(row.buckets) for row in rows])


def _columns(rows: Sequence[Row], bits: int, least: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """(known, columns): the buckets found in at least `least` rows, and each row as indices into `known`.

    A row without any known bucket gets index 0.
    """
    counts = np.zeros(1 << bits, np.int64)
    for row in rows:
        counts[row.buckets] += 1
    known = np.flatnonzero(counts >= min(least, counts.max()))
    index_of = np.full(1 << bits, -1, np.int32)
    index_of[known] = np.arange(len(known))
    result = []
    for row in rows:
        own = index_of[row.buckets]
        own = own[own >= 0]
        result.append(own if len(own) else np.zeros(1, np.int32))
    return known, result
