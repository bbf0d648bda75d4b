"""What routes need from the process that they run in; nothing here knows about Ray."""

from typing import Protocol

from fastapi import HTTPException

from ctray.engine.predictor import Answer, Predictor
from serve.schema import Refusal
from serve.settings import AppSettings


class ModelHost(Protocol):
    """A process with a model in memory.

    Attributes:
        settings: of the service.
        predictor: the loaded and warm model; None before the first one.
        refused: the latest bundle that could not be loaded since.
    """

    settings: AppSettings
    predictor: Predictor | None
    refused: Refusal | None

    async def predict_one(self, predictor: Predictor, data: bytes, name: str | None) -> Answer:
        """Decode and predict off the event loop; ImageError if the bytes are not an image."""
        ...


def loaded(host: ModelHost) -> Predictor:
    """The model of this moment. A request keeps it to its end: a new one may replace it meanwhile.

    Raises:
        HTTPException: 503 no model is loaded yet.
    """
    if host.predictor is None:
        raise HTTPException(503, "no model is loaded yet")
    return host.predictor
