"""The HTTP routes over a model host; nothing here knows about Ray."""

import asyncio
import logging
import re
import uuid
from typing import Any, Protocol

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import ctray
from ctray.data.image.picture import ImageError
from ctray.engine.predictor import Prediction, Predictor
from serve.body import FORM_FIELD, FORM_TYPE, IMAGE_TYPES, MAX_BODY_BYTES, SentFile, read_files
from serve.schema import (
    FilePrediction,
    ModelName,
    ModelReply,
    PredictReply,
    Problem,
    Refusal,
    StatusReply,
)

_REQUEST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_HEADER = "x-request-id"

logger = logging.getLogger("ray.serve")


class ModelHost(Protocol):
    """What the routes need from the process they run in.

    Attributes:
        predictor: the loaded and warm model; None before the first one.
        refused: the latest bundle that could not be loaded since.
        body_timeout_s: seconds a request body may take.
    """

    predictor: Predictor | None
    refused: Refusal | None
    body_timeout_s: float

    async def predict_one(self, predictor: Predictor, data: bytes) -> Prediction:
        """Decode and predict off the event loop; ImageError if the bytes are not an image."""
        ...


def build_api(host: ModelHost) -> FastAPI:
    """The routes, over the model that `host` has at the time of each request."""
    api = FastAPIOffline(
        title="ctray",
        version=ctray.__version__,
        description="Classifies chest images. Not a medical device.",
        redoc_url=None,
    )
    api.add_middleware(_RequestIds)
    api.add_exception_handler(StarletteHTTPException, _answer_problem)
    api.add_exception_handler(Exception, _answer_failure)

    @api.post(
        "/v1/predict",
        summary="Classify one image, or several in a form",
        responses=_problems(
            {
                400: "no body, a broken form, or a form without a file",
                408: "the body took too long",
                413: f"more than {MAX_BODY_BYTES // 2**20} MiB, or too many files",
                415: "neither an image nor a form",
                422: "none of the files is a readable image",
                429: "busy: repeat after the seconds in Retry-After",
                503: "no model is loaded yet",
            }
        ),
        openapi_extra={"requestBody": _REQUEST_BODY},
    )
    async def predict(request: Request) -> PredictReply:
        # Held for the whole request: a new bundle may replace it meanwhile.
        predictor = _loaded(host)
        files = await read_files(request, host.body_timeout_s)
        predictions = await asyncio.gather(*(_predict_file(host, predictor, f) for f in files))
        _refuse_if_none_readable(predictions)
        return PredictReply(
            model=ModelName(name=predictor.bundle.name, version=predictor.bundle.version),
            predictions=predictions,
            request_id=request.state.request_id,
        )

    @api.get("/healthz", summary="The process is alive")
    async def healthz() -> StatusReply:
        return StatusReply(status="alive")

    @api.get(
        "/readyz",
        summary="A model is loaded and warm",
        responses=_problems({503: "no model is loaded yet"}),
    )
    async def readyz() -> StatusReply:
        _loaded(host)
        return StatusReply(status="ready")

    @api.get(
        "/v1/model",
        summary="What is being served",
        responses=_problems({503: "no model is loaded yet"}),
    )
    async def model() -> ModelReply:
        return _describe(_loaded(host), host.refused)

    return api


def _loaded(host: ModelHost) -> Predictor:
    if host.predictor is None:
        raise HTTPException(503, "no model is loaded yet")
    return host.predictor


async def _predict_file(host: ModelHost, predictor: Predictor, sent: SentFile) -> FilePrediction:
    try:
        prediction = await host.predict_one(predictor, sent.data)
    except ImageError as error:
        return FilePrediction(file=sent.name, error=str(error))
    return FilePrediction(
        file=sent.name,
        predicted=prediction.predicted,
        decision=prediction.decision,
        confidence=prediction.confidence,
        probabilities=prediction.probabilities,
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


class _RequestIds:
    """Keeps the client's request id if it is a short plain token, otherwise makes one."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        sent = dict(scope["headers"]).get(_HEADER.encode(), b"").decode("latin-1")
        kept = _REQUEST_ID.fullmatch(sent) is not None
        request_id = sent if kept else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id

        async def send_with_id(message: Message) -> None:
            # Ray Serve puts an id on requests without one, and repeats it in the reply.
            if message["type"] == "http.response.start" and not kept:
                message["headers"] = [(_HEADER.encode(), request_id.encode()), *message["headers"]]
            await send(message)

        await self._app(scope, receive, send_with_id)


async def _answer_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, StarletteHTTPException)
    detail = str(error.detail)
    if error.status_code in (404, 405):
        detail = f"there is no {request.method} {request.url.path}; see /docs"
    problem = Problem(detail=detail, request_id=request.state.request_id)
    return JSONResponse(problem.model_dump(), error.status_code, headers=error.headers)


async def _answer_failure(request: Request, error: Exception) -> Response:
    request_id = request.state.request_id
    logger.error("request %s failed", request_id, exc_info=error)
    problem = Problem(detail="the service failed on this request", request_id=request_id)
    return JSONResponse(problem.model_dump(), 500)


def _problems(statuses: dict[int, str]) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": Problem, "description": text} for status, text in statuses.items()}


_BINARY = {"schema": {"type": "string", "format": "binary"}}
_REQUEST_BODY = {
    "required": True,
    "content": {
        **{kind: _BINARY for kind in IMAGE_TYPES},
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
