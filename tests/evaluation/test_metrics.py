"""Point values against scikit-learn, and intervals against simulation."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score
from sklearn.metrics import precision_recall_fscore_support as sklearn_scores

from ctray.errors import UserError
from ctray.evaluation.metrics import ClassMetrics, Interval, Metrics, reliability, score, table

pytestmark = pytest.mark.fast

CLASSES = ("A", "B", "C", "D")


def one_hot(predicted: NDArray[np.integer], width: int) -> NDArray[np.float64]:
    """Probabilities whose argmax is ``predicted``."""
    return np.eye(width)[predicted] * 0.6 + 0.4 / width


def singletons(n: int) -> list[str]:
    return [f"p{i}" for i in range(n)]


def made_up(n: int, skill: float, seed: int, width: int = 4) -> tuple[NDArray, NDArray]:
    """Labels and predictions that agree with probability ``skill`` and otherwise at random."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, width, n)
    predicted = np.where(rng.random(n) < skill, labels, rng.integers(0, width, n))
    return labels, predicted


def intervals_of(metrics: Metrics) -> list[Interval]:
    parts: list[ClassMetrics] = [*metrics.per_class.values(), *metrics.averages.values()]
    return [metrics.accuracy, *(x for p in parts for x in (p.precision, p.recall, p.f1))]


def width_of(interval: Interval) -> float:
    return interval.high - interval.low


@pytest.mark.parametrize("seed", range(5))
def test_point_values_equal_scikit_learn(seed: int) -> None:
    labels, predicted = made_up(300, 0.6, seed)
    got = score(labels, one_hot(predicted, 4), CLASSES, singletons(300), replicates=20)

    wanted = sklearn_scores(labels, predicted, labels=range(4), zero_division=0)
    for i, name in enumerate(CLASSES):
        part = got.per_class[name]
        values = (part.precision.value, part.recall.value, part.f1.value, part.support)
        assert values == pytest.approx([column[i] for column in wanted])
    for name in ("macro", "weighted"):
        part = got.averages[name]
        wanted_average = sklearn_scores(labels, predicted, average=name, zero_division=0)[:3]
        assert (part.precision.value, part.recall.value, part.f1.value) == pytest.approx(
            wanted_average
        )
        assert part.support == 300
    assert got.accuracy.value == pytest.approx(accuracy_score(labels, predicted))
    assert (got.confusion == confusion_matrix(labels, predicted)).all()
    assert got.confusion.dtype == np.int64
    assert (got.n, got.groups) == (300, 300)


@pytest.mark.parametrize(
    ("labels", "predicted"),
    [
        ([0, 0, 1, 1], [0, 0, 1, 0]),  # C and D neither occur nor are predicted
        ([0, 0, 1, 1], [0, 2, 1, 0]),  # C is predicted and never true
        ([0, 0, 1, 3], [0, 0, 1, 1]),  # D is true and never predicted
    ],
)
def test_averages_follow_scikit_learn_where_a_class_is_missing(
    labels: list[int], predicted: list[int]
) -> None:
    probabilities = one_hot(np.array(predicted), 4)
    got = score(np.array(labels), probabilities, CLASSES, singletons(4), replicates=50)
    for name, f1 in (("macro", got.macro_f1), ("weighted", got.weighted_f1)):
        assert f1.value == pytest.approx(f1_score(labels, predicted, average=name))
        average = sklearn_scores(labels, predicted, average=name, zero_division=0)
        assert got.averages[name].precision.value == pytest.approx(average[0])
        assert got.averages[name].recall.value == pytest.approx(average[1])


def test_a_class_that_never_occurs_scores_zero_and_claims_nothing() -> None:
    labels, predicted = made_up(100, 0.8, 0, width=3)
    got = score(labels, one_hot(predicted, 4), CLASSES, singletons(100), replicates=100)
    absent = got.per_class["D"]
    assert absent.support == 0
    assert absent.precision == absent.recall == absent.f1 == Interval(0.0, 0.0, 1.0)


