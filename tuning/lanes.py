"""The lanes of one command, as its own process sees them: started, waited for, checked.

Each lane is one run of Ray Train (its workers are in `tuning.lane`), followed in a thread that does
nothing else: it touches no state of the search, and calls back once, when its lane has ended.
"""

import contextlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any

import ray
from ray.exceptions import RayError

from ctray.training.plan import Plan
from ctray.training.ray_train import build_trainer, fit
from tuning.lane import run_lane

# A lane without a trial is home by then, unless it never started.
_HOME_S = 20.0
# What a lane has to come to its next look, some steps away, and to save.
_SAVED_S = 600.0


class Lanes:
    """As many lanes as trials are trained at the same time."""

    def __init__(self, desk: Any, plan: Plan, restarts: int) -> None:
        """Describe them; nothing starts yet.

        Args:
            desk: handle of the actor where they fetch their jobs.
            plan: of the workers; `plan.runs` is the number of lanes.
            restarts: how often the workers of a lane are replaced.
        """
        self._desk, self._plan, self._restarts = desk, plan, restarts
        self._ends: list[Future[None]] = []

    def start(self, scratch: str, on_end: Callable[[], None]) -> None:
        """Start them all.

        Args:
            scratch: local folder for what Ray Train itself writes.
            on_end: called by the thread of a lane that ends, well or not.
        """
        self._ends = [
            self._start_lane(number, f"{scratch}/lane-{number}")
            for number in range(self._plan.runs)
        ]
        for end in self._ends:
            end.add_done_callback(lambda _: on_end())

    def wait(self) -> None:
        """Let lanes save and go home; a lane that waits for a busy cluster's CPUs is left."""
        deadline = time.monotonic() + _SAVED_S
        with contextlib.suppress(RayError):
            # A dead desk or cluster gives no answer, and does not send its lanes home.
            ray.get(self._desk.is_at_work.remote(), timeout=_HOME_S)
            while wait(self._ends, timeout=_HOME_S).not_done and time.monotonic() < deadline:
                if not ray.get(self._desk.is_at_work.remote(), timeout=_HOME_S):
                    return

    def when_all_have_ended(self, action: Callable[[], None]) -> None:
        """Do something once no lane is left: now, or in the thread of the last lane."""

        def check(_: Future[None]) -> None:
            if all(end.done() for end in self._ends):
                action()

        for end in self._ends:
            end.add_done_callback(check)

    def check(self) -> None:
        """Raise what ended a lane, if it was an error."""
        for end in self._ends:
            if end.done():
                end.result()

    def _start_lane(self, number: int, scratch: str) -> Future[None]:
        """Run a lane in a thread, for which the end of this process does not wait."""
        end: Future[None] = Future()

        def run() -> None:
            try:
                config = {"desk": self._desk, "lane": number}
                trainer = build_trainer(run_lane, config, self._plan, scratch, self._restarts)
                fit(trainer, "run the same command again")
            except BaseException as error:
                end.set_exception(error)
            else:
                end.set_result(None)

        threading.Thread(target=run, name=f"lane {number}", daemon=True).start()
        return end
