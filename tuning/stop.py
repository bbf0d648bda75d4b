"""The end of a search: the one thing that its threads share."""

import threading
from typing import Any

import ray

from ctray.session import cluster_has_died


class StopSignal:
    """Says that nothing more is to be begun, and what is at work is to save and end.

    Any thread may set it, any number of times: the timer of the time budget, a lane that ended, and
    the coordinator after an error.
    """

    def __init__(self, desk: Any) -> None:
        """Begin unset; `desk` is the handle of the actor, which is told."""
        self._desk = desk
        self._event = threading.Event()

    def set(self) -> None:
        """End the search."""
        self._event.set()
        if ray_hears():
            self._desk.close.remote()

    def is_set(self) -> bool:
        """Whether the search is to end."""
        return self._event.is_set()


def ray_hears() -> bool:
    """Whether Ray can be asked: a lane may come home after the cluster's death or this session."""
    return ray.is_initialized() and not cluster_has_died()
