"""Logits become probabilities and an answer, the same for one row as for many."""

import numpy as np
import pytest
from scipy.special import softmax as reference

from ctray.decision import decide as parts
from ctray.decision import softmax
from ctray.decision.decide import DecisionParams, decide
from ctray.decision.softmax import SoftmaxParams

pytestmark = pytest.mark.fast

CLASSES = ("a", "b", "c")


@pytest.fixture
def logits() -> np.ndarray:
    return np.random.default_rng(0).normal(0, 5, (40, 3)).astype(np.float32)


def test_the_answer_is_the_most_probable_class(logits: np.ndarray) -> None:
    predictions = decide(DecisionParams(), logits, None, CLASSES)
    expected = reference(logits.astype(np.float64), axis=1)
    for row, prediction in zip(expected, predictions, strict=True):
        assert prediction.predicted == CLASSES[int(row.argmax())]
        assert prediction.decision == "answer"
        assert prediction.confidence == prediction.probabilities[prediction.predicted]
        assert tuple(prediction.probabilities) == CLASSES
        assert list(prediction.probabilities.values()) == pytest.approx(row.tolist(), rel=1e-12)
        assert sum(prediction.probabilities.values()) == pytest.approx(1, abs=1e-12)


def test_the_first_of_equals_is_the_answer() -> None:
    (prediction,) = decide(DecisionParams(), np.zeros((1, 3), np.float32), None, CLASSES)
    assert prediction.predicted == "a"
    assert prediction.confidence == pytest.approx(1 / 3)


def test_a_row_alone_is_decided_as_among_others(logits: np.ndarray) -> None:
    together = decide(DecisionParams(), logits, None, CLASSES)
    alone = [decide(DecisionParams(), logits[i : i + 1], None, CLASSES)[0] for i in range(40)]
    assert alone == together


def test_large_logits_do_not_overflow() -> None:
    probabilities = softmax.apply(
        softmax.SoftmaxParams(), np.array([[1e4, -1e4, 1e4]], np.float32), None
    )
    assert probabilities.tolist() == [[0.5, 0.0, 0.5]]
    assert probabilities.dtype == np.float64


def test_the_parameters_come_back_from_json(logits: np.ndarray) -> None:
    fitted = softmax.fit(logits, np.zeros(40, np.int64), np.arange(40))
    params = DecisionParams(softmax=fitted)
    assert DecisionParams.model_validate_json(params.model_dump_json()) == params


def test_every_part_is_fitted_on_the_same_split(
    logits: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels, groups = np.zeros(40, np.int64), np.arange(40)
    given: list[tuple[np.ndarray, ...]] = []
    fitted = SoftmaxParams()

    def fit(*arguments: np.ndarray) -> SoftmaxParams:
        given.append(arguments)
        return fitted

    monkeypatch.setattr(softmax, "fit", fit)
    params = parts.fit(logits, labels, groups)
    assert params.softmax is fitted
    ((first, second, third),) = given
    assert first is logits
    assert second is labels
    assert third is groups
