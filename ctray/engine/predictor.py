"""Bytes to predictions: the one path of `ctray predict`, `ctray evaluate` and the service."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from ctray.artefact.bundle import Bundle
from ctray.data.image.dispatch import decode_picture
from ctray.data.image.preprocess import to_input
from ctray.decision.decide import DecisionParams, decide
from ctray.decision.prediction import Prediction
from ctray.engine.base import Engine, EngineName
from ctray.engine.loading import load_engine


@dataclass(frozen=True, eq=False)
class ModelInput:
    """One image as the engine takes it.

    Attributes:
        pixels: uint8 (image_size, image_size).
        warnings: what was passed over or guessed when it was read, as sentences.
    """

    pixels: np.ndarray
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Answer:
    """The prediction for one image, with the warnings of its `ModelInput`."""

    prediction: Prediction
    warnings: tuple[str, ...]


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

    def read(self, data: bytes, name: str | None = None) -> ModelInput:
        """Encoded bytes of one picture to engine input.

        Args:
            data: the file.
            name: its name or path; a suffix that belongs to another format is a warning.

        Raises:
            ImageError: they are not an image, or one of several pages or frames.
        """
        picture = decode_picture(data, name)
        return ModelInput(to_input(picture.pixels, self.bundle.info.preprocess), picture.warnings)

    def answer(self, data: bytes, name: str | None = None) -> Answer:
        """Read and predict one image; ImageError as from `read`."""
        image = self.read(data, name)
        return Answer(self.predict([image.pixels])[0], image.warnings)

    def predict(self, inputs: Sequence[np.ndarray]) -> list[Prediction]:
        """Predict a batch of pixels that `read` returned."""
        if not inputs:
            return []
        logits = self.engine.logits(np.stack(inputs))
        return decide(self._decision, logits, None, self.bundle.info.classes)
