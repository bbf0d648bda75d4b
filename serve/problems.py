"""How the application refuses: every error that is raised in it is answered with a Problem.

What never reaches the application is answered by Ray Serve or HAProxy, as text: 429 when every
replica is busy, and whatever goes wrong between HAProxy and the replicas.
"""

import asyncio
import logging
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from serve.guards.body import UnfinishedBody
from serve.schema import Problem

logger = logging.getLogger("ray.serve")

# How long what a client still sends is read and thrown away after its refusal.
_DRAIN_S = 10.0

Responses = dict[int | str, dict[str, Any]]

# Ray Serve answers this itself once a replica has MAX_ONGOING and MAX_QUEUED requests.
BUSY: Responses = {
    429: {
        "description": "busy: repeat after the seconds in Retry-After",
        "content": {"text/plain": {"schema": {"type": "string"}}},
        "headers": {"Retry-After": {"schema": {"type": "integer"}}},
    }
}


def problems(statuses: dict[int, str]) -> Responses:
    """The `responses` of a route that answers these statuses with a Problem, for OpenAPI."""
    return {status: {"model": Problem, "description": text} for status, text in statuses.items()}


def answer_with_problems(api: FastAPI) -> None:
    """Turn every exception of the application into a Problem."""
    api.add_exception_handler(HTTPException, _answer_refusal)
    api.add_exception_handler(Exception, _answer_failure)


async def _answer_refusal(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    detail = str(error.detail)
    if error.status_code in (404, 405):
        detail = f"there is no {request.method} {request.url.path}; see /docs"
    problem = Problem(detail=detail, request_id=request.state.request_id)
    answer = _AnswerWhileSending if isinstance(error, UnfinishedBody) else JSONResponse
    return answer(problem.model_dump(), error.status_code, headers=error.headers)


async def _answer_failure(request: Request, error: Exception) -> Response:
    request_id = request.state.request_id
    logger.error("request %s failed", request_id, exc_info=error)
    problem = Problem(detail="the service failed on this request", request_id=request_id)
    return JSONResponse(problem.model_dump(), 500)


class _AnswerWhileSending(JSONResponse):
    """An answer that a client can read although it has not sent its whole body.

    A connection that is closed with unread bytes is reset: the client, most clients first send all,
    would see a broken pipe in place of the answer. So the answer goes out whole, and the connection
    is closed when the body has come in, or after some seconds (nginx calls it a lingering close).
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send(
            {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        )
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        try:
            await asyncio.wait_for(_read_to_the_end(receive), _DRAIN_S)
        except TimeoutError:
            logger.info("a client kept sending for %g s after its refusal", _DRAIN_S)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _read_to_the_end(receive: Receive) -> None:
    while (await receive()).get("more_body", False):
        pass
