"""How good a classifier is: point values, and how far to trust them.

Every measure carries a 95 % interval from a bootstrap over groups (a group is a patient, a series
or a cluster of near-duplicates). Records of one group resemble each other, so resampling records
one by one would call the numbers more certain than they are.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ctray.errors import UserError

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

# Probability left out on each side of an interval: 95 % in all.
TAIL = 0.025
# Largest number of (replicate, group) weights held at once; 8 bytes each, in two arrays.
_DRAW_CELLS = 4_000_000


@dataclass(frozen=True)
class Interval:
    """A measured value with its 95 % interval, `low <= value <= high`."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class ClassMetrics:
    """Precision, recall and F1 (0 to 1) of one class or one average, and its true records."""

    precision: Interval
    recall: Interval
    f1: Interval
    support: int


@dataclass(frozen=True)
class Metrics:
    """The score of a classifier on labelled records.

    Attributes:
        n: number of records scored.
        groups: number of distinct groups they fall into.
        classes: class names, in the order of the confusion matrix.
        accuracy: share of records whose predicted class is the true one.
        per_class: one entry a class, also for a class without records.
        averages: `"macro"` (each class counts the same; over the classes that occur as a label
            or as a prediction) and `"weighted"` (each class counts by its support).
        confusion: int64 [C, C], rows are the true class, columns the predicted one.
        replicates: bootstrap replicates behind each interval.
        seed: seed of the bootstrap.
    """

    n: int
    groups: int
    classes: tuple[str, ...]
    accuracy: Interval
    per_class: dict[str, ClassMetrics]
    averages: dict[str, ClassMetrics]
    confusion: IntArray
    replicates: int
    seed: int

    @property
    def macro_f1(self) -> Interval:
        """F1 averaged over the classes, each counting the same."""
        return self.averages["macro"].f1

    @property
    def weighted_f1(self) -> Interval:
        """F1 averaged over the classes, each counting by its support."""
        return self.averages["weighted"].f1


@dataclass(frozen=True)
class ReliabilityBin:
    """The records whose confidence lies in [low, high); the last bin includes 1.

    Attributes:
        low: lower edge, 0–1.
        high: upper edge, 0–1.
        n: number of records in the bin.
        confidence: their mean confidence, 0–1; 0 when there are none.
        accuracy: share of them that is right, 0–1; 0 when there are none.
    """

    low: float
    high: float
    n: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Reliability:
    """How well confidence tells accuracy.

    Attributes:
        ece: expected calibration error, the mean over records of |confidence - accuracy| of their
            bin, 0 to 1.
        bins: equally wide bins from 0 to 1, empty ones included.
    """

    ece: float
    bins: tuple[ReliabilityBin, ...]


def score(
    labels: NDArray[np.integer],
    probabilities: NDArray[np.floating],
    classes: Sequence[str],
    groups: Sequence[str],
    replicates: int = 2000,
    seed: int = 0,
) -> Metrics:
    """Score predicted probabilities against labels, with 95 % intervals by group.

    The predicted class is the most probable one (the first of equals). Where a measure divides by
    zero (precision of a class never predicted, recall of a class without records) its value is 0,
    as in scikit-learn with `zero_division=0`.

    An interval is the 2.5th to 97.5th percentile over replicates, each of which draws as many
    groups as there are, with replacement. Replicates in which a class's measure is undefined say
    nothing about it and are passed over; with none left the interval is 0 to 1. A bootstrap cannot
    see beyond its data, so where a measure is exactly 0 or 1 in every replicate the interval is
    the exact (Clopper-Pearson) one over the groups it stands on, and where it stands on a single
    group and lies in between the interval is 0 to 1.

    Args:
        labels: int [N], the index of each record's true class.
        probabilities: float [N, C], finite.
        classes: C class names.
        groups: N group names.
        replicates: bootstrap replicates, at least 1.
        seed: seed of the bootstrap; the same input and seed give the same intervals.

    Raises:
        UserError: there are no records.
        ValueError: shapes do not fit each other, a label is no class index, a probability is not
            finite, or `replicates` is below 1.
    """
    labels, probabilities = np.asarray(labels), np.asarray(probabilities)
    _check(labels, probabilities, classes, groups, replicates)
    width = len(classes)
    truth = labels.astype(np.int64)  # class numbers may come as int8, too small for a cell number
    predicted = probabilities.argmax(axis=1).astype(np.int64)
    confusion = np.bincount(truth * width + predicted, minlength=width * width)
    confusion = confusion.reshape(width, width).astype(np.int64)

    counts = _group_counts(truth, predicted, width, np.asarray(groups, dtype=str))
    point = _measures(counts.sum(axis=0, keepdims=True))
    drawn = _measures(_resample(counts, replicates, seed))
    lows, highs = _limits(point, drawn, _groups_behind(counts))
    intervals = [
        Interval(float(v), float(lo), float(hi))
        for v, lo, hi in zip(point.values[0], lows, highs, strict=True)
    ]

    support = confusion.sum(axis=1)
    rows = [
        ClassMetrics(intervals[3 * i], intervals[3 * i + 1], intervals[3 * i + 2], int(total))
        for i, total in enumerate([*support, len(labels), len(labels)])
    ]
    return Metrics(
        n=len(labels),
        groups=len(counts),
        classes=tuple(classes),
        accuracy=intervals[-1],
        per_class=dict(zip(classes, rows[:width], strict=True)),
        averages={"macro": rows[width], "weighted": rows[width + 1]},
        confusion=confusion,
        replicates=replicates,
        seed=seed,
    )


