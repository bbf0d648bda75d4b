"""A refusal of a body: at once where nothing more is sent, else when all has come in."""

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import pytest

from serve.api import build_api
from serve.settings import AppSettings

pytestmark = pytest.mark.fast

LIMIT = 1000
SETTINGS = AppSettings(max_body_bytes=LIMIT, max_files=2)
# Far less than a client may still send after its refusal.
AT_ONCE_S = 3


def post(chunks: list[bytes], **headers: str) -> tuple[int, str, int]:
    """Send chunks and stay connected: the status, the detail, and how many chunks were left."""
    host: Any = SimpleNamespace(settings=SETTINGS, predictor=object(), refused=None)
    left = list(chunks)
    sent: list[Any] = []

    async def receive() -> Any:
        if not left:
            await asyncio.Event().wait()
        body = left.pop(0)
        return {"type": "http.request", "body": body, "more_body": bool(left)}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/v1/predict",
        "raw_path": b"/v1/predict",
        "query_string": b"",
        "root_path": "",
        "headers": [
            (name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()
        ],
    }
    asyncio.run(asyncio.wait_for(build_api(host)(scope, receive, send), AT_ONCE_S))
    body = b"".join(message.get("body", b"") for message in sent)
    assert not sent[-1].get("more_body", False)
    return sent[0]["status"], json.loads(body)["detail"], len(left)


def test_a_body_that_has_come_in_is_refused_at_once() -> None:
    status, detail, _ = post([bytes(LIMIT), b"1"], content_type="image/png")
    assert (status, "larger than the limit" in detail) == (413, True)


def test_too_many_files_are_refused_at_once() -> None:
    head = '--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n\r\n'
    form = (head * 3 + "--b--\r\n").encode()
    status, detail, _ = post([form], content_type="multipart/form-data; boundary=b")
    assert (status, "Too many files" in detail) == (413, True)


def test_a_client_that_asks_first_is_not_told_to_send() -> None:
    size = str(LIMIT + 1)
    status, _, left = post([bytes(LIMIT + 1)], content_length=size, expect="100-continue")
    assert (status, left) == (413, 1)


@pytest.mark.parametrize("declared", [True, False])
def test_what_is_still_sent_is_read_to_its_end(declared: bool) -> None:
    headers = {"content_length": str(3 * LIMIT)} if declared else {}
    status, _, left = post([bytes(LIMIT), bytes(LIMIT), bytes(LIMIT)], **headers)
    assert (status, left) == (413, 0)
