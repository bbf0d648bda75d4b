"""Guards: what every request to a protocol must pass before its route runs.

A guard is a FastAPI dependency that is made once from the settings, and that raises HTTPException
to refuse a request. A new one (an API key check, a rate limit) is one file here and one line in
GUARDS. What a route reads goes through body.py, which holds the limits of a request body.
"""

from collections.abc import Awaitable, Callable

from serve.guards.body import DeclaredSize
from serve.settings import AppSettings

Guard = Callable[..., Awaitable[None]]

# In the order in which they are asked.
GUARDS: tuple[Callable[[AppSettings], Guard], ...] = (DeclaredSize,)
