"""The HTTP application without Ray: guards, limits, what it accepts, what its description says."""

import contextlib
import re
from collections.abc import Awaitable, Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import HTTPException, Request
from fastapi.testclient import TestClient
from serve_kit import dicom, png

from ctray.data.image.dispatch import decode_picture
from ctray.decision.prediction import Prediction
from ctray.engine.predictor import Answer, Predictor
from serve.api import build_api
from serve.schema import Refusal
from serve.settings import AppSettings

pytestmark = pytest.mark.fast

PNG = {"content-type": "image/png"}
FORM = {"content-type": "multipart/form-data; boundary=b"}


class Host:
    """A process that has loaded no model."""

    predictor: Predictor | None = None
    refused: Refusal | None = None

    def __init__(self, settings: AppSettings) -> None:
        self.settings = settings

    async def predict_one(self, predictor: Predictor, data: bytes, name: str | None) -> Answer:
        """Never asked without a model."""
        raise AssertionError


class AnsweringHost(Host):
    """A process whose model gives every image one answer, and says what it was told of it."""

    predictor: Any = SimpleNamespace(bundle=SimpleNamespace(name="fixed", version="1"))

    async def predict_one(self, predictor: Predictor, data: bytes, name: str | None) -> Answer:
        """The format and the name come back as warnings."""
        return Answer(
            Prediction("a", "answer", 1.0, {"a": 1.0}),
            (f"{decode_picture(data).format} called {name}",),
        )


@contextlib.contextmanager
def client(settings: AppSettings | None = None, kind: type[Host] = Host) -> Iterator[TestClient]:
    """Of the application over such a process; it follows no redirect."""
    api = build_api(kind(settings or AppSettings()))
    with TestClient(api, follow_redirects=False) as made:
        yield made


@pytest.fixture
def answering() -> Iterator[TestClient]:
    """A client of a process with a model."""
    with client(kind=AnsweringHost) as made:
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


@pytest.mark.parametrize(
    "kind",
    [
        "image/png",
        "image/tiff",
        "image/x-anything; q=1",
        "application/dicom",
        "application/x-dicom",
        "application/octet-stream",
        "binary/octet-stream",
        "Binary/Octet-Stream",
        "",
        None,
    ],
)
def test_the_bytes_decide_what_a_raw_body_is(answering: TestClient, kind: str | None) -> None:
    headers = {} if kind is None else {"content-type": kind}
    for data, format_ in ((png(1), "PNG"), (dicom(1), "DICOM")):
        reply = answering.post("/v1/predict", content=data, headers=headers)
        assert reply.status_code == 200, reply.text
        [prediction] = reply.json()["predictions"]
        assert (prediction["file"], prediction["error"]) == (None, None)
        assert prediction["warnings"] == [f"{format_} called None"]


@pytest.mark.parametrize(
    "kind", ["application/json", "text/plain", "application/x-www-form-urlencoded", "nonsense"]
)
def test_what_is_declared_as_no_image_is_415(answering: TestClient, kind: str) -> None:
    reply = answering.post("/v1/predict", content=png(1), headers={"content-type": kind})
    assert reply.status_code == 415
    assert f"content type {kind!r} is not accepted; send image/png" in reply.json()["detail"]


def test_a_file_that_is_not_answered_has_no_warnings(answering: TestClient) -> None:
    files = [("file", ("a.png", png(1))), ("file", ("b.png", b"a text"))]
    first, second = answering.post("/v1/predict", files=files).json()["predictions"]
    assert first["warnings"] == ["PNG called a.png"]
    assert first.keys() == second.keys()
    assert "not an image" in second["error"]
    assert second["warnings"] == []


@pytest.mark.parametrize(
    ("parameters", "name"),
    [
        ("filename*=utf-8''r%C3%B6ntgen.png", "röntgen.png"),
        ("filename=\"rontgen.png\"; filename*=UTF-8'de'r%C3%B6ntgen.png", "röntgen.png"),
        ("filename*=UTF-8''r%C3%B6ntgen.png; filename=\"rontgen.png\"", "röntgen.png"),
        ("FileName*=\"iso-8859-1''r%F6ntgen.png\"", "röntgen.png"),
        ("filename*=UTF-8''a%3B%20%22b%22.png", 'a; "b".png'),
        ("filename*=us-ascii''a%20b.png", "a b.png"),
        ("filename=\"a.png\"; filename*=nonsense''b.png", "a.png"),
        ("filename*=idna''%ff.png", None),
        ("filename*=utf-8''%ff.png", None),
        ("filename*=unicode_escape''%5Cud800", None),
        ("filename=a.png; filename*=utf-7''+2AA-", "a.png"),
        ("filename*=x", None),
        ("filename*=x; filename=a.png", "a.png"),
        ("filename*=utf-8", None),
        ("filename*=utf-8'x", None),
        ("filename*=", None),
        ('filename=""', None),
        ("filename=\"a; filename*=UTF-8''b.png\"", "a; filename*=UTF-8''b.png"),
        ('filename="röntgen.png"', "röntgen.png"),
    ],
)
def test_the_name_of_a_file_in_a_form(
    answering: TestClient, parameters: str, name: str | None
) -> None:
    disposition = f'Content-Disposition: form-data; name="file"; {parameters}'
    head = f"--b\r\n{disposition}\r\nContent-Type: image/png\r\n\r\n".encode()
    body = head + png(1) + b"\r\n--b--\r\n"
    reply = answering.post("/v1/predict", content=body, headers=FORM)
    assert reply.status_code == 200, reply.text
    [prediction] = reply.json()["predictions"]
    assert prediction["file"] == name
    assert prediction["warnings"] == [f"PNG called {name}"]


def test_a_charset_of_a_form_that_gives_no_text_is_no_failure(answering: TestClient) -> None:
    head = 'Content-Disposition: form-data; name="file"; filename="a+2AA-"'
    body = f"--b\r\n{head}\r\n\r\n".encode() + png(1) + b"\r\n--b--\r\n"
    kind = FORM["content-type"] + "; charset=utf-7"
    reply = answering.post("/v1/predict", content=body, headers={"content-type": kind})
    assert reply.status_code == 200, reply.text
    assert reply.json()["predictions"][0]["file"] == "a?"


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/docs", "/openapi.json", "/nothing"])
@pytest.mark.parametrize("kind", [Host, AnsweringHost])
def test_head_is_answered_as_get_without_the_body(path: str, kind: type[Host]) -> None:
    with client(kind=kind) as http:
        got, headed = http.get(path), http.head(path)
    assert headed.status_code == got.status_code
    assert headed.content == b""
    assert headed.headers["content-type"] == got.headers["content-type"]
    assert headed.headers["content-length"] == got.headers["content-length"]


def test_a_slash_at_the_end_of_a_path_changes_nothing(answering: TestClient) -> None:
    for path in ("/v1/predict/", "/v1/predict//"):
        reply = answering.post(path, content=png(1), headers=PNG)
        assert reply.status_code == 200
        assert reply.json()["predictions"][0]["predicted"] == "a"
    for path in ("/healthz/", "/readyz/", "/docs/"):
        assert answering.get(path).status_code == 200
    assert answering.get("/").status_code == 404
    assert answering.get("/v1/").status_code == 404


def test_an_uncompressed_radiograph_of_30_mb_fits(answering: TestClient) -> None:
    data = png(1) + bytes(30_000_000)
    raw = answering.post("/v1/predict", content=data, headers=PNG)
    form = answering.post("/v1/predict", files={"file": ("a.png", data)})
    assert (raw.status_code, form.status_code) == (200, 200)
