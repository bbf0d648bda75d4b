"""The replies over HTTP."""

from pydantic import BaseModel, ConfigDict, Field

from ctray.config import PreprocessSpec
from ctray.decision.prediction import Decision


class ModelName(BaseModel):
    """Which model answered."""

    name: str = Field(description="in the registry, or `unregistered`")
    version: str = Field(description="in the registry, or the first 12 digits of the digest")


class FilePrediction(BaseModel):
    """The answer for one image, or the `error` for which there is none."""

    file: str | None = Field(
        description="file name of the form part; null for a raw body or without a name"
    )
    predicted: str | None = Field(default=None, description="the most probable class")
    decision: Decision | None = Field(default=None, description="what to do with it")
    confidence: float | None = Field(default=None, description="probability of `predicted`, 0–1")
    probabilities: dict[str, float] | None = Field(
        default=None, description="of every class; sum 1"
    )
    error: str | None = Field(default=None, description="why this file has no answer")
    warnings: list[str] = Field(
        default=[], description="what was passed over or guessed when this file was read"
    )


class PredictReply(BaseModel):
    """Reply of POST /v1/predict."""

    model: ModelName
    predictions: list[FilePrediction] = Field(description="one a file, in the order sent")
    request_id: str = Field(description="also in the header x-request-id")


class Refusal(BaseModel):
    """A bundle that a deployment named and this replica could not load."""

    bundle: str
    reason: str


class ModelReply(BaseModel):
    """Reply of GET /v1/model."""

    model_config = ConfigDict(protected_namespaces=())

    name: str
    version: str
    digest: str = Field(description="64 hex digits that change with any byte of the bundle")
    backbone: str
    classes: list[str] = Field(description="in the order of the model's outputs")
    preprocess: PreprocessSpec
    metrics: dict[str, float] = Field(description="of the chosen checkpoint on validation data")
    fingerprint: str = Field(description="of the data it was trained from")
    synthetic: bool = Field(description="whether that data was drawn, not taken from patients")
    engine: str
    device: str
    refused: Refusal | None = Field(
        description="the latest bundle that could not be loaded; the one above serves on"
    )


class StatusReply(BaseModel):
    """Reply of GET /healthz and /readyz."""

    status: str


class Problem(BaseModel):
    """A refusal or a failure of the application.

    What Ray Serve and HAProxy refuse before it reaches the application is text.
    """

    detail: str = Field(description="one sentence")
    request_id: str
