"""Requests in the one form that the routes know, however clients and load balancers write them."""

from starlette.types import ASGIApp, Receive, Scope, Send


class PlainRequests:
    """Middleware that asks HEAD as GET, and takes a path with a slash at its end without it.

    The server leaves the body of the answer to a HEAD out. A redirect to the path without the slash
    would cost a client that follows none its answer, and others a second upload.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            method = "GET" if scope["method"] == "HEAD" else scope["method"]
            # A copy: by its own, the server knows that it must not send a body.
            scope = {**scope, "method": method, "path": scope["path"].rstrip("/") or "/"}
        await self._app(scope, receive, send)
