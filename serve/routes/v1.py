"""ctray's own protocol: an image, or several in a form, and what the model says about each."""

import asyncio
from email.message import Message
from typing import Any

from fastapi import APIRouter, HTTPException, Request

from ctray.data.image.picture import ImageError
from ctray.engine.predictor import Predictor
from serve.guards.body import SentFile, form_files, read_body
from serve.host import ModelHost, loaded
from serve.problems import BUSY, problems
from serve.schema import FilePrediction, ModelName, ModelReply, PredictReply, Refusal
from serve.settings import AppSettings

# What a raw body may be declared as, beside every `image/…` and nothing at all. Its bytes decide
# what it is; the declared type only tells what was sent here by mistake.
RAW_TYPES = (
    "application/octet-stream",
    "binary/octet-stream",
    "application/dicom",
    "application/x-dicom",
)
FORM_TYPE = "multipart/form-data"
FORM_FIELD = "file"


def router(host: ModelHost) -> APIRouter:
    """POST /v1/predict and GET /v1/model."""
    routes = APIRouter(prefix="/v1")

    @routes.post(
        "/predict",
        summary="Classify one image, or several in a form",
        responses=_predict_responses(host.settings),
        openapi_extra={"requestBody": _REQUEST_BODY},
    )
    async def predict(request: Request) -> PredictReply:
        predictor = loaded(host)
        files = await _read_files(request, host.settings)
        predictions = await asyncio.gather(*(_predict_file(host, predictor, f) for f in files))
        _refuse_if_none_readable(predictions)
        return PredictReply(
            model=ModelName(name=predictor.bundle.name, version=predictor.bundle.version),
            predictions=predictions,
            request_id=request.state.request_id,
        )

    @routes.get(
        "/model",
        summary="What is being served",
        responses=problems({503: "no model is loaded yet"}),
    )
    async def model() -> ModelReply:
        return _describe(loaded(host), host.refused)

    return routes


async def _read_files(request: Request, settings: AppSettings) -> list[SentFile]:
    """The images of a request, at least one, not decoded."""
    is_form = _is_form(request)
    body = await read_body(request, settings)
    if not body:
        raise HTTPException(400, "the request has no body; send an image")
    if is_form:
        return await form_files(request, body, FORM_FIELD, settings)
    return [SentFile(None, body)]


def _is_form(request: Request) -> bool:
    """Whether the body is a form, by its declared type; otherwise it is an image.

    Raises:
        HTTPException: 415 it is declared as neither.
    """
    header = request.headers.get("content-type", "").strip()
    if not header:
        return False
    message = Message()
    message["content-type"] = header
    kind = message.get_content_type()
    if kind.startswith("image/") or kind in (*RAW_TYPES, FORM_TYPE):
        return kind == FORM_TYPE
    raise HTTPException(
        415,
        f"content type {header!r} is not accepted; send image/png, another image type, "
        f"{', '.join(RAW_TYPES)} or none with one image as the body, or {FORM_TYPE} with the "
        f"images in {FORM_FIELD!r}",
    )


async def _predict_file(host: ModelHost, predictor: Predictor, sent: SentFile) -> FilePrediction:
    try:
        answer = await host.predict_one(predictor, sent.data, sent.name)
    except ImageError as error:
        return FilePrediction(file=sent.name, error=str(error))
    prediction = answer.prediction
    return FilePrediction(
        file=sent.name,
        predicted=prediction.predicted,
        decision=prediction.decision,
        confidence=prediction.confidence,
        probabilities=prediction.probabilities,
        warnings=list(answer.warnings),
    )


def _refuse_if_none_readable(predictions: list[FilePrediction]) -> None:
    first = predictions[0]
    if any(prediction.error is None for prediction in predictions):
        return
    if len(predictions) == 1:
        raise HTTPException(422, first.error)
    raise HTTPException(
        422, f"none of the {len(predictions)} files is readable; {first.file!r}: {first.error}"
    )


def _describe(predictor: Predictor, refused: Refusal | None) -> ModelReply:
    bundle = predictor.bundle
    return ModelReply(
        name=bundle.name,
        version=bundle.version,
        digest=bundle.digest,
        backbone=bundle.info.backbone,
        classes=list(bundle.info.classes),
        preprocess=bundle.info.preprocess,
        metrics=bundle.info.metrics,
        fingerprint=bundle.info.fingerprint,
        synthetic=bundle.info.synthetic,
        engine=predictor.engine.name,
        device=predictor.engine.device,
        refused=refused,
    )


def _predict_responses(settings: AppSettings) -> dict[int | str, dict[str, Any]]:
    limit = f"{settings.max_body_bytes / 2**20:g} MiB"
    refusals = {
        400: "no body, a broken form, or a form without a file",
        408: f"the body took longer than {settings.body_timeout_s:g} s",
        413: f"more than {limit}, or more than {settings.max_files} files",
        415: "neither an image nor a form",
        422: "none of the files is a readable image",
        503: "no model is loaded yet",
    }
    return problems(refusals) | BUSY


_BINARY = {"schema": {"type": "string", "format": "binary"}}
_REQUEST_BODY = {
    "required": True,
    "content": {
        **{kind: _BINARY for kind in ("image/*", *RAW_TYPES)},
        FORM_TYPE: {
            "schema": {
                "type": "object",
                "required": [FORM_FIELD],
                "properties": {
                    FORM_FIELD: {
                        "type": "array",
                        "items": {"type": "string", "format": "binary"},
                    }
                },
            }
        },
    },
}