def reliability(
    confidence: NDArray[np.floating], correct: NDArray[np.bool_], bins: int = 15
) -> Reliability:
    """Compare confidence with accuracy in equally wide bins.

    Args:
        confidence: float [N], 0 to 1.
        correct: bool [N], whether the prediction is right.
        bins: number of bins between 0 and 1, at least 1.

    Raises:
        ValueError: no records, unequal lengths, or a confidence outside 0 to 1.
    """
    confidence, correct = np.asarray(confidence, dtype=np.float64), np.asarray(correct, dtype=bool)
    if confidence.shape != correct.shape or confidence.ndim != 1 or not confidence.size:
        raise ValueError(f"confidence {confidence.shape} and correct {correct.shape} must be [N]")
    # float32 probabilities may pass 1 by a rounding error; a NaN fails the comparison.
    if not ((confidence >= -1e-6) & (confidence <= 1 + 1e-6)).all():
        raise ValueError("a confidence lies outside 0 to 1")
    confidence = confidence.clip(0, 1)
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    n = np.bincount(place, minlength=bins)
    held = np.maximum(n, 1)
    mean = np.bincount(place, weights=confidence, minlength=bins) / held
    right = np.bincount(place, weights=correct, minlength=bins) / held
    return Reliability(
        ece=float((n * np.abs(mean - right)).sum() / n.sum()),
        bins=tuple(
            ReliabilityBin(i / bins, (i + 1) / bins, int(n[i]), float(mean[i]), float(right[i]))
            for i in range(bins)
        ),
    )


def table(metrics: Metrics) -> str:
    """The classification table as plain text, with the 95 % intervals of F1 and accuracy."""
    names = [*metrics.classes, "accuracy", "macro avg", "weighted avg"]
    width = max(len(name) for name in names)

    def line(name: str, precision: str, recall: str, f1: str, interval: str, support: str) -> str:
        return (
            f"{name:>{width}}  {precision:>9}  {recall:>6}  {f1:>8}  {interval:>13}  {support:>7}"
        )

    def row(name: str, part: ClassMetrics) -> str:
        precision, recall, f1 = (f"{x.value:.3f}" for x in (part.precision, part.recall, part.f1))
        return line(name, precision, recall, f1, _span(part.f1), str(part.support))

    accuracy = metrics.accuracy
    return "\n".join(
        [
            line("", "precision", "recall", "f1-score", "95 % interval", "support"),
            "",
            *(row(name, part) for name, part in metrics.per_class.items()),
            "",
            line("accuracy", "", "", f"{accuracy.value:.3f}", _span(accuracy), str(metrics.n)),
            row("macro avg", metrics.averages["macro"]),
            row("weighted avg", metrics.averages["weighted"]),
        ]
    )


@dataclass(frozen=True)
class _Measures:
    """Measures of R sets of records: C classes, macro and weighted average, then accuracy.

    Attributes:
        values: float64 [R, 3 (C + 2) + 1]; precision, recall, F1 a class and average, accuracy.
        defined: bool, the same shape; whether the measure means anything in that set.
    """

    values: FloatArray
    defined: NDArray[np.bool_]


def _check(
    labels: NDArray[np.integer],
    probabilities: NDArray[np.floating],
    classes: Sequence[str],
    groups: Sequence[str],
    replicates: int,
) -> None:
    if labels.ndim != 1 or len(groups) != len(labels):
        raise ValueError(f"labels {labels.shape} and {len(groups)} groups must both be [N]")
    if probabilities.shape != (len(labels), len(classes)):
        raise ValueError(
            f"probabilities {probabilities.shape} must be ({len(labels)}, {len(classes)}), "
            "a row a label and a column a class"
        )
    if len(set(classes)) != len(classes):
        raise ValueError(f"class names {list(classes)} are not distinct")
    if replicates < 1:
        raise ValueError(f"replicates is {replicates}, it must be at least 1")
    if not len(labels):
        raise UserError(
            "There are no records to score (0 left): give data with labelled, readable images "
            "that the model was not trained on."
        )
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"labels are {labels.dtype}, they must be integers")
    if labels.min() < 0 or labels.max() >= len(classes):
        raise ValueError(f"labels must lie between 0 and {len(classes) - 1}")
    if not np.isfinite(probabilities).all():
        raise ValueError("a probability is not finite")


