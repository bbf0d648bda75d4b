"""The HTTP application, put together from its parts; nothing here knows about Ray."""

from fastapi import Depends, FastAPI
from fastapi_offline import FastAPIOffline

import ctray
from serve.guards import GUARDS
from serve.host import ModelHost
from serve.plain_requests import PlainRequests
from serve.problems import answer_with_problems
from serve.request_ids import RequestIds
from serve.routes import PROBES, PROTOCOLS

_DESCRIPTION = (
    "Classifies chest images. Not a medical device.\n\n"
    "A refusal by the service is a Problem, as JSON. A request that never reaches it is refused as "
    "text: 429 when every replica is busy, and errors of the ingress."
)


def build_api(host: ModelHost) -> FastAPI:
    """Every route, over the model that `host` has at the time of each request."""
    api = FastAPIOffline(
        title="ctray", version=ctray.__version__, description=_DESCRIPTION, redoc_url=None
    )
    api.add_middleware(PlainRequests)
    api.add_middleware(RequestIds)
    answer_with_problems(api)
    guards = [Depends(make_guard(host.settings)) for make_guard in GUARDS]
    for router in PROTOCOLS:
        api.include_router(router(host), dependencies=guards)
    for router in PROBES:
        api.include_router(router(host))
    return api
