"""Whether the process lives and is ready: for load balancers and `ctray serve` itself."""

from fastapi import APIRouter

from serve.host import ModelHost, loaded
from serve.problems import problems
from serve.schema import StatusReply


def router(host: ModelHost) -> APIRouter:
    """GET /healthz and /readyz."""
    routes = APIRouter()

    @routes.get("/healthz", summary="The process is alive")
    async def healthz() -> StatusReply:
        return StatusReply(status="alive")

    @routes.get(
        "/readyz",
        summary="A model is loaded and warm",
        responses=problems({503: "no model is loaded yet"}),
    )
    async def readyz() -> StatusReply:
        loaded(host)
        return StatusReply(status="ready")

    return routes