def _group_counts(
    labels: IntArray, predicted: IntArray, width: int, names: NDArray[np.str_]
) -> FloatArray:
    """Right, true and predicted records of each class: float64 [G, 3, C].

    These are the diagonal and the margins of a group's confusion matrix, all that the measures
    need, so that memory grows with the number of classes and not with its square.
    """
    _, group = np.unique(names, return_inverse=True)
    total = int(group.max()) + 1

    def count(rows: IntArray, columns: IntArray) -> IntArray:
        return np.bincount(rows * width + columns, minlength=total * width).reshape(total, width)

    right = labels == predicted
    parts = (count(group[right], labels[right]), count(group, labels), count(group, predicted))
    return np.stack(parts, axis=1).astype(np.float64)


def _resample(counts: FloatArray, replicates: int, seed: int) -> FloatArray:
    """Counts [R, 3, C] of R draws of G groups with replacement from counts [G, 3, C]."""
    total = len(counts)
    flat = counts.reshape(total, -1)
    chance = np.full(total, 1 / total)
    rng = np.random.default_rng(seed)
    step = max(1, _DRAW_CELLS // total)
    chunks = [
        rng.multinomial(total, chance, size=min(step, replicates - start)).astype(np.float64) @ flat
        for start in range(0, replicates, step)
    ]
    return np.concatenate(chunks).reshape(replicates, *counts.shape[1:])


def _measures(counts: FloatArray) -> _Measures:
    """All measures of counts [R, 3, C] (right, true, predicted)."""
    right, true, predicted = counts[:, 0], counts[:, 1], counts[:, 2]
    bottoms = np.stack([predicted, true, true + predicted], axis=2)
    tops = np.stack([right, right, 2 * right], axis=2)
    ratios = tops / np.maximum(bottoms, 1)  # counts are whole: 1 stands in for 0 only
    defined = bottoms > 0

    occurs = defined[:, :, 2]
    macro = ratios.sum(axis=1) / occurs.sum(axis=1)[:, None]  # the others add 0
    records = true.sum(axis=1)[:, None]
    weighted = (ratios * true[:, :, None]).sum(axis=1) / records
    accuracy = right.sum(axis=1)[:, None] / records

    rows = len(counts)
    values = np.concatenate([ratios.reshape(rows, -1), macro, weighted, accuracy], axis=1)
    always = np.ones((rows, values.shape[1] - defined[0].size), dtype=bool)
    return _Measures(values, np.concatenate([defined.reshape(rows, -1), always], axis=1))


def _groups_behind(counts: FloatArray) -> IntArray:
    """How many groups each measure stands on, in the order of `_Measures.values`.

    A macro average stands on as few as its rarest class does.
    """
    true, predicted = counts[:, 1] > 0, counts[:, 2] > 0
    each = np.stack([predicted, true, true | predicted], axis=2).sum(axis=0)
    occurs = each[:, 2]
    rarest = occurs[occurs > 0].min()
    return np.array([*each.ravel(), *[rarest] * 3, *[len(counts)] * 4], dtype=np.int64)


def _limits(
    point: _Measures, drawn: _Measures, behind: IntArray
) -> tuple[list[float], list[float]]:
    lows, highs = [], []
    for column, (value, number) in enumerate(zip(point.values[0], behind, strict=True)):
        kept = drawn.values[drawn.defined[:, column], column]
        low, high = _span_of(kept, float(value), int(number))
        # The statistic is not linear, so a percentile can pass its own value by a hair.
        lows.append(min(low, value))
        highs.append(max(high, value))
    return lows, highs


def _span_of(kept: FloatArray, value: float, number: int) -> tuple[float, float]:
    """Low and high end from the replicates of a measure that stands on `number` groups."""
    if not kept.size:
        return 0.0, 1.0
    if (kept == value).all():
        bound = TAIL ** (1 / number)
        if value == 1:
            return bound, 1.0
        if value == 0:
            return 0.0, 1 - bound
        if number == 1:
            return 0.0, 1.0
    low, high = np.quantile(kept, [TAIL, 1 - TAIL])
    return float(low), float(high)


def _span(interval: Interval) -> str:
    return f"{interval.low:.3f}-{interval.high:.3f}"