def test_replicates_without_a_class_do_not_count_as_its_failure() -> None:
    # D is predicted once, rightly; 37 % of replicates lack that record, and its precision with it.
    labels = np.array([0] * 60 + [3, 3])
    predicted = np.array([0] * 60 + [3, 0])
    got = score(labels, one_hot(predicted, 4), CLASSES, singletons(62), replicates=4000)
    precision = got.per_class["D"].precision
    assert precision.value == 1.0
    assert precision.low == pytest.approx(0.025)  # the exact bound; 0 if undefined counted as 0


def test_every_interval_holds_its_value_and_stays_in_range() -> None:
    for seed in range(10):
        labels, predicted = made_up(25, 0.5, seed)
        groups = [f"g{i // 3}" for i in range(25)]
        got = score(labels, one_hot(predicted, 4), CLASSES, groups, replicates=200, seed=seed)
        for interval in intervals_of(got):
            assert 0 <= interval.low <= interval.value <= interval.high <= 1


def test_interval_is_wider_when_a_group_stands_or_falls_together() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(rng.integers(0, 4, 40), 10)
    right = np.repeat(rng.random(40) < 0.8, 10)  # all ten records of a group share one fate
    probabilities = one_hot(np.where(right, labels, (labels + 1) % 4), 4)
    together = [f"g{i // 10}" for i in range(400)]

    alone = score(labels, probabilities, CLASSES, singletons(400))
    grouped = score(labels, probabilities, CLASSES, together)
    assert grouped.accuracy.value == alone.accuracy.value
    # Ten alike records a group: the standard error grows by the root of ten, about 3.2.
    assert 2.6 < width_of(grouped.accuracy) / width_of(alone.accuracy) < 3.8
    assert width_of(grouped.macro_f1) > 2 * width_of(alone.macro_f1)
    assert grouped.groups == 40


def test_accuracy_interval_of_singletons_is_the_binomial_one() -> None:
    labels = np.zeros(400, dtype=int)
    predicted = np.r_[np.zeros(320, dtype=int), np.ones(80, dtype=int)]
    got = score(labels, one_hot(predicted, 2), ("A", "B"), singletons(400), replicates=4000)
    error = 1.96 * np.sqrt(0.8 * 0.2 / 400)
    assert got.accuracy.low == pytest.approx(0.8 - error, abs=0.006)
    assert got.accuracy.high == pytest.approx(0.8 + error, abs=0.006)


def test_a_perfect_score_is_not_called_certain() -> None:
    labels = np.arange(40) % 2
    got = score(labels, one_hot(labels, 2), ("A", "B"), singletons(40), replicates=100)
    assert got.accuracy == Interval(1.0, pytest.approx(0.025 ** (1 / 40)), 1.0)
    assert got.per_class["A"].recall == Interval(1.0, pytest.approx(0.025 ** (1 / 20)), 1.0)
    assert got.macro_f1.low == pytest.approx(0.025 ** (1 / 20))


def test_one_group_says_nothing_about_others() -> None:
    labels, predicted = made_up(50, 0.6, 1)
    got = score(labels, one_hot(predicted, 4), CLASSES, ["same"] * 50, replicates=100)
    assert 0 < got.accuracy.value < 1
    assert (got.accuracy.low, got.accuracy.high) == (0.0, 1.0)


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    # Groups of one to four records share a skill drawn once a group, so records are correlated.
    truth, sets = 0.8, 200
    rng = np.random.default_rng(7)
    covered = 0
    for seed in range(sets):
        sizes = rng.integers(1, 5, 80)
        groups = np.repeat(np.arange(80), sizes)
        skill = rng.beta(4, 1, 80)[groups]  # mean 0.8
        labels = rng.integers(0, 3, len(groups))
        predicted = np.where(rng.random(len(groups)) < skill, labels, (labels + 1) % 3)
        names = [str(g) for g in groups]
        got = score(labels, one_hot(predicted, 3), CLASSES[:3], names, replicates=400, seed=seed)
        covered += got.accuracy.low <= truth <= got.accuracy.high
    assert 0.88 <= covered / sets <= 0.99


