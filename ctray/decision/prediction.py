"""What the model says about one image."""

from dataclasses import dataclass
from typing import Literal

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
