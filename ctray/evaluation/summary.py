"""What an evaluation says: the content of `report.json`, and the figures its page draws."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from ctray.engine.table import probability_column
from ctray.evaluation.metrics import (
    ClassMetrics,
    Interval,
    Metrics,
    Reliability,
    reliability,
    score,
)
from ctray.provenance import now

HISTOGRAM_BINS = 15
WORST_SHOWN = 12


# ── report.json ──────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class BundleName:
    """Which bundle was evaluated; `version` is None outside the registry."""

    name: str
    version: str | None
    backbone: str


@dataclass(frozen=True)
class LeftOut:
    """Records left out because the model has seen them.

    Attributes:
        trained_on: how many it was trained on.
        chosen_on: how many chose its best state.
    """

    trained_on: int
    chosen_on: int


@dataclass(frozen=True)
class Unreadable:
    """A file that could not be read, and why."""

    file: str
    error: str


@dataclass(frozen=True)
class Basis:
    """What the numbers stand on.

    Attributes:
        data: what was evaluated, for people.
        split: of a store; None for a folder.
        synthetic: whether the images were drawn by a program.
        fingerprint: of the data.
        bundle: what was evaluated.
        include_training: whether records that the model was trained on were scored too.
        left_out: the records that were not scored because the model has seen them.
        unreadable: the files that are not in the numbers.
        versions: by package.
    """

    data: str
    split: str | None
    synthetic: bool
    fingerprint: str
    bundle: BundleName
    include_training: bool
    left_out: LeftOut
    unreadable: tuple[Unreadable, ...]
    versions: dict[str, str]


@dataclass(frozen=True)
class Bounds:
    """Ends of a 95 % interval."""

    low: float
    high: float


@dataclass(frozen=True)
class ClassFigures:
    """Figures (0 to 1) of one class or one average; `intervals` by the name of the figure."""

    precision: float
    recall: float
    f1: float
    support: int
    intervals: dict[str, Bounds]


@dataclass(frozen=True)
class Figures:
    """The headline figures, and those of each class."""

    accuracy: Interval
    macro_f1: Interval
    weighted_f1: Interval
    per_class: dict[str, ClassFigures]


@dataclass(frozen=True)
class Confusion:
    """How many records of one class were taken for another one."""

    true: str
    predicted: str
    n: int
    share_of_true: float


@dataclass(frozen=True)
class SourceFigures:
    """The records that come from one place, as a hospital or a collection."""

    source: str
    n: int
    groups: int
    accuracy: Interval
    most_common: str
    most_common_share: float


@dataclass(frozen=True)
class Summary:
    """All of `report.json`, key by key; attributes that are not named here are those of `Basis`.

    Attributes:
        n: number of records scored.
        groups: number of groups they fall into.
        classes: class names, in the order of `confusion`.
        metrics: the figures.
        averages: `macro` and `weighted`.
        interval: how the intervals were made, for people.
        confusion: counts; a row a true class, a column a predicted one.
        confusions: pairs of classes that were mixed up, the most frequent first.
        calibration: confidence against accuracy.
        sources: the largest first; empty where fewer than two are known.
        created: ISO 8601.
    """

    n: int
    groups: int
    classes: tuple[str, ...]
    data: str
    split: str | None
    synthetic: bool
    fingerprint: str
    bundle: BundleName
    include_training: bool
    left_out: LeftOut
    unreadable: tuple[Unreadable, ...]
    metrics: Figures
    averages: dict[str, ClassFigures]
    interval: str
    confusion: list[list[int]]
    confusions: tuple[Confusion, ...]
    calibration: Reliability
    sources: tuple[SourceFigures, ...]
    created: str
    versions: dict[str, str]


def summarise(metrics: Metrics, scored: pd.DataFrame, basis: Basis) -> Summary:
    """Put together what `report.json` says.

    Args:
        metrics: the score of the records in `scored`.
        scored: from `scored_rows`.
        basis: what the numbers stand on.
    """
    return Summary(
        n=metrics.n,
        groups=metrics.groups,
        classes=metrics.classes,
        data=basis.data,
        split=basis.split,
        synthetic=basis.synthetic,
        fingerprint=basis.fingerprint,
        bundle=basis.bundle,
        include_training=basis.include_training,
        left_out=basis.left_out,
        unreadable=basis.unreadable,
        metrics=Figures(
            accuracy=metrics.accuracy,
            macro_f1=metrics.macro_f1,
            weighted_f1=metrics.weighted_f1,
            per_class={name: _figures(part) for name, part in metrics.per_class.items()},
        ),
        averages={name: _figures(part) for name, part in metrics.averages.items()},
        interval=(
            f"95 % percentile bootstrap over groups, {metrics.replicates} replicates, "
            f"seed {metrics.seed}"
        ),
        confusion=metrics.confusion.tolist(),
        confusions=_confusions(metrics),
        calibration=reliability(
            scored["confidence"].to_numpy(dtype=np.float64), scored["right"].to_numpy(dtype=bool)
        ),
        sources=_sources(scored, metrics),
        created=now(),
        versions=basis.versions,
    )


def scored_rows(predictions: pd.DataFrame, metrics: Metrics) -> pd.DataFrame:
    """The readable predictions, with a column `right`: whether the predicted class is the true one.

    Args:
        predictions: a table as `ctray.engine.table` describes it, of known records; a text in
            `error` marks a row that was not scored, and `source` may lack.
        metrics: the score of just these records.

    Raises:
        ValueError: they are not the records that were scored.
    """
    failed = predictions["error"].fillna("").astype(str) != ""
    scored = predictions[~failed].reset_index(drop=True)
    place = {name: i for i, name in enumerate(metrics.classes)}
    confusion = np.zeros_like(metrics.confusion)
    for true, predicted in zip(scored["label"], scored["predicted"], strict=True):
        if true not in place or predicted not in place:
            raise ValueError(f"label {true!r} or prediction {predicted!r} is not a class")
        confusion[place[true], place[predicted]] += 1
    if not np.array_equal(confusion, metrics.confusion):
        raise ValueError(
            f"the {len(scored)} readable predictions are not the {metrics.n} records of the metrics"
        )
    return scored.assign(right=scored["label"] == scored["predicted"])


def _figures(part: ClassMetrics) -> ClassFigures:
    measures = {"precision": part.precision, "recall": part.recall, "f1": part.f1}
    return ClassFigures(
        precision=part.precision.value,
        recall=part.recall.value,
        f1=part.f1.value,
        support=part.support,
        intervals={name: Bounds(measure.low, measure.high) for name, measure in measures.items()},
    )


def _confusions(metrics: Metrics) -> tuple[Confusion, ...]:
    pairs = [
        Confusion(
            true=metrics.classes[row],
            predicted=metrics.classes[column],
            n=int(count),
            share_of_true=float(count / metrics.confusion[row].sum()),
        )
        for (row, column), count in np.ndenumerate(metrics.confusion)
        if row != column and count
    ]
    return tuple(sorted(pairs, key=lambda pair: -pair.n))


def _sources(scored: pd.DataFrame, metrics: Metrics) -> tuple[SourceFigures, ...]:
    if "source" not in scored:
        return ()
    names = scored["source"].fillna("").astype(str)
    if names.nunique() < 2:
        return ()
    place = {name: i for i, name in enumerate(metrics.classes)}
    columns = [probability_column(name) for name in metrics.classes]
    slices = []
    for name, rows in scored.groupby(names):
        part = score(
            rows["label"].map(place).to_numpy(dtype=np.int64),
            rows[columns].to_numpy(dtype=np.float64),
            metrics.classes,
            rows["group"].astype(str).tolist(),
            metrics.replicates,
            metrics.seed,
        )
        support = part.confusion.sum(axis=1)
        slices.append(
            SourceFigures(
                source=str(name) or "not recorded",
                n=part.n,
                groups=part.groups,
                accuracy=part.accuracy,
                most_common=metrics.classes[int(support.argmax())],
                most_common_share=float(support.max() / part.n),
            )
        )
    return tuple(sorted(slices, key=lambda row: -row.n))


# ── further figures of the page ──────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class MatrixCell:
    """A cell of the confusion matrix, with its share of the true class."""

    n: int
    share: float
    right: bool


@dataclass(frozen=True)
class MatrixRow:
    """A row of the confusion matrix: a true class."""

    name: str
    total: int
    cells: tuple[MatrixCell, ...]


@dataclass(frozen=True)
class ConfidenceSide:
    """The right or the wrong answers by confidence.

    Attributes:
        n: number of answers.
        counts: answers in each of the equally wide bins from 0 to 1.
        shares: the same as shares of `n`.
        median: median confidence; None without answers.
    """

    n: int
    counts: list[int]
    shares: list[float]
    median: float | None


@dataclass(frozen=True)
class ConfidenceHistogram:
    """Confidence of the right and of the wrong answers; `top` is the largest share of both."""

    right: ConfidenceSide
    wrong: ConfidenceSide
    top: float


@dataclass(frozen=True)
class BlindGuess:
    """Accuracy of naming the most common class without a look at any image.

    Attributes:
        blind: when the class counts of the whole are known.
        by_source: when those of each source are known. Far above `blind`, it says that the source
            gives the class away.
    """

    blind: float
    by_source: float


@dataclass(frozen=True)
class Mistake:
    """A wrong answer."""

    file: str
    true: str
    predicted: str
    confidence: float
    true_probability: float


@dataclass(frozen=True)
class PageFigures:
    """What the page draws beyond the summary.

    Attributes:
        matrix: the confusion matrix with shares.
        histogram: confidence of the right and of the wrong answers.
        wrong: number of wrong answers.
        worst: the wrong answers given with the highest confidence, the surest first.
        guess: how far one gets without a look at any image.
    """

    matrix: tuple[MatrixRow, ...]
    histogram: ConfidenceHistogram
    wrong: int
    worst: tuple[Mistake, ...]
    guess: BlindGuess


def page_figures(summary: Summary, scored: pd.DataFrame) -> PageFigures:
    """Compute what the page draws beyond the summary.

    Args:
        summary: of the same records.
        scored: from `scored_rows`.
    """
    return PageFigures(
        matrix=_matrix(summary),
        histogram=_confidence_histogram(scored),
        wrong=int((~scored["right"]).sum()),
        worst=_worst_mistakes(scored),
        guess=_blind_guess(summary),
    )


def _matrix(summary: Summary) -> tuple[MatrixRow, ...]:
    return tuple(
        MatrixRow(
            name=name,
            total=sum(counts),
            cells=tuple(
                MatrixCell(n, n / max(sum(counts), 1), i == j) for j, n in enumerate(counts)
            ),
        )
        for i, (name, counts) in enumerate(zip(summary.classes, summary.confusion, strict=True))
    )


def _confidence_histogram(scored: pd.DataFrame) -> ConfidenceHistogram:
    right, wrong = (_confidences(scored[scored["right"] == side]) for side in (True, False))
    return ConfidenceHistogram(right, wrong, max(*right.shares, *wrong.shares))


def _confidences(rows: pd.DataFrame) -> ConfidenceSide:
    edges = np.linspace(0, 1, HISTOGRAM_BINS + 1)
    counts, _ = np.histogram(rows["confidence"].clip(0, 1), edges)
    return ConfidenceSide(
        n=len(rows),
        counts=counts.tolist(),
        shares=(counts / max(len(rows), 1)).tolist(),
        median=float(rows["confidence"].median()) if len(rows) else None,
    )


def _worst_mistakes(scored: pd.DataFrame) -> tuple[Mistake, ...]:
    # By file name where the confidence is the same, so that a report can be repeated.
    wrong = scored[~scored["right"]].sort_values(["confidence", "file"], ascending=[False, True])
    return tuple(
        Mistake(
            file=row["file"],
            true=row["label"],
            predicted=row["predicted"],
            confidence=row["confidence"],
            true_probability=row[probability_column(row["label"])],
        )
        for _, row in wrong.head(WORST_SHOWN).iterrows()
    )


def _blind_guess(summary: Summary) -> BlindGuess:
    by_source = sum(row.most_common_share * row.n for row in summary.sources)
    return BlindGuess(
        blind=max(sum(row) for row in summary.confusion) / summary.n,
        by_source=by_source / summary.n,
    )