def test_same_seed_same_intervals_whatever_the_order_of_the_records() -> None:
    labels, predicted = made_up(200, 0.7, 3)
    groups = np.array([f"g{i // 4}" for i in range(200)])
    order = np.random.default_rng(0).permutation(200)
    first = score(labels, one_hot(predicted, 4), CLASSES, groups, replicates=100)
    second = score(
        labels[order], one_hot(predicted[order], 4), CLASSES, groups[order], replicates=100
    )
    other = score(labels, one_hot(predicted, 4), CLASSES, groups, replicates=100, seed=1)
    assert intervals_of(first) == intervals_of(second)
    assert intervals_of(first) != intervals_of(other)


def test_small_integer_labels_of_many_classes_do_not_overflow() -> None:
    labels = np.arange(100, dtype=np.int8)
    got = score(labels, np.eye(100), [f"c{i}" for i in range(100)], singletons(100), replicates=10)
    assert got.accuracy.value == 1.0
    assert np.trace(got.confusion) == 100


def test_no_records_is_the_users_to_mend() -> None:
    with pytest.raises(UserError, match="no records"):
        score(np.zeros(0, dtype=int), np.zeros((0, 4)), CLASSES, [])


@pytest.mark.parametrize(
    ("labels", "probabilities", "groups", "words"),
    [
        ([0, 1], np.ones((2, 4)), ["a"], "groups"),
        ([0, 1], np.ones((3, 4)), ["a", "b"], "probabilities"),
        ([0, 1], np.ones((2, 3)), ["a", "b"], "probabilities"),
        ([0, 4], np.ones((2, 4)), ["a", "b"], "between 0 and 3"),
        ([0, -1], np.ones((2, 4)), ["a", "b"], "between 0 and 3"),
        ([0.0, 1.0], np.ones((2, 4)), ["a", "b"], "integers"),
        ([0, 1], np.full((2, 4), np.nan), ["a", "b"], "finite"),
    ],
)
def test_input_that_does_not_fit_is_refused(
    labels: list, probabilities: NDArray, groups: list[str], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        score(np.array(labels), probabilities, CLASSES, groups, replicates=10)


def test_reliability_weighs_bins_by_their_records() -> None:
    confidence = np.array([0.95] * 8 + [0.55] * 2)
    correct = np.array([True] * 6 + [False] * 2 + [True, False])
    got = reliability(confidence, correct, bins=10)
    assert got.ece == pytest.approx(0.8 * abs(0.95 - 0.75) + 0.2 * abs(0.55 - 0.5))
    assert [b.n for b in got.bins] == [0, 0, 0, 0, 0, 2, 0, 0, 0, 8]
    assert got.bins[9].accuracy == pytest.approx(0.75)
    assert reliability(np.array([1.0, 0.0]), np.array([True, False])).ece == 0.0
    assert (
        reliability(np.array([np.nextafter(np.float32(1), np.float32(2))]), np.array([True])).ece
        == 0
    )
    with pytest.raises(ValueError, match="outside"):
        reliability(np.array([1.2]), np.array([True]))


def test_table_shows_each_class_and_average_with_its_interval() -> None:
    labels, predicted = made_up(200, 0.7, 5)
    got = score(labels, one_hot(predicted, 4), CLASSES, singletons(200), replicates=200)
    lines = [line for line in table(got).splitlines() if line]
    assert lines[0].split() == ["precision", "recall", "f1-score", "95", "%", "interval", "support"]
    first = next(line for line in lines if line.split()[0] == "A").split()
    part = got.per_class["A"]
    assert first[1:4] == [f"{x.value:.3f}" for x in (part.precision, part.recall, part.f1)]
    assert first[4:] == [f"{part.f1.low:.3f}-{part.f1.high:.3f}", str(part.support)]
    accuracy = next(line for line in lines if "accuracy" in line).split()
    low, high = got.accuracy.low, got.accuracy.high
    assert accuracy[1:] == [f"{got.accuracy.value:.3f}", f"{low:.3f}-{high:.3f}", "200"]
    assert [line.split()[0] for line in lines[-2:]] == ["macro", "weighted"]
    assert len({len(line) for line in lines}) == 1
