"""The desk: a queue of jobs from the search to its lanes, and of what they report, back to it.

The search's coordinator hands a trial's job in. A lane is a Ray Train run whose workers stay: they
take one job after the other, so that only the first pays for the start of processes and the import
of torch. Tune's proxy of the trial waits here for what the lane reports. Whoever dies comes back
and asks again; the desk knows what each was doing. It is an actor with one event loop: that, and
the condition `_change`, is what keeps its state whole.
"""

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Literal, TypedDict

from ctray.training.job import Job

TrialVerdict = Literal["more", "enough"]
# Deaths of a lane's process in one job without an evaluation between them: the second time the job
# is to blame.
_DEATHS = 2
# The other workers of a lane wait for the first one's word, and give up after half an hour.
_LATER_S = 300.0
_UNKNOWN = "too little memory for this model and batch size?"

Kind = Literal["start", "row", "model", "end"]


class TrialJob(TypedDict):
    """What a lane is to do.

    Attributes:
        number: of the trial.
        training: what every worker is told; it resumes from the checkpoints that are there.
        bundle: folder for the bundle of a finished trial.
        known: evaluations that are on record from an earlier start.
        measures: whether the latency of this model is to be measured first.
        budget_ms: above this latency it is not trained; None: no limit.
    """

    number: int
    training: Job
    bundle: str
    known: int
    measures: bool
    budget_ms: float | None


class Event(TypedDict):
    """Something that a trial waits for.

    `start`: a `lane` begins after `step` steps, its process having died `deaths` times; `row`: an
    evaluation; `model`: latency and size; `end`: nothing follows, `content` has `ended` (finished,
    stopped, cut, slow, unsaved or failed), `reason`, of an unsaved one the
    `arguments` that the fix is about, and of a slow one its `latency_ms`.
    """

    kind: Kind
    content: dict[str, Any]


# What a trial hears when the search ends before it.
_CUT_SHORT: Event = {"kind": "end", "content": {"ended": "cut", "reason": ""}}


@dataclass
class _Case:
    """A job and what is known of it."""

    job: TrialJob
    events: list[Event] = field(default_factory=list)
    rows: int = 0
    # Evaluations that the search has seen, and after which it wants the training to continue.
    wanted: int = 0
    verdict: TrialVerdict = "more"
    deaths: int = 0
    blamed: str = _UNKNOWN

    @property
    def is_closed(self) -> bool:
        return bool(self.events) and self.events[-1]["kind"] == "end"


class Desk:
    """The actor; its methods run in one event loop, and wait without blocking one another."""

    def __init__(self) -> None:
        self._cases: dict[int, _Case] = {}
        self._waiting: deque[int] = deque()
        self._in_lane: dict[int, int] = {}
        self._turns: dict[int, int] = {}
        self._is_over = False
        self._change = asyncio.Condition()

    # ── the trial's side ─────────────────────────────────────────────────────────────────────────

    async def submit(self, job: TrialJob) -> None:
        """Hand a job in; a job that is known, of a trial whose actor was given up, stays."""
        async with self._change:
            if job["number"] not in self._cases:
                self._cases[job["number"]] = _Case(job, rows=job["known"], wanted=job["known"])
                self._waiting.append(job["number"])
                self._change.notify_all()

    async def next(self, number: int, seen: int) -> Event:
        """The event after the first `seen` ones; whoever asks for it wants more training."""
        async with self._change:
            # The job may still be on its way.
            await self._change.wait_for(lambda: number in self._cases or self._is_over)
            case = self._cases.get(number)
            if case is None:
                return _CUT_SHORT
            judged = case.job["known"] + sum(one["kind"] == "row" for one in case.events[:seen])
            # A trial whose actor died begins to ask anew.
            case.wanted = max(case.wanted, judged)
            self._change.notify_all()
            await self._change.wait_for(lambda: len(case.events) > seen or self._is_over)
        if len(case.events) > seen:
            return case.events[seen]
        return _CUT_SHORT

    async def dismiss(self, number: int) -> None:
        """No more of this trial is wanted; one that was never handed in needs no word."""
        async with self._change:
            if number in self._cases:
                self._cases[number].verdict = "enough"
                self._change.notify_all()

    # ── the lane's side ──────────────────────────────────────────────────────────────────────────

    async def take(self, lane: int) -> TrialJob | Literal["later"] | None:
        """The next job of a lane, None when there are no more, `later` to ask again.

        A lane that asks while it has a job has died in it; it gets the same again, once.
        """
        async with self._change:
            # Of a caller that died while it waited the question is still here.
            turn = self._turns[lane] = self._turns.get(lane, 0) + 1
            self._change.notify_all()
            number = self._in_lane.pop(lane, None)
            if number is not None and self._is_wanted(number):
                case = self._cases[number]
                case.deaths += 1
                if case.deaths < _DEATHS:
                    self._in_lane[lane] = number
                    return case.job
                reason = f"its process died twice: {case.blamed}"
                self._add(number, "end", {"ended": "failed", "reason": reason})
            try:
                async with asyncio.timeout(_LATER_S):
                    await self._change.wait_for(
                        lambda: self._waiting or self._is_over or self._turns[lane] != turn
                    )
            except TimeoutError:
                return "later"
            if self._is_over or self._turns[lane] != turn:
                return None
            number = self._in_lane[lane] = self._waiting.popleft()
            return self._cases[number].job

    async def tell(self, number: int, kind: Kind, content: Any) -> None:
        """Note an evaluation or a figure; evaluations that are known already are passed over."""
        async with self._change:
            case = self._cases[number]
            if case.is_closed:
                return
            if kind == "row":
                if content["evaluation"] <= case.rows:
                    return
                case.rows = content["evaluation"]
                # What killed the process before was not the job.
                case.deaths, case.blamed = 0, _UNKNOWN
            elif kind == "start":
                content = content | {"deaths": case.deaths}
            self._add(number, kind, content)

    async def verdict(self, number: int, evaluation: int) -> TrialVerdict:
        """Wait until the search has judged an evaluation."""
        case = self._cases[number]
        async with self._change:
            await self._change.wait_for(
                lambda: case.wanted >= evaluation or case.verdict == "enough" or self._is_over
            )
        return case.verdict

    async def blame(self, number: int, cause: str) -> None:
        """Say what is about to end a process at work on this job."""
        self._cases[number].blamed = cause

    async def end(self, lane: int, number: int, content: dict[str, Any]) -> None:
        """A lane is done with a job."""
        async with self._change:
            self._in_lane.pop(lane, None)
            if not self._cases[number].is_closed:
                self._add(number, "end", content)

    # ── the search's side ────────────────────────────────────────────────────────────────────────

    async def close(self) -> None:
        """Nothing more is to be done: trainings save and end, lanes go home."""
        async with self._change:
            self._is_over = True
            self._change.notify_all()

    async def is_at_work(self) -> bool:
        """Whether a lane has a job that it has not ended."""
        return bool(self._in_lane)

    async def closing(self) -> None:
        """Return when the desk closes."""
        async with self._change:
            await self._change.wait_for(lambda: self._is_over)

    def _is_wanted(self, number: int) -> bool:
        case = self._cases[number]
        return not (case.is_closed or case.verdict == "enough" or self._is_over)

    def _add(self, number: int, kind: Kind, content: Any) -> None:
        self._cases[number].events.append({"kind": kind, "content": content})
        self._change.notify_all()
