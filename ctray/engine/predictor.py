"""Bytes to predictions: the one path of `ctray predict`, `ctray evaluate` and the service."""

from collections.abc import Sequence
from typing import Self

import numpy as np

from ctray.artefact.bundle import Bundle
from ctray.data.image.dispatch import decode_image
from ctray.data.image.preprocess import to_input
from ctray.decision.decide import DecisionParams, decide
from ctray.decision.prediction import Prediction
from ctray.engine.base import Engine, EngineName
from ctray.engine.loading import load_engine


class Predictor:
    """A bundle on an engine; safe from several threads."""

    def __init__(self, bundle: Bundle, engine: Engine) -> None:
        self.bundle = bundle
        self.engine = engine
        self._decision = bundle.decision or DecisionParams()

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
        logits = self.engine.logits(np.stack(inputs))
        return decide(self._decision, logits, None, self.bundle.info.classes)
