"""Bytes to predictions: the one path of `ctray predict`, `ctray evaluate` and the service."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np

from ctray.artefact.bundle import Bundle
from ctray.data.image.dispatch import decode_image
from ctray.data.image.preprocess import to_input
from ctray.engine.base import Engine, EngineName, load_engine

Decision = Literal["answer", "abstain", "not_chest_image"]


@dataclass(frozen=True)
class Prediction:
    """What the model says about one image.

    Attributes:
        predicted: the most probable class.
        decision: `answer`.
        confidence: its probability, 0–1.
        probabilities: of every class, in the bundle's order; they add up to 1.
    """

    predicted: str
    decision: Decision
    confidence: float
    probabilities: dict[str, float]


class Predictor:
    """A bundle on an engine; safe from several threads."""

    def __init__(self, bundle: Bundle, engine: Engine) -> None:
        self.bundle = bundle
        self.engine = engine

    @classmethod
    def load(
        cls, uri: str, engine: EngineName = "auto", threads: int | None = None, streams: int = 1
    ) -> Self:
        """Load a bundle from a path or URI and warm its engine up."""
        bundle = Bundle.load(uri)
        return cls(bundle, load_engine(bundle, engine, threads, streams))

    def read(self, data: bytes) -> np.ndarray:
        """Encoded bytes to engine input, uint8 (image_size, image_size), or ImageError."""
        return to_input(decode_image(data), self.bundle.info.preprocess)

    def predict(self, inputs: Sequence[np.ndarray]) -> list[Prediction]:
        """Predict a batch of what `read` returned."""
        if not inputs:
            return []
        return [self.decide(row) for row in softmax(self.engine.logits(np.stack(inputs)))]

    def decide(self, probabilities: np.ndarray) -> Prediction:
        """Turn one row of probabilities (float, (classes,)) into a prediction."""
        classes = self.bundle.info.classes
        best = int(probabilities.argmax())
        return Prediction(
            predicted=classes[best],
            decision="answer",
            confidence=float(probabilities[best]),
            probabilities={
                name: float(value) for name, value in zip(classes, probabilities, strict=True)
            },
        )


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities of logits (N, classes), in float64."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)
