"""How good logits are: accuracy, recalls, calibration, with bootstrap confidence intervals. Imports numpy only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]


class Estimate(NamedTuple):
    """A number and its 95 % confidence interval (percentile bootstrap)."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Metrics:
    """How well logits agree with labels.

    Attributes:
        count: number of faces.
        accuracy: fraction of faces whose label is the top class.
        balanced_accuracy: mean of the recalls.
        expected_calibration_error: mean distance, weighted by faces, between accuracy and mean confidence over `bins`
            equally wide bins of the top class's probability.
        negative_log_likelihood: mean of -log(probability of the label), in nats.
        recall: class name -> fraction of its faces that are found; classes without a face are left out.
        confusion: (classes, classes) counts, one row per label, one column per answer.
        reliability: one row per bin: faces, mean confidence, accuracy (NaN in an empty bin).
    """

    count: int
    accuracy: Estimate
    balanced_accuracy: Estimate
    expected_calibration_error: Estimate
    negative_log_likelihood: Estimate
    recall: dict[str, Estimate]
    confusion: Labels
    reliability: Floats

    def to_dict(self) -> dict[str, Any]:
        """The same as plain lists, strings and numbers, for `json.dumps`; an empty bin's rates are null."""
        bins = [[None if np.isnan(cell) else cell for cell in row] for row in self.reliability.tolist()]
        return {
            "count": self.count,
            "accuracy": self.accuracy._asdict(),
            "balanced_accuracy": self.balanced_accuracy._asdict(),
            "expected_calibration_error": {**self.expected_calibration_error._asdict(), "bins": len(bins)},
            "negative_log_likelihood": self.negative_log_likelihood._asdict(),
            "recall": {name: estimate._asdict() for name, estimate in self.recall.items()},
            "confusion": self.confusion.tolist(),
            "reliability": [dict(zip(("faces", "confidence", "accuracy"), row, strict=True)) for row in bins],
        }


def measure(
    logits: NDArray[np.floating],
    labels: Labels,
    names: Sequence[str],
    *,
    bins: int = 15,
    resamples: int = 1000,
    seed: int = 0,
    groups: Sequence[str] | None = None,
) -> Metrics:
    """Compare logits (N, classes) with labels (N,).

    Args:
        logits: one row per face.
        labels: class of each face.
        names: class names.
        bins: number of confidence bins.
        resamples: number of bootstrap resamples.
        seed: seed of the bootstrap.
        groups: whom each face belongs to; the bootstrap then draws persons, not faces, since the faces of one person
            are not independent.
    """
    log_probabilities = log_softmax(logits)
    top = log_probabilities.argmax(axis=1)
    confidence = np.exp(log_probabilities.max(axis=1))
    losses = -log_probabilities[np.arange(len(labels)), labels]
    hits = (top == labels).astype(float)
    bin_of = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    classes = len(names)

    def estimates(weights: Floats) -> Floats:
        total = weights.sum()
        faces = np.bincount(labels, weights, classes)
        with np.errstate(invalid="ignore"):
            recall = np.bincount(labels, weights * hits, classes) / faces
        gaps = np.bincount(bin_of, weights * (hits - confidence), bins)
        means = (weights @ hits / total, np.nanmean(recall), np.abs(gaps).sum() / total, weights @ losses / total)
        return np.concatenate([means, recall])

    values = estimates(np.ones(len(labels)))
    drawn = np.stack([estimates(weights) for weights in bootstrap_weights(len(labels), resamples, seed, groups)])
    present = ~np.isnan(values)
    low, high = np.full_like(values, np.nan), np.full_like(values, np.nan)
    # A resample may hold no face of a rare class: it then says nothing about that class.
    low[present], high[present] = np.nanquantile(drawn[:, present], [0.025, 0.975], axis=0)
    found = [Estimate(*map(float, row)) for row in zip(values, low, high, strict=True)]

    count = np.bincount(bin_of, minlength=bins).astype(float)
    with np.errstate(invalid="ignore"):
        rates = [np.bincount(bin_of, what, bins) / count for what in (confidence, hits)]
    return Metrics(
        count=len(labels),
        accuracy=found[0],
        balanced_accuracy=found[1],
        expected_calibration_error=found[2],
        negative_log_likelihood=found[3],
        recall={
            name: estimate for name, estimate in zip(names, found[4:], strict=True) if not np.isnan(estimate.value)
        },
        confusion=confusion_matrix(labels, top, classes),
        reliability=np.stack([count, *rates], axis=1),
    )


def difference(
    after: NDArray[np.bool_], before: NDArray[np.bool_], *, resamples: int = 1000, seed: int = 0
) -> Estimate:
    """How much the accuracy changes between two sets of hits of the same faces; the bootstrap keeps the pairs."""
    change = after.astype(float) - before.astype(float)
    drawn = [weights @ change / len(change) for weights in bootstrap_weights(len(change), resamples, seed)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Estimate(float(change.mean()), float(low), float(high))


def bootstrap_weights(count: int, resamples: int, seed: int, groups: Sequence[str] | None = None) -> list[Floats]:
    """How often each of `count` faces is drawn, with replacement, in each resample."""
    generator = np.random.default_rng(seed)
    units = np.arange(count) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    number = int(units.max()) + 1
    draws = (generator.integers(0, number, number) for _ in range(resamples))
    return [np.bincount(draw, minlength=number)[units].astype(float) for draw in draws]


def confusion_matrix(labels: Labels, answers: Labels, classes: int) -> Labels:
    """Count (label, answer) pairs: (classes, classes), one row per label."""
    return np.bincount(labels * classes + answers, minlength=classes * classes).reshape(classes, classes)


def log_softmax(logits: NDArray[np.floating]) -> Floats:
    """Logarithms of the probabilities, in float64."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    result: Floats = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result
