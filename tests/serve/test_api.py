"""The HTTP application without Ray: guards, limits, and what its description says."""

import contextlib
import re
from collections.abc import Awaitable, Callable, Iterator

import pytest
from fastapi import HTTPException, Request
from fastapi.testclient import TestClient
from serve_kit import png

from ctray.decision.prediction import Prediction
from ctray.engine.predictor import Predictor
from serve.api import build_api
from serve.schema import Refusal
from serve.settings import AppSettings

pytestmark = pytest.mark.fast

PNG = {"content-type": "image/png"}


class Host:
    """A process that has loaded no model."""

    predictor: Predictor | None = None
    refused: Refusal | None = None

    def __init__(self, settings: AppSettings) -> None:
        self.settings = settings

    async def predict_one(self, predictor: Predictor, data: bytes) -> Prediction:
        """Never asked without a model."""
        raise AssertionError


@contextlib.contextmanager
def client(settings: AppSettings | None = None) -> Iterator[TestClient]:
    """Of the application over such a process."""
    with TestClient(build_api(Host(settings or AppSettings()))) as made:
        yield made


def refuse_all(_: AppSettings) -> Callable[[Request], Awaitable[None]]:
    """A guard that lets nobody in."""

    async def guard(request: Request) -> None:
        raise HTTPException(401, f"no entry to {request.url.path}")

    return guard


def test_before_a_model_is_loaded_it_lives_and_is_not_ready() -> None:
    with client() as http:
        assert http.get("/healthz").status_code == 200
        for reply in (
            http.get("/readyz"),
            http.get("/v1/model"),
            http.post("/v1/predict", content=png(1), headers=PNG),
        ):
            assert reply.status_code == 503
            assert reply.json()["detail"] == "no model is loaded yet"


def test_a_guard_stands_before_every_protocol_and_before_no_probe(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("serve.api.GUARDS", (refuse_all,))
    with client() as http:
        refused = http.post("/v1/predict", content=png(1), headers=PNG)
        assert refused.status_code == 401
        assert refused.json()["detail"] == "no entry to /v1/predict"
        assert refused.json()["request_id"] == refused.headers["x-request-id"]
        assert http.get("/v1/model").status_code == 401
        assert http.get("/healthz").status_code == 200
        assert http.get("/readyz").status_code == 503


def test_limits_are_those_of_the_settings() -> None:
    with client(AppSettings(max_body_bytes=3 * 2**19, max_files=2)) as http:
        reply = http.post("/v1/predict", content=bytes(3 * 2**19 + 1), headers=PNG)
        assert reply.status_code == 413
        assert reply.json()["detail"] == "the request body is larger than the limit of 1.5 MiB"
        assert reply.headers["connection"] == "close"
        responses = http.get("/openapi.json").json()["paths"]["/v1/predict"]["post"]["responses"]
        assert responses["413"]["description"] == "more than 1.5 MiB, or more than 2 files"


def test_the_description_says_which_refusals_are_text() -> None:
    with client() as http:
        document = http.get("/openapi.json").json()
    responses = document["paths"]["/v1/predict"]["post"]["responses"]
    assert list(responses.pop("429")["content"]) == ["text/plain"]
    refusals = [reply for status, reply in responses.items() if status != "200"]
    assert refusals
    for reply in refusals:
        assert re.search("Problem$", reply["content"]["application/json"]["schema"]["$ref"])
    assert "as text: 429" in document["info"]["description"]
