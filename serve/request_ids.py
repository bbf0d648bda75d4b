"""The id of a request: in `request.state.request_id`, in the reply's header and in the log."""

import re
import uuid

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_HEADER = b"x-request-id"
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class RequestIds:
    """Middleware that keeps the client's id if it is a short plain token, otherwise makes one."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        sent = dict(scope["headers"]).get(_HEADER, b"").decode("latin-1")
        kept = _PLAIN.fullmatch(sent) is not None
        request_id = sent if kept else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id

        async def send_with_id(message: Message) -> None:
            # Ray Serve puts an id on requests without one, and repeats it in the reply.
            if message["type"] == "http.response.start" and not kept:
                message["headers"] = [(_HEADER, request_id.encode()), *message["headers"]]
            await send(message)

        await self._app(scope, receive, send_with_id)
