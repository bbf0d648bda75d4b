"""Logits to probabilities as they are: the part that calibration will stand in for."""

# The arguments are the same for every part, and this one needs few of them.
# ruff: noqa: ARG001

import numpy as np

from ctray.config import Strict


class SoftmaxParams(Strict):
    """Nothing: softmax has nothing to fit."""


def fit(logits: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> SoftmaxParams:
    """The parameters; the same whatever the validation split says.

    Args:
        logits: float32 (N, classes).
        labels: int64 (N,), class indices.
        groups: (N,), equal for records of one group.
    """
    return SoftmaxParams()


def apply(params: SoftmaxParams, logits: np.ndarray, features: np.ndarray | None) -> np.ndarray:
    """Probabilities, float64 (N, classes), of logits (N, classes); each row adds up to 1."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)
