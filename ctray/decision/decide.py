"""The parts of a decision, one after the other."""

from collections.abc import Sequence

import numpy as np

from ctray.config import Strict
from ctray.decision import softmax
from ctray.decision.prediction import Prediction
from ctray.decision.softmax import SoftmaxParams


class DecisionParams(Strict):
    """What the parts fitted: a field a part. As it is made, nothing was fitted."""

    softmax: SoftmaxParams = SoftmaxParams()


def fit(logits: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> DecisionParams:
    """Fit every part on the validation split.

    Args:
        logits: float32 (N, classes).
        labels: int64 (N,), class indices.
        groups: (N,), equal for records of one group.
    """
    return DecisionParams(softmax=softmax.fit(logits, labels, groups))


def decide(
    params: DecisionParams,
    logits: np.ndarray,
    features: np.ndarray | None,
    classes: Sequence[str],
) -> list[Prediction]:
    """Turn logits into predictions, one a row.

    Args:
        params: of all parts.
        logits: float32 (N, classes).
        features: float32 (N, D), the model's last features; None where the engine gives none.
        classes: names, in the order of the logits.
    """
    probabilities = softmax.apply(params.softmax, logits, features)
    return [_answer(row, classes) for row in probabilities]


def _answer(probabilities: np.ndarray, classes: Sequence[str]) -> Prediction:
    """The most probable class of one row of probabilities, float64 (classes,)."""
    best = int(probabilities.argmax())
    return Prediction(
        predicted=classes[best],
        decision="answer",
        confidence=float(probabilities[best]),
        probabilities={
            name: float(value) for name, value in zip(classes, probabilities, strict=True)
        },
    )
