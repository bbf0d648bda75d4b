"""Routes: one file a protocol, each with `router(host)`, which makes its FastAPI router.

A new protocol is one file here and one line in PROTOCOLS. It reads bodies with `read_body` and
`form_files` of serve/guards/body.py only: they hold the limits.
"""

from collections.abc import Callable

from fastapi import APIRouter

from serve.host import ModelHost
from serve.routes import health, v1

Router = Callable[[ModelHost], APIRouter]

# Every request to these passes the guards of serve/guards/ first.
PROTOCOLS: tuple[Router, ...] = (v1.router,)
# Open to everyone: who asks whether a process lives has no key and must not be turned away.
PROBES: tuple[Router, ...] = (health.router,)
