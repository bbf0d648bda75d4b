"""Follow a run: what its first worker reports is passed on to trackers and to a listener.

The worker puts messages into a queue, an actor; a thread of the driver takes them out.
"""

import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.queue import Queue

from ctray.session import cluster_has_died
from ctray.training.history import HistoryRow
from ctray.training.trackers import Trackers

# The actor between worker and driver: when it dies a new one takes its place.
_MESSENGER = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1}
# Longer no dead cluster is waited for.
_LAST_WORD_S = 5.0


class RunListener(Protocol):
    """Watches a run; called from a thread."""

    def start(self, step: int, interval: int, workers: int, replaced: bool) -> None:
        """The workers are ready.

        Args:
            step: steps done before; what was done after this checkpoint is lost.
            interval: the most steps between two checkpoints.
            workers: how many there are.
            replaced: whether they take the place of workers that died.
        """
        ...

    def first(self, times: dict[str, float]) -> None:
        """The first step of these workers is done.

        Args:
            times: in seconds since the epoch: `started` (the worker), `ready` (the model),
                `arrived` (the batch), `done` (the step).
        """
        ...

    def progress(self, step: int, steps: int) -> None:
        """So many of all steps are done."""
        ...

    def row(self, row: HistoryRow) -> None:
        """An evaluation."""
        ...

    def say(self, text: str) -> None:
        """Something worth a line."""
        ...


@contextlib.contextmanager
def message_queue(trackers: Trackers, listener: RunListener) -> Iterator[Queue]:
    """The queue for a run's messages, read by a thread for a block.

    When the block ends, what is left is passed on, and the trackers are closed: as finished when
    the block raised nothing.
    """
    messages = Queue(actor_options=_MESSENGER)
    finished, silent = False, threading.Event()
    with ThreadPoolExecutor(1) as thread:
        reading = thread.submit(_pass_on, messages, silent, trackers, listener)
        try:
            yield messages
            finished = True
        finally:
            # Whatever ends this, the reader must not wait for what cannot come.
            try:
                _end(messages, reading, finished)
            finally:
                silent.set()
            reading.result()
            trackers.close(finished)


def _pass_on(
    messages: Queue, silent: threading.Event, trackers: Trackers, listener: RunListener
) -> None:
    """Pass on what the first worker says until the driver puts None."""
    replaced = False
    while (message := _next(messages, silent)) is not None:
        kind, content = message
        if kind == "start":
            trackers.start(content["history"])
            listener.start(content["step"], content["interval"], content["workers"], replaced)
            replaced = True
        elif kind == "first":
            listener.first(content)
        elif kind == "progress":
            listener.progress(content["step"], content["steps"])
        elif kind == "row":
            trackers.row(content)
            listener.row(content)
        else:
            listener.say(content)


def _next(messages: Queue, silent: threading.Event) -> tuple[str, Any] | None:
    """The next message; None at the end, and once `silent` is set: nothing can come any more."""
    pending = messages.actor.get.remote()  # type: ignore[attr-defined]
    while not silent.is_set():
        try:
            return ray.get(pending, timeout=_LAST_WORD_S)
        except GetTimeoutError:
            continue
        except RayError:
            # The cluster is dead, which the run itself reports.
            break
    return None


def _end(messages: Queue, reading: Future[None], finished: bool) -> None:
    """Put the last message, and wait a while for what is left; not for a cluster that is dead."""
    if cluster_has_died():
        return
    last = messages.actor.put.remote(None)  # type: ignore[attr-defined]
    with contextlib.suppress(RayError, TimeoutError):
        ray.get(last, timeout=_LAST_WORD_S)
        _wait_for(reading, messages, finished)


def _wait_for(reading: Future[None], messages: Queue, finished: bool) -> None:
    """Wait a while for what is left to be passed on; of a good run all, however slow a tracker is.

    Raises:
        TimeoutError: it takes too long, or nothing can come any more.
    """
    while True:
        try:
            return reading.result(timeout=_LAST_WORD_S)
        except TimeoutError:
            left = ray.get(messages.actor.qsize.remote(), timeout=_LAST_WORD_S)  # type: ignore[attr-defined]
            if not (finished and left):
                raise
